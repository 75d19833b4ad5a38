"""What outlives an engine: checkpoints between runs, and within a run what vLLM knows of a model's class."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

CACHE_VARIABLE = "BI_HARNESS_CACHE"


@dataclass(frozen=True, slots=True)
class SharedStart:
    """What the engines of several runs of one self-test share, so that they start sooner.

    Attributes:
        caches: the folder of the caches that all engines of a run share: vLLM's notes on a model's class, the
            digests of checkpoints, and the code that Inductor compiled for eager engines. Inductor looks up
            code by the traced graph, so an engine with a planted fault finds none that was compiled without
            it. The compile caches of ``compile`` cells are not in this folder: vLLM looks those up by
            configuration, which a planted fault does not change.
        preload: the socket of a process to fork engines from (``runner.preload``); ``None`` for none.
    """

    caches: Path
    preload: Path | None


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
