"""What outlives an engine: checkpoints between runs, and within a run what vLLM knows of a model's class."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

CACHE_VARIABLE = "BI_HARNESS_CACHE"


def model_cache(environ: Mapping[str, str]) -> Path:
    """``models`` in ``$BI_HARNESS_CACHE``, ``$XDG_CACHE_HOME/bi-harness`` or ``~/.cache/bi-harness``."""
    if chosen := environ.get(CACHE_VARIABLE):
        root = Path(chosen)
    elif xdg := environ.get("XDG_CACHE_HOME"):
        root = Path(xdg) / "bi-harness"
    else:
        root = Path.home() / ".cache" / "bi-harness"
    return root.absolute() / "models"


def share_model_infos(cache_root: Path, shared: Path) -> None:
    """Let engines with caches of their own share what vLLM notes of a model's class.

    vLLM finds it out in a process that imports the class, which takes as long as half an engine's start, and
    keeps it under ``modelinfos`` of its cache, with a digest of the source it is of. It is no compiled code.

    Args:
        cache_root: an engine's ``VLLM_CACHE_ROOT``.
        shared: a folder of the run's.
    """
    infos, link = shared / "modelinfos", cache_root / "modelinfos"
    infos.mkdir(parents=True, exist_ok=True)
    cache_root.mkdir(parents=True, exist_ok=True)
    if not link.exists():
        link.symlink_to(infos.absolute())
