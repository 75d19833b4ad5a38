"""What lies in a run's folder: every name in it, and of what kind it is. Links are not followed."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

_KINDS = (
    (stat.S_ISLNK, "a link"),
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISBLK, "a device"),
    (stat.S_ISCHR, "a device"),
)


@dataclass(frozen=True, slots=True)
class RunTree:
    """Names are relative to the folder, with slashes; hidden ones are among them.

    Attributes:
        files: regular files, sorted.
        folders: folders, sorted.
        irregular: anything else, and what it is: ``a link``, ``a pipe``, ...
        unreadable: folders and names that could not be looked at, and why.
    """

    files: tuple[str, ...]
    folders: tuple[str, ...]
    irregular: Mapping[str, str]
    unreadable: Mapping[str, str]


def read_tree(folder: Path) -> RunTree:
    """List a folder with all that is below it. What cannot be listed is in ``unreadable``."""
    files: list[str] = []
    folders: list[str] = []
    irregular: dict[str, str] = {}
    unreadable: dict[str, str] = {}
    left = [""]
    while left:
        above = left.pop()
        try:
            with os.scandir(folder / above) as entries:
                names = sorted(entry.name for entry in entries)
        except (OSError, ValueError) as error:
            unreadable[above or "."] = getattr(error, "strerror", None) or str(error)
            continue
        for entry_name in names:
            name = f"{above}/{entry_name}" if above else entry_name
            try:
                mode = os.lstat(folder / name).st_mode
            except OSError as error:
                unreadable[name] = error.strerror or str(error)
                continue
            if stat.S_ISREG(mode):
                files.append(name)
            elif stat.S_ISDIR(mode):
                folders.append(name)
                left.append(name)
            else:
                irregular[name] = next((kind for is_one, kind in _KINDS if is_one(mode)), "not a file")
    return RunTree(tuple(sorted(files)), tuple(sorted(folders)), irregular, unreadable)
