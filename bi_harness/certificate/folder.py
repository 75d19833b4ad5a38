"""What lies where a certificate is, as it was read."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Folder:
    """A run's folder, or one certificate and what lies next to it.

    Attributes:
        place: the path as it was given.
        contents: bytes of the files of a run, by name; those that are not there are left out.
        others: sha256 of the run's other files (``logs/...``, ``test-engine.json``), by name.
        whole: whether a run's folder was given and not one file, so that nothing of it may be missing.
        unreadable: why a file or folder could not be read, by name.
        shards: of a run that shards were merged to, their journals, by name.
        name: of the folder itself, as it was given; empty where one file was.
        foreign: names of regular files that no run has.
        irregular: what is neither a regular file nor a folder, by name: ``a link``, ``a pipe``, ...
        folders: names of the folders inside.
    """

    place: str
    contents: Mapping[str, bytes]
    others: Mapping[str, str] = field(default_factory=dict)
    whole: bool = True
    unreadable: Mapping[str, str] = field(default_factory=dict)
    shards: Mapping[str, bytes] = field(default_factory=dict)
    name: str = ""
    foreign: tuple[str, ...] = ()
    irregular: Mapping[str, str] = field(default_factory=dict)
    folders: frozenset[str] = frozenset()

    def digests(self) -> dict[str, str]:
        """sha256 of every file of the run that was read, hexadecimal, by name."""
        return {
            **{name: hashlib.sha256(data).hexdigest() for name, data in self.contents.items()},
            **self.others,
        }

    def in_the_way(self, name: str) -> str:
        """What stands where a file should be, or where a folder above it should be; empty for nothing."""
        if name in self.irregular:
            return f"it is {self.irregular[name]} now"
        if name in self.folders:
            return "it is a folder now"
        parts = name.split("/")
        for end in range(1, len(parts)):
            above = "/".join(parts[:end])
            if above in self.irregular:
                return f"{above} is {self.irregular[above]} now"
            if above in self.foreign or above in self.contents or above in self.others:
                return f"{above} is a file now"
        return ""
