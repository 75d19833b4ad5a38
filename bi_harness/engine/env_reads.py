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
    "torch.cuda",
    "torch._inductor.runtime.cache_dir_utils",
}
"""Modules that read for others: who asked them is who reads."""

_WHOLE = {"__iter__", "copy", "values", "items"}
"""Functions that hand out all variables at once: nobody is known to look at any one of them."""


@contextmanager
def environment_reads() -> Iterator[set[tuple[str, str]]]:
    """What is read of ``os.environ`` meanwhile, as (variable, name of the module that reads it).

    Reads of the whole (``dict(os.environ)``, as for a child process) are left out, and so is what C code asks
    of ``getenv``.
    """
    kind: Any = type(os.environ)
    getitem, keys = kind.__getitem__, kind.keys
    found: set[tuple[str, str]] = set()
    merging: list[tuple[Any, int]] = [(None, -1)]

    def all_names(self: Any) -> Any:
        # ``dict(x)`` and ``{**x}`` ask for the names, and then, in the same instruction, for each value.
        frame = sys._getframe(1)
        merging[0] = (frame, frame.f_lasti)
        return keys(self)

    def read(self: Any, name: Any) -> Any:
        frame = sys._getframe(1)
        handed_out = frame.f_code.co_name in _WHOLE and frame.f_globals.get("__name__") in _PASSES_ON
        if not handed_out and merging[0] != (frame, frame.f_lasti):
            reader = frame
            while reader.f_back is not None and reader.f_globals.get("__name__") in _PASSES_ON:
                reader = reader.f_back
            found.add((str(name), str(reader.f_globals.get("__name__"))))
        return getitem(self, name)

    kind.__getitem__, kind.keys = read, all_names
    try:
        yield found
    finally:
        kind.__getitem__ = getitem
        del kind.keys  # it is inherited
