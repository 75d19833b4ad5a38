"""The digest of a checkpoint's bytes, computed once for all engines of a run.

Worker side: standard library alone.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

DONE = "bi_harness.json"
"""Of a checkpoint that was made on the spot: written last, with the digest; a folder without it is none."""

SETTLED_S = 2.0
"""A file that changed within this time before it was read is not noted: the clock of a file system ticks, and
what is written within a tick of the reading would have the same times."""

_Stamps = list[list[str | int]]


def checkpoint_digest(folder: Path) -> str:
    """``sha256:...`` over the names and bytes of every file in ``folder`` (but ``DONE``)."""
    total = hashlib.sha256()
    for path in _files(folder):
        with open(path, "rb") as file:
            total.update(f"{path.name}\0{hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
    return f"sha256:{total.hexdigest()}"


def digest_in_run(folder: Path, notes: Path | None) -> str:
    """``checkpoint_digest``, or what another engine of this run has found it to be.

    Engines of a run start together, and each would read the same gigabytes. One reads, the others wait; then
    they compare every file's device, inode, size and times, of which the kernel alone sets one (ctime), at
    each change.

    Args:
        folder: the checkpoint.
        notes: a folder of the run's own, in which no other run writes; ``None`` to read the files.
    """
    if notes is None:
        return checkpoint_digest(folder)
    notes.mkdir(parents=True, exist_ok=True)
    name = hashlib.sha256(os.fsencode(folder.resolve())).hexdigest()[:32]
    note = notes / f"{name}.json"
    with locked(notes / f"{name}.lock"):
        before = _stamps(folder)
        if (found := _noted(note, before)) is not None:
            return found
        digest = checkpoint_digest(folder)
        if _settled(before) and _stamps(folder) == before:
            note.write_text(json.dumps({"digest": digest, "files": before}), encoding="utf-8")
        return digest


@contextmanager
def locked(path: Path, *, shared: bool = False) -> Iterator[None]:
    """Hold a file's lock; the kernel lets go of it when this process ends."""
    # fcntl and not filelock: this runs under the engine's interpreter, where only vLLM's needs are sure.
    import fcntl

    with open(path, "w", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)
        yield


def _files(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if p.is_file() and p.name != DONE)


def _stamps(folder: Path) -> _Stamps:
    # Links are followed: a hub's snapshot has nothing else.
    found = [(path.name, path.stat()) for path in _files(folder)]
    return [[name, s.st_dev, s.st_ino, s.st_size, s.st_mtime_ns, s.st_ctime_ns] for name, s in found]


def _settled(stamps: _Stamps) -> bool:
    latest = max((int(t) for stamp in stamps for t in stamp[-2:]), default=0)
    return time.time() - latest / 1e9 >= SETTLED_S


def _noted(note: Path, stamps: _Stamps) -> str | None:
    """The digest that was noted for files with these stamps; ``None`` for none."""
    try:
        told = json.loads(note.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None  # None yet, or torn: who wrote it was killed.
    same = isinstance(told, dict) and told.get("files") == stamps and isinstance(told.get("digest"), str)
    return told["digest"] if same else None
