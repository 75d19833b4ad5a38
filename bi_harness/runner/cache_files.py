"""What is in a compile cache, and what a start left there: an engine's counters do not tell of all of it.

Torch's C++ kernels, say, are looked up by their source; no counter of vLLM or torch tells one that was found
from one that was built.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from bi_harness.certificate.startup import CacheChange

KERNELS = (".so", ".cubin", ".hsaco")
"""Compiled code: C++ (and Triton's launchers), CUDA, ROCm."""

_PASSING = (".lock", ".tmp")

_TUNED = ".best_config"
"""Which of a kernel's configurations was the fastest, as Inductor measured it and keeps it."""

_MEASURED = ("time_taken_ms", "triton_cache_hash", "configs_hash", "found_by_coordesc")


@dataclass(frozen=True, slots=True)
class File:
    """A file of the cache.

    Attributes:
        mtime_ns, size, inode: a file that is replaced has another inode.
        tuned: the configuration that it says is the fastest, as ``(("XBLOCK", "64"), ...)``; empty in others.
    """

    mtime_ns: int
    size: int
    inode: int
    tuned: tuple[tuple[str, str], ...] = ()


Files = Mapping[str, File]
"""By path below the folder."""


def files(folder: Path) -> Files:
    """The files of a cache; none where it is not there. Locks do not count, links are not followed."""
    found: dict[str, File] = {}
    for where, _, names in os.walk(folder):
        for name in names:
            path = Path(where) / name
            if path.is_symlink() or path.suffix in _PASSING:
                continue
            stat = path.stat()
            tuned = _tuned(path) if path.suffix == _TUNED else ()
            name = path.relative_to(folder).as_posix()
            found[name] = File(stat.st_mtime_ns, stat.st_size, stat.st_ino, tuned)
    return found


def change(before: Files, after: Files) -> CacheChange:
    """What is in the cache now that was not, or was another."""
    added = [name for name in after if name not in before]
    rewritten = [name for name in after if name in before and after[name] != before[name]]
    kernels = [Path(name).name for name in (*added, *rewritten) if Path(name).suffix in KERNELS]
    retuned = [name for name in rewritten if before[name].tuned != after[name].tuned]
    return CacheChange(
        len(added),
        len(rewritten),
        len(kernels),
        tuple(f"{name} ({times})" for name, times in sorted(Counter(map(_kernel, kernels)).items())),
        tuple(_changed(name, before[name], after[name]) for name in sorted(retuned)),
    )


def _kernel(file: str) -> str:
    """``bmm_kernel`` of ``bmm_kernel.cubin``, ``__triton_launcher`` of its shared object."""
    return file.partition(".")[0]


def _tuned(path: Path) -> tuple[tuple[str, str], ...]:
    """What the file says; nothing where that cannot be read: it explains, and judges nothing."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return ()
    if not isinstance(found, dict):
        return ()
    return tuple(sorted((str(key), str(value)) for key, value in found.items() if key not in _MEASURED))


def _changed(name: str, before: File, after: File) -> str:
    old, new = dict(before.tuned), dict(after.tuned)
    changes = [f"{k} {old.get(k, '-')} to {new.get(k, '-')}" for k in old | new if old.get(k) != new.get(k)]
    return f"{Path(name).stem[:8]}: {', '.join(changes)}"
