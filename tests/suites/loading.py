"""A suite's module without pytest: what it sends can be looked at without an engine."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType


def load(path: Path) -> ModuleType:
    """The module in that file, made anew."""
    spec = importlib.util.spec_from_file_location(f"plan_of_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found
