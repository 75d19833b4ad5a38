"""Which environment variables Python code reads, and from where. Worker side: standard library alone."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_PASSES_ON = {
    "os",
    "_collections_abc",
    "collections.abc",
    "vllm.envs",
    "torch._inductor.runtime.cache_dir_utils",
}
"""Modules that read for others: who asked them is who reads."""

_WHOLE = {"__iter__", "copy", "values", "items"}
"""Functions that hand out all variables at once: nobody is known to look at any one of them."""


@contextmanager
def environment_reads() -> Iterator[set[tuple[str, str]]]:
    """What is read of ``os.environ`` meanwhile, as (variable, name of the module that reads it).

    Reads of the whole (``os.environ.copy()``, as for a child process) are left out, and so is what C code
    asks of ``getenv``.
    """
    kind: Any = type(os.environ)
    original = kind.__getitem__
    found: set[tuple[str, str]] = set()

    def read(self: Any, name: Any) -> Any:
        frame = sys._getframe(1)
        if frame.f_code.co_name not in _WHOLE or frame.f_globals.get("__name__") not in _PASSES_ON:
            reader = frame
            while reader.f_back is not None and reader.f_globals.get("__name__") in _PASSES_ON:
                reader = reader.f_back
            found.add((str(name), str(reader.f_globals.get("__name__"))))
        return original(self, name)

    kind.__getitem__ = read
    try:
        yield found
    finally:
        kind.__getitem__ = original
