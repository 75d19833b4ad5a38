"""What a process that localizes is told: a file that the runner writes and the pytest plugin reads."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from bi_harness.errors import UsageError


@dataclass(frozen=True, slots=True)
class LocalizeTask:
    """What is to be localized.

    Attributes:
        cell, check: ids.
        subject: the first request that differed, of the check's subjects.
        arm: index of the arm in which it did, among those that the plan lists.
        budget_s: after which nothing new is begun.
    """

    cell: str
    check: str
    subject: int
    arm: int
    budget_s: float

    def write(self, path: Path) -> None:
        """As JSON."""
        path.write_text(json.dumps(asdict(self)), encoding="utf-8")

    @staticmethod
    def read(path: Path) -> LocalizeTask:
        """The inverse of ``write``.

        Raises:
            UsageError: when the file is not one.
        """
        try:
            return LocalizeTask(**json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError) as error:
            raise UsageError(f"{path} is not what is to be localized: {error}") from error
