"""Finding certificates and verifying them, each file read with a limit, and once.

A file is known when what it holds is what was examined (sha256), or when the file system says that it was not
written since (size, inode, and both times: that of the last change of the inode cannot be set by hand).
"""

from __future__ import annotations

import glob
import hashlib
import json
import multiprocessing
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from bi_harness.certificate.files import CERTIFICATE, ENVELOPE, JOURNAL
from bi_harness.certificate.verify import Folder
from bi_harness.errors import InfrastructureError, UsageError
from bi_harness.reading import read_bounded
from bi_harness.report.dashboard.rows import Row, refused
from bi_harness.report.discovery import RunPath, discover, printable_path

MAX_BYTES: Final = 512 * 1024 * 1024
"""Of one file, as `verify` has it."""

UNREAD: Final = "unread:"
"""What the digest of a row begins with that is of nothing that was read. It is looked at every time."""

_NAMES: Final = (CERTIFICATE, ENVELOPE, JOURNAL)
_FEW: Final = 24
"""Files that are verified in this process; more are spread over the cores."""


@dataclass(frozen=True, slots=True)
class Source:
    """Where a certificate lies: a run's folder, or one file.

    Attributes:
        shown: the path for a reader; below a folder that was given, from that folder's name on.
    """

    path: str
    shown: str
    folder: bool

    def files(self) -> tuple[tuple[str, Path], ...]:
        """What is examined together: names as in a run's folder, and where they are."""
        path = Path(self.path)
        if self.folder:
            return tuple((name, path / name) for name in _NAMES)
        return ((CERTIFICATE, path),)


Look = Callable[[Folder, str, str], Row]
"""Examines what was read: the folder, the digest of what was read, the path shown."""


def sources(paths: Sequence[str]) -> list[Source]:
    """Every certificate at and below the paths; a path that is not there may be a pattern (``**`` too).

    Raises:
        UsageError: there is nothing at a path.
    """
    return _search(paths)[0]


def _search(paths: Sequence[str]) -> tuple[list[Source], list[Row]]:
    """Certificates, and what was not looked into."""
    places: list[str] = []
    for given in paths:
        if os.path.lexists(given):
            places.append(given)
            continue
        # Of any pattern, absolute or not, as a shell has it.
        matches = sorted(glob.glob(given, recursive=True)) if glob.has_magic(given) else []  # noqa: PTH207
        if not matches:
            raise UsageError(f"there is no file or folder {given[:400]!r}")
        places += matches
    # A link that leads nowhere is read as a file, so that the site names it.
    found = discover([Path(place) for place in places if os.path.exists(place)])  # noqa: PTH110
    absent = [Path(place) for place in places if not os.path.exists(place)]  # noqa: PTH110
    here = [_source(RunPath(path, folder=False, given=path)) for path in absent]
    by_place: dict[str, Source] = {}
    for one in (*map(_source, found.runs), *here):
        by_place.setdefault(os.path.realpath(one.path), one)
    unread = [
        _unread(_shown(place.path, _given(place.path, places)), f"not read: {place.why}")
        for place in found.unread
    ]
    return sorted(by_place.values(), key=lambda one: one.shown), unread


def _unread(shown: str, why: str) -> Row:
    name = hashlib.sha256(f"{shown}\0{why}".encode("utf-8", "backslashreplace")).hexdigest()
    return refused(shown, why, f"{UNREAD}{name}")


def _source(run: RunPath) -> Source:
    if run.folder:
        return Source(str(run.path), _shown(run.path, run.given), folder=True)
    whole = run.path.name in _NAMES
    return Source(str(run.path.parent) if whole else str(run.path), printable_path(run.path), whole)


def _given(path: Path, places: Sequence[str]) -> Path:
    """The first of the places at or below which the path lies."""
    return next(Path(place) for place in places if path.is_relative_to(place))


def _shown(path: Path, given: Path) -> str:
    """The path from the name of the given folder on."""
    base = Path(os.path.realpath(given)).name
    return printable_path(base / Path(os.path.relpath(path, given)))


def stat_of(source: Source) -> str:
    """What the file system says of the files; empty where one cannot be asked."""
    told = []
    for name, path in source.files():
        try:
            s = path.stat()
        except FileNotFoundError:
            continue
        except (OSError, ValueError):
            return ""
        told.append(f"{name}:{s.st_size}:{s.st_ino}:{s.st_mtime_ns}:{s.st_ctime_ns}")
    return " ".join(told)


def read(source: Source) -> tuple[Folder, str] | Row:
    """What lies there and the digest of it; a row where it cannot be read."""
    contents: dict[str, bytes] = {}
    digest = hashlib.sha256()
    for name, path in source.files():
        try:
            data = read_bounded(path, MAX_BYTES)
        except FileNotFoundError:
            continue
        except (OSError, ValueError) as error:
            why = getattr(error, "strerror", None) or error
            return _unread(source.shown, f"{name}: cannot be read: {why}")
        if len(data) > MAX_BYTES:
            return _unread(source.shown, f"{name}: is larger than {MAX_BYTES // 2**20} MiB")
        contents[name] = data
        digest.update(f"{name}\0{hashlib.sha256(data).hexdigest()}\n".encode())
    if not source.folder:
        data = contents.get(CERTIFICATE, b"")
        if b'"payloadType"' in data and b'"predicateType"' not in data:
            contents = {ENVELOPE: data}
    return Folder(source.shown, contents, whole=False), digest.hexdigest()


def examine_one(source: Source, known: frozenset[str], look: Look) -> Row | str:
    """A row; or the digest alone where a row of it is known."""
    got = read(source)
    if isinstance(got, Row):
        return got
    folder, digest = got
    if digest in known:
        return digest
    if CERTIFICATE not in folder.contents and ENVELOPE not in folder.contents:
        why = "a journal without a certificate: the run goes on, or was cut off (see `bi-harness report`)"
        return refused(source.shown, why, digest)
    return look(folder, digest, source.shown)


@dataclass(frozen=True, slots=True)
class Collected:
    """What was found.

    Attributes:
        rows: those that were examined now.
        known: digests of what was examined earlier and is there again, with where it is now.
        stats: by path, what to know a file by next time.
        unread: places that were not looked into, each as a row that does not count.
    """

    rows: tuple[Row, ...]
    known: Mapping[str, str]
    stats: Mapping[str, tuple[str, str]]
    unread: tuple[Row, ...] = ()


def collect(
    paths: Sequence[str],
    look: Look,
    *,
    known: Iterable[str] = (),
    stats: Mapping[str, tuple[str, str]] | None = None,
    jobs: int = 1,
) -> Collected:
    """Find and examine.

    Args:
        paths: files, folders and patterns.
        look: a function that another process can import, where ``jobs`` is more than 1.
        known: digests of rows that there are.
        stats: as in ``Collected``, of last time.
        jobs: processes.

    Raises:
        UsageError: see ``sources``.
        InfrastructureError: a process that examined died.
    """
    have, before = frozenset(known), dict(stats or {})
    after: dict[str, tuple[str, str]] = {}
    again: dict[str, str] = {}
    todo: list[tuple[Source, str]] = []
    found, unread = _search(paths)
    for source in found:
        stat = stat_of(source)
        place = os.path.realpath(source.path)
        told = before.get(place)
        if stat and told is not None and told[0] == stat and told[1] in have:
            after[place] = told
            again.setdefault(told[1], source.shown)
        else:
            todo.append((source, stat))
    rows = []
    for (source, stat), came in zip(todo, _examined([s for s, _ in todo], have, look, jobs), strict=True):
        digest = came if isinstance(came, str) else came.digest
        if isinstance(came, str):
            again.setdefault(came, source.shown)
        else:
            rows.append(came)
        # Asked before it was read: what is written meanwhile is seen the next time.
        if stat and not digest.startswith(UNREAD):
            after[os.path.realpath(source.path)] = (stat, digest)
    return Collected(tuple(rows), again, after, tuple(unread))


def _examined(found: Sequence[Source], known: frozenset[str], look: Look, jobs: int) -> Iterator[Row | str]:
    if jobs <= 1 or len(found) <= _FEW:
        for source in found:
            yield examine_one(source, known, look)
        return
    # Not forked: what is examined was written by others, and this process has threads.
    context = multiprocessing.get_context("spawn")
    try:
        with ProcessPoolExecutor(jobs, mp_context=context) as pool:
            count = len(found)
            yield from pool.map(examine_one, found, [known] * count, [look] * count, chunksize=4)
    except BrokenProcessPool as error:
        raise InfrastructureError(
            "a process that verifies certificates died (out of memory?)\nWhat to do: try --jobs 1"
        ) from error


def dump_stats(stats: Mapping[str, tuple[str, str]]) -> bytes:
    """The file that remembers which files were examined."""
    return json.dumps({path: list(told) for path, told in sorted(stats.items())}, indent=0).encode()


def load_stats(path: Path) -> dict[str, tuple[str, str]]:
    """What ``dump_stats`` wrote; nothing where it is not of that form: then all is read again."""
    try:
        data: Any = json.loads(read_bounded(path, MAX_BYTES))
    except (OSError, ValueError, RecursionError):
        return {}
    found = {}
    for place, told in data.items() if isinstance(data, dict) else ():
        if isinstance(told, list) and len(told) == 2 and all(isinstance(one, str) for one in told):
            found[place] = (told[0], told[1])
    return found
