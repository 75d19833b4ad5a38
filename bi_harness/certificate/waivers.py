"""What waivers do to a run's results, and to its verdict. Pure, and from the journal's word alone.

A waiver turns a ``fail`` into ``waived`` and nothing else into anything. It must hold when the run starts,
and all that it names must fail: one that has expired, or that names something which passes, fails the run, so
that it is taken out or looked at again.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from datetime import UTC, date, datetime
from fnmatch import fnmatchcase

from bi_harness.certificate.records import CheckResult, Waiver
from bi_harness.certificate.statement import WaiverState, WaiverUse


def names(waiver: Waiver, cell: str, check: str) -> bool:
    """Whether the waiver is of this check on this cell."""
    return waiver.check == check and fnmatchcase(cell, waiver.cell)


def day_of(moment: str) -> date | None:
    """The day in UTC of a journal's time; ``None`` for what is no time, or has no zone."""
    try:
        found = datetime.fromisoformat(moment)
        return found.astimezone(UTC).date() if found.tzinfo is not None else None
    except (ValueError, OverflowError):
        return None


def expired(waiver: Waiver, day: date | None) -> bool:
    """Whether its last day was over on that day; where the day is not known, it was."""
    return day is None or day > date.fromisoformat(waiver.expires)


def apply(
    waivers: Sequence[Waiver],
    results: Sequence[CheckResult],
    planned: Collection[tuple[str, str]],
    started: str,
) -> tuple[tuple[CheckResult, ...], tuple[WaiverUse, ...]]:
    """The results with failures waived, and what came of each waiver.

    Args:
        waivers: that the run was given. Of two that name one failure, the first that holds counts.
        results: of every planned check, none of them waived.
        planned: cell and check of those that were to run, skips left out.
        started: when the run began, from its journal.
    """
    if not waivers:
        return tuple(results), ()
    day = day_of(started)
    waived = tuple(_waived(result, waivers, day) for result in results)
    return waived, tuple(_use(waiver, results, planned, day) for waiver in waivers)


def _waived(result: CheckResult, waivers: Iterable[Waiver], day: date | None) -> CheckResult:
    if result.status != "fail":
        return result
    naming = [waiver for waiver in waivers if names(waiver, result.cell, result.check)]
    if not naming:
        return result
    for waiver in naming:
        if not expired(waiver, day):
            return result.model_copy(update={"status": "waived", "waiver": waiver})
    return result.model_copy(update={"reason": f"{result.reason}{_told(naming)}"})


def expiry_told(waivers: Iterable[Waiver], result: CheckResult) -> str:
    """What a failure's reason ends with where its waivers have expired; empty where none names it."""
    naming = [waiver for waiver in waivers if names(waiver, result.cell, result.check)]
    return _told(naming) if naming else ""


def _told(expired_ones: Sequence[Waiver]) -> str:
    last = max(expired_ones, key=lambda waiver: waiver.expires)
    return f"; its waiver expired on {last.expires} (owner: {last.owner}, {last.link})"


def _use(
    waiver: Waiver,
    results: Sequence[CheckResult],
    planned: Collection[tuple[str, str]],
    day: date | None,
) -> WaiverUse:
    named = [r for r in results if (r.cell, r.check) in planned and names(waiver, r.cell, r.check)]
    statuses = {result.status for result in named}
    state: WaiverState
    if not named:
        state = "not_in_run"
    elif not statuses & {"pass", "fail"}:
        # Nothing is known of what it names, and that alone leaves the run without a certificate.
        state = "no_answer"
    elif expired(waiver, day):
        state = "expired"
    elif "pass" in statuses:
        state = "stale"
    else:
        state = "in_force"
    return WaiverUse(waiver=waiver, state=state, checks=tuple(f"{r.cell}::{r.check}" for r in named))


def contradiction(checks: Sequence[CheckResult], uses: Sequence[WaiverUse], started: str) -> str:
    """Where a certificate's waivers do not follow from its checks; empty when they do.

    Args:
        checks, uses, started: as the certificate has them.
    """
    day = day_of(started)
    given = [use.waiver for use in uses]
    for check in checks:
        where = f"{check.check} on {check.cell}"
        if (check.status == "waived") != (check.waiver is not None):
            return f"{where} is {check.status}, but has {'no' if check.waiver is None else 'a'} waiver"
        if check.waiver is None:
            continue
        if check.waiver not in given or not names(check.waiver, check.cell, check.check):
            return f"{where} has a waiver that is not of it, or that the run was not given"
        if expired(check.waiver, day):
            return f"{where} is waived, but its waiver had expired when the run started"
    as_failed = [c.model_copy(update={"status": "fail"}) if c.status == "waived" else c for c in checks]
    planned = {(c.cell, c.check) for c in checks if not (c.status == "skip" and c.rule)}
    for use in uses:
        if use != _use(use.waiver, as_failed, planned, day):
            return f"the waiver of {use.waiver.check} on {use.waiver.cell} does not read {use.state}"
    return ""


def must_go(uses: Iterable[WaiverUse], results: Iterable[CheckResult]) -> str:
    """One sentence on the waivers that fail a run; empty when none does.

    Args:
        results: of the run, to say which check needs no waiver.
    """
    bad = [use for use in uses if use.state in ("expired", "stale")]
    if not bad:
        return ""
    first = bad[0]
    waiver = first.waiver
    whose = f"the waiver of {waiver.check} on {waiver.cell} (owner: {waiver.owner})"
    if first.state == "expired":
        what = f"{whose} expired on {waiver.expires}: take it out, or decide on it anew"
    else:
        passed = next(
            (r.cell for r in results if r.status == "pass" and names(waiver, r.cell, r.check)), "a cell"
        )
        what = f"{whose} is stale, since it passed on {passed}: take it out, or make it narrower"
    return f"{what}; {len(bad) - 1} more must go" if len(bad) > 1 else what


def waived_note(results: Iterable[CheckResult]) -> str:
    """``2 checks waived: not passed``; empty when none is. No verdict is shown without it."""
    count = sum(result.status == "waived" for result in results)
    return f"{count:,} check{'' if count == 1 else 's'} waived: not passed" if count else ""
