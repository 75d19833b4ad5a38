"""Where checkpoints made on the spot are kept between runs."""

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
