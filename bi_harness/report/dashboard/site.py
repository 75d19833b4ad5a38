"""Putting a site on disk: in its own folder alone, and so that a build that fails leaves the old one."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import stat
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from bi_harness.errors import InfrastructureError, UsageError

MARKER: Final = ".bi-harness-dashboard"
"""Says that a folder is a site of ours, and may be written anew."""

_MARK: Final = b"A site that `bi-harness dashboard build` wrote, and writes anew.\n"
_WORK: Final = ".building-"
_LAST: Final = "index.html"


def check_folder(out: Path) -> None:
    """Refuse a folder in which there is something, and no site of ours.

    Raises:
        UsageError: it is such a folder, a link, or no folder.
    """
    try:
        mode = os.lstat(out).st_mode
    except FileNotFoundError:
        return
    except (OSError, ValueError) as error:
        raise UsageError(f"cannot use {out}: {getattr(error, 'strerror', None) or error}") from error
    if not stat.S_ISDIR(mode):
        raise UsageError(f"{out}: is no folder (a link is not followed)\nWhat to do: give another --out")
    marker = out / MARKER
    try:
        ours = stat.S_ISREG(os.lstat(marker).st_mode)
    except OSError:
        ours = False
    if not ours and any(out.iterdir()):
        raise UsageError(
            f"{out}: is not empty, and no site of `bi-harness dashboard build`\n"
            "What to do: give an empty folder"
        )


def write_site(out: Path, content: Iterable[tuple[str, bytes]]) -> int:
    """Write a site, in place of the one that is there; returns how many files it has.

    Everything is rendered and written in a folder within ``out`` before anything of the old site is moved;
    what is left to do then is to rename its few files and folders, the index last.

    Args:
        out: the folder; made where it is missing.
        content: paths below it, and bytes. The paths are of our making.

    Raises:
        UsageError: see ``check_folder``.
        InfrastructureError: it cannot be written. The old site is there as it was.
    """
    check_folder(out)
    try:
        out.mkdir(parents=True, exist_ok=True)
        _clear_left(out)
        with contextlib.ExitStack() as stack:
            work = Path(tempfile.mkdtemp(prefix=_WORK, dir=out))
            stack.callback(shutil.rmtree, work, ignore_errors=True)
            (work / "new").mkdir()
            count = _written(work / "new", content)
            (work / "new" / MARKER).write_bytes(_MARK)
            _swap(out, work)
            return count
    except OSError as error:
        what = "the disk is full" if error.errno == errno.ENOSPC else error.strerror or str(error)
        raise InfrastructureError(f"cannot write the site {out}: {what}") from error


def _clear_left(out: Path) -> None:
    """What a build that was killed left."""
    for path in out.glob(f"{_WORK}*"):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)


def _written(folder: Path, content: Iterable[tuple[str, bytes]]) -> int:
    made: set[Path] = {folder}
    count = 0
    for name, data in content:
        parts = name.split("/")
        if not all(parts) or any(part in (".", "..") or "\0" in part or "\\" in part for part in parts):
            raise ValueError(f"a path that is none of a site's: {name!r}")
        path = folder.joinpath(*parts)
        if path.parent not in made:
            path.parent.mkdir(parents=True, exist_ok=True)
            made.add(path.parent)
        # Never over another one: two cells never share a page.
        with open(path, "xb") as file:
            file.write(data)
        count += 1
    return count


def _swap(out: Path, work: Path) -> None:
    new, old = work / "new", work / "old"
    old.mkdir()
    names = {path.name for path in new.iterdir()}
    before = {path.name for path in out.iterdir() if not path.name.startswith(_WORK)}
    # The marker first, so that it is a site of ours whatever happens; the index last.
    order = sorted(names, key=lambda name: (name != MARKER, name == _LAST, name))
    moved: list[str] = []
    try:
        for name in order:
            if name in before:
                (out / name).rename(old / name)
            moved.append(name)
            (new / name).rename(out / name)
    except OSError:
        for name in reversed(moved):
            with contextlib.suppress(OSError):
                if (out / name).exists():
                    (out / name).rename(new / name)
            with contextlib.suppress(OSError):
                if (old / name).exists():
                    (old / name).rename(out / name)
        raise
    for name in before - names:
        (out / name).rename(old / name)
