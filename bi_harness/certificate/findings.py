"""What ``verify`` reports: problems, notes, and what was right."""

from __future__ import annotations

from typing import Literal

from bi_harness.certificate.records import Record

Level = Literal["problem", "note", "good"]


class Finding(Record):
    """One thing that was looked at.

    Attributes:
        level: ``problem``: not genuine or not consistent; ``note``: what was not looked at, or what to know;
            ``good``: looked at and right.
        where: the file, or the field of the certificate.
        what: one sentence.
    """

    level: Level
    where: str
    what: str


class Findings(list[Finding]):
    """Findings in the order in which they were made. Texts may hold names that are not UTF-8."""

    def problem(self, where: str, what: str) -> None:
        """Add what speaks against the certificate."""
        self._add("problem", where, what)

    def note(self, where: str, what: str) -> None:
        """Add what was not looked at, or what to know."""
        self._add("note", where, what)

    def good(self, where: str, what: str) -> None:
        """Add what was looked at and is right."""
        self._add("good", where, what)

    def problems(self) -> int:
        """The number of problems."""
        return sum(finding.level == "problem" for finding in self)

    def _add(self, level: Level, where: str, what: str) -> None:
        self.append(Finding(level=level, where=printable(where), what=printable(what)))


def printable(text: str) -> str:
    """The text with each lone surrogate as an escape: a name that is not UTF-8 can be in no JSON."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
