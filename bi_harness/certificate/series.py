"""Where in a series of certificates a check went bad. Pure.

A check is good in a certificate when it passed there, and bad when it failed, waived or not. A comparison
across parallel sizes that must be equal is a check of its own here, and a pass whose waiver fails the run is
bad (``certificate.standing``). Everything else (an error, nothing concluded, a pass in a run that as a whole
concluded nothing, a skip, not there at all, a fault planted on purpose) is unknown: never good.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from bi_harness.certificate.diff import ValueChange, device_of, environment_changes, vllm_of
from bi_harness.certificate.records import Count, Record, Status, Verdict
from bi_harness.certificate.standing import CheckStanding, Outcome, check_standings
from bi_harness.certificate.statement import Statement, planted_faults
from bi_harness.errors import UsageError
from bi_harness.exits import ExitCode

Standing = Outcome


class Entry(Record):
    """One certificate of the series.

    Attributes:
        name: what the reader calls it.
        ended: when its run ended; when it began, where it was cut off.
        planted: whether a fault was planted in its engines: it tells nothing of vLLM.
    """

    name: str
    run_id: str
    device: str
    vllm: str
    verdict: Verdict
    result: str
    ended: str
    planted: bool = False


class Track(Record):
    """One check over the series.

    Attributes:
        standings: one for each certificate, in order.
        statuses: the same in the certificates' words; ``None`` where the check is not there. A pass may be
            ``bad`` or ``unknown`` for what the certificate says besides its checks.
        last_good: the certificate in which it last passed before it went bad; ``None`` where it never did.
        first_bad: the first in which it was bad after that; ``None`` where it was good when last known.
        between: certificates of its device between these two, in which nothing is known of it.
        fault: why it is bad in the first bad one although it passed there, or a comparison failed.
    """

    cell: str
    check: str
    standings: tuple[Standing, ...]
    statuses: tuple[Status | None, ...]
    last_good: Count | None
    first_bad: Count | None
    between: Count = 0
    fault: str = ""

    @property
    def open(self) -> bool:
        """Whether the newest certificate that has the check leaves it without an answer; no rule's skip."""
        for standing, status in zip(reversed(self.standings), reversed(self.statuses), strict=True):
            if status is not None:
                return standing == "unknown" and status != "skip"
        return False


class Step(Record):
    """What else changed between a last good and a first bad certificate; for all checks that share them."""

    last_good: Count
    first_bad: Count
    environment: tuple[ValueChange, ...]


class Series(Record):
    """The whole.

    Attributes:
        entries: by the time at which the runs ended.
        tracks: every check, by cell and name.
        steps: for each pair of certificates that a track names.
    """

    entries: tuple[Entry, ...]
    tracks: tuple[Track, ...]
    steps: tuple[Step, ...]

    @property
    def bad(self) -> tuple[Track, ...]:
        """The checks that are bad where they were last known."""
        return tuple(track for track in self.tracks if track.first_bad is not None)

    @property
    def open(self) -> tuple[Track, ...]:
        """The checks that are not bad, and have no answer in the newest certificate that has them."""
        return tuple(track for track in self.tracks if track.first_bad is None and track.open)

    @property
    def known(self) -> int:
        """How many checks were ever good or bad."""
        return sum("good" in track.standings or "bad" in track.standings for track in self.tracks)

    @property
    def exit_code(self) -> ExitCode:
        """What ``diff --series`` ends with: success only where each check has passed where last seen."""
        if self.bad:
            return ExitCode.NOT_CERTIFIED
        return ExitCode.INCONCLUSIVE if self.open or not self.known else ExitCode.CERTIFIED


def series_of(certificates: Sequence[tuple[str, Statement]]) -> Series:
    """The series, whatever the order in which the certificates are given.

    Raises:
        UsageError: one does not tell when its run ended.
    """
    ordered = sorted(
        certificates, key=lambda item: (_ended(*item)[0], item[1].predicate.bi_harness.run_id, item[0])
    )
    entries = tuple(_entry(name, statement) for name, statement in ordered)
    known = [{} if entry.planted else _standings(s) for entry, (_, s) in zip(entries, ordered, strict=True)]
    keys = sorted({key for standings in known for key in standings})
    tracks = tuple(
        _track(cell, check, [k.get((cell, check)) for k in known], entries) for cell, check in keys
    )
    pairs = sorted(
        {
            (track.last_good, track.first_bad)
            for track in tracks
            if track.last_good is not None and track.first_bad is not None
        }
    )
    return Series(
        entries=entries,
        tracks=tracks,
        steps=tuple(
            Step(last_good=a, first_bad=b, environment=environment_changes(ordered[a][1], ordered[b][1]))
            for a, b in pairs
        ),
    )


def _ended(name: str, statement: Statement) -> tuple[datetime, str]:
    result = statement.predicate.bi_harness
    told = result.finished or result.started
    try:
        moment = datetime.fromisoformat(told)
        return (moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)), told
    except (ValueError, OverflowError):
        raise UsageError(
            f"{name}: it does not tell when its run ended, so it has no place in a series"
        ) from None


def _entry(name: str, statement: Statement) -> Entry:
    result = statement.predicate.bi_harness
    return Entry(
        name=name,
        run_id=result.run_id,
        device=device_of(statement),
        vllm=vllm_of(statement),
        verdict=result.verdict,
        result=statement.predicate.result,
        ended=_ended(name, statement)[1],
        planted=bool(planted_faults(result.effective)),
    )


def _standings(statement: Statement) -> dict[tuple[str, str], CheckStanding]:
    return {(one.cell, one.check): one for one in check_standings(statement.predicate.bi_harness)}


def turn(standings: Sequence[Standing]) -> tuple[int | None, int | None]:
    """Where it went bad: the last good one before that, and the first bad one after it.

    Returns:
        Two places in ``standings``; both ``None`` where it is good when last known, or never known; the first
        alone is ``None`` where it never was good.
    """
    settled = [index for index, standing in enumerate(standings) if standing != "unknown"]
    if not settled or standings[settled[-1]] != "bad":
        return None, None
    last_good = max((i for i in settled if standings[i] == "good"), default=None)
    return last_good, min(i for i in settled if last_good is None or i > last_good)


def _track(cell: str, check: str, found: Sequence[CheckStanding | None], entries: Sequence[Entry]) -> Track:
    standings: tuple[Standing, ...] = tuple("unknown" if one is None else one.outcome for one in found)
    last_good, first_bad = turn(standings)
    first = None if first_bad is None else found[first_bad]
    between = 0
    if last_good is not None and first_bad is not None:
        device = entries[first_bad].device
        between = sum(entry.device == device for entry in entries[last_good + 1 : first_bad])
    return Track(
        cell=cell,
        check=check,
        standings=standings,
        statuses=tuple(None if one is None else one.status for one in found),
        last_good=last_good,
        first_bad=first_bad,
        between=between,
        fault="" if first is None else first.fault,
    )
