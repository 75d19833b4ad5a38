"""Find runs and certificates on disk, and name every place that was not looked into.

The gate, ``diff --series`` and the dashboard share this search: what one of them sees, the others see too. A
place that was not looked into may hold a failure, so it is part of the answer and not left out.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from bi_harness.certificate.files import CERTIFICATE, ENVELOPE, FILES_ENVELOPE, JOURNAL
from bi_harness.certificate.findings import printable
from bi_harness.errors import UsageError

RUN_FILES: Final = (CERTIFICATE, ENVELOPE, JOURNAL)
"""Files of which one makes a folder a run's folder. A run without a certificate is found by its journal."""

WORK: Final = ".work"
"""Folder of a run for its units while they run (``runner.hold``); a run that was killed leaves it."""

_LEFT_BY_A_KILLED_RUN: Final = (
    "left by a run that was killed: it may hold results that no certificate has. "
    "Resume the run (`bi-harness run --resume RUN`), or remove this folder"
)

_Inode = tuple[int, int]


@dataclass(frozen=True, slots=True)
class RunPath:
    """A run's folder, or a file that was given by name.

    Attributes:
        path: the folder or the file.
        folder: whether it is a folder.
        given: the path of the arguments at or below which it lies.
    """

    path: Path
    folder: bool
    given: Path


@dataclass(frozen=True, slots=True)
class UnreadPath:
    """A place that was not looked into.

    Attributes:
        path: the link, or the folder.
        why: why not, as one sentence without its full stop.
    """

    path: Path
    why: str

    def __str__(self) -> str:
        return f"{printable_path(self.path)}: {self.why}"


@dataclass(frozen=True, slots=True)
class Discovery:
    """The result of a search.

    Attributes:
        runs: in the order of the given paths; those below a folder by path. Each folder is there once.
        unread: by path.
    """

    runs: tuple[RunPath, ...]
    unread: tuple[UnreadPath, ...]


def discover(paths: Sequence[Path]) -> Discovery:
    """Search the paths and every folder below them.

    A given path may be a link: it was named, and is followed. A link below a given folder is not followed.
    It counts as not read unless it leads to a folder that is searched anyway; a link to a file does so only
    where it has the name of a run's file. A folder ``.work`` that is not empty counts as not read, too.

    Raises:
        UsageError: a given path is not there, or cannot be looked at.
    """
    search = _Search()
    for given in paths:
        try:
            is_folder = stat.S_ISDIR(given.stat().st_mode)
        except (OSError, ValueError) as error:
            raise UsageError(f"cannot read {printable_path(given)[:400]}: {_reason(error)}") from error
        if is_folder:
            search.runs += sorted(search.below(given), key=lambda run: run.path)
        else:
            search.runs.append(RunPath(given, folder=False, given=given))
            search.files.add(os.path.realpath(given))
    search.finish()
    runs: dict[tuple[str, bool], RunPath] = {}
    for run in search.runs:
        runs.setdefault((os.path.realpath(run.path), run.folder), run)
    unread = dict.fromkeys(sorted(search.unread, key=lambda one: (one.path, one.why)))
    return Discovery(tuple(runs.values()), tuple(unread))


def printable_path(path: Path) -> str:
    """The path as text. Bytes that are not UTF-8 become escapes: neither JSON nor XML can hold them."""
    return printable(str(path))


@dataclass
class _Search:
    runs: list[RunPath] = field(default_factory=list)
    unread: list[UnreadPath] = field(default_factory=list)
    links: list[Path] = field(default_factory=list)
    work: list[Path] = field(default_factory=list)
    files: set[str] = field(default_factory=set)
    listed: set[_Inode] = field(default_factory=set)

    def below(self, given: Path) -> list[RunPath]:
        """Search a folder that was given. It is no recursion: folders may be nested without end."""
        found = []
        folders = [given]
        while folders:
            folder = folders.pop()
            try:
                inode = _inode(folder)
                if inode in self.listed:
                    continue
                with os.scandir(folder) as entries:
                    kinds = {entry.name: _kind(entry) for entry in entries}
            except OSError as error:
                self.unread.append(UnreadPath(folder, f"cannot be looked into: {_reason(error)}"))
                continue
            self.listed.add(inode)
            if any(kinds.get(name, "folder") != "folder" for name in RUN_FILES):
                found.append(RunPath(folder, folder=True, given=given))
            elif FILES_ENVELOPE in kinds:
                why = "a signed run of which neither certificate nor journal is there"
                self.unread.append(UnreadPath(folder, why))
            for name, kind in kinds.items():
                if kind == "link":
                    self.links.append(folder / name)
                elif kind == "folder" and self._is_searched(folder / name):
                    folders.append(folder / name)
        return found

    def _is_searched(self, folder: Path) -> bool:
        if folder.name in RUN_FILES:
            self.unread.append(UnreadPath(folder, "a folder that has the name of a run's file"))
        if folder.name == WORK:
            self.work.append(folder)
        return folder.name != WORK

    def finish(self) -> None:
        """Look where links lead, and into the folders ``.work``, when all that is searched is known."""
        for link in self.links:
            self._check_link(link)
        for folder in self.work:
            self._check_work(folder)

    def _check_link(self, link: Path) -> None:
        try:
            target = link.stat()
            if stat.S_ISDIR(target.st_mode):
                read = (target.st_dev, target.st_ino) in self.listed
            elif link.name in RUN_FILES:
                file = os.path.realpath(link)
                read = file in self.files or _inode(Path(file).parent) in self.listed
            else:
                read = True
        except (OSError, ValueError) as error:
            self.unread.append(UnreadPath(link, f"a link that leads nowhere: {_reason(error)}"))
            return
        if not read:
            where = printable_path(Path(os.path.realpath(link)))
            why = f"a link to {where}, and links are not followed. Give that path as an argument as well"
            self.unread.append(UnreadPath(link, why))

    def _check_work(self, folder: Path) -> None:
        try:
            if _inode(folder) in self.listed:
                return  # It was given by name.
            with os.scandir(folder) as entries:
                if any(entries):
                    self.unread.append(UnreadPath(folder, _LEFT_BY_A_KILLED_RUN))
        except OSError as error:
            self.unread.append(UnreadPath(folder, f"cannot be looked into: {_reason(error)}"))


def _kind(entry: os.DirEntry[str]) -> str:
    if entry.is_symlink():
        return "link"
    return "folder" if entry.is_dir(follow_symlinks=False) else "file"


def _inode(folder: Path) -> _Inode:
    found = folder.stat()
    return found.st_dev, found.st_ino


def _reason(error: OSError | ValueError) -> str:
    return getattr(error, "strerror", None) or str(error)
