"""When the checks of a certificate can have run, as far as the certificate says. Pure.

A certificate has no time for each check. It has the start and the end of the run, which is that of the first
and of the last shard where shards were merged, and the times of the attempts that ran checks again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from bi_harness.certificate.attempts import Key
from bi_harness.certificate.statement import HarnessResult, Loss, Resumption
from bi_harness.certificate.times import utc


@dataclass(frozen=True, slots=True)
class CheckTimes:
    """Limits of the times at which the checks of a certificate ran.

    Attributes:
        started: of the run.
        finished: of the run; ``None`` for one that was cut off.
        again: for each check that ran again, when the last attempt that ran it began.
        newest: the latest time that the certificate names; ``None`` for none.
        complete: whether the certificate names no time that is not a time.
    """

    started: datetime | None
    finished: datetime | None
    again: Mapping[Key, datetime]
    newest: datetime | None
    complete: bool

    def earliest(self, key: Key) -> datetime | None:
        """The earliest time at which a check can have run; ``None`` where that cannot be told."""
        if not self.complete:
            return None
        began = self.again.get(key, self.started)
        if began is None or self.finished is None:
            return began
        # Not after the run's end, whatever a clock said that was wrong in between.
        return min(began, self.finished)

    @property
    def latest(self) -> datetime | None:
        """The latest time at which a check can have run; ``None`` where that cannot be told: nobody knows how
        long a run went on that was cut off."""
        return self.newest if self.complete and self.finished is not None else None


def check_times(result: HarnessResult) -> CheckTimes:
    """The limits for a certificate."""
    attempts: tuple[Resumption | Loss, ...] = (*result.resumed, *result.lost)
    again: dict[Key, datetime] = {}
    for attempt in attempts:
        began = utc(attempt.time)
        if began is None:
            continue
        for one in attempt.reopened:
            key = (one.cell, one.check)
            # It ran after each of these attempts began, and so after the last one.
            again[key] = max(again.get(key, began), began)
    texts = [result.started, *(attempt.time for attempt in attempts)]
    texts += [] if result.finished is None else [result.finished]
    named = [time for time in map(utc, texts) if time is not None]
    return CheckTimes(
        started=utc(result.started),
        finished=None if result.finished is None else utc(result.finished),
        again=again,
        newest=max(named, default=None),
        complete=len(named) == len(texts),
    )
