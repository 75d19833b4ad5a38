"""What is in a compile cache, and what a start left there: an engine's counters do not tell of all of it.

Torch's C++ kernels, say, are looked up by their source; no counter of vLLM or torch tells one that was found
from one that was built.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from bi_harness.certificate.startup import CacheChange

KERNELS = (".so", ".cubin", ".hsaco")
"""Compiled code: C++ (and Triton's launchers), CUDA, ROCm."""

_PASSING = (".lock", ".tmp")

Files = Mapping[str, tuple[int, int, int]]
"""Path below the folder → time of change in ns, size in bytes, inode: a file that is replaced has another."""


def files(folder: Path) -> Files:
    """The files of a cache; none where it is not there. Locks do not count, links are not followed."""
    found: dict[str, tuple[int, int, int]] = {}
    for where, _, names in os.walk(folder):
        for name in names:
            path = Path(where) / name
            if path.is_symlink() or path.suffix in _PASSING:
                continue
            stat = path.stat()
            found[path.relative_to(folder).as_posix()] = (stat.st_mtime_ns, stat.st_size, stat.st_ino)
    return found


def change(before: Files, after: Files) -> CacheChange:
    """What is in the cache now that was not, or was another."""
    added = [name for name in after if name not in before]
    rewritten = [name for name in after if name in before and after[name] != before[name]]
    kernels = sum(Path(name).suffix in KERNELS for name in (*added, *rewritten))
    return CacheChange(len(added), len(rewritten), kernels)
