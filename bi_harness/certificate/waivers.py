"""What waivers do to a run's results, and to its verdict. Pure, and from the journal's word alone.

A waiver turns a ``fail`` into ``waived`` and nothing else into anything. It must hold when the run starts,
and all that it names must fail: one that has expired, or that names something which passes, fails the run, so
that it is taken out or looked at again.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Sequence
from datetime import date
from fnmatch import translate
from functools import lru_cache

from bi_harness.certificate.records import CheckResult, Waiver
from bi_harness.certificate.statement import WaiverState, WaiverUse
from bi_harness.certificate.times import utc


def names(waiver: Waiver, cell: str, check: str) -> bool:
    """Whether the waiver is of this check on this cell."""
    return waiver.check == check and _pattern(waiver.cell)(cell) is not None


_WILDCARDS = frozenset("*?[")


@lru_cache(maxsize=4096)
def _pattern(cell: str) -> Callable[[str], object]:
    # As fnmatch.fnmatchcase, which compiles a pattern again after 256 others.
    return re.compile(translate(cell)).match


def _named(waivers: Sequence[Waiver], results: Sequence[CheckResult]) -> list[list[int]]:
    """For each waiver, the places of the results that it names, in their order.

    Only results of a waiver's own check are looked at, a pattern without wildcards is looked up, and
    each pattern is applied once, however many waivers have it.
    """
    by_check: dict[str, list[int]] = {}
    by_key: dict[tuple[str, str], list[int]] = {}
    for place, result in enumerate(results):
        by_check.setdefault(result.check, []).append(place)
        by_key.setdefault((result.cell, result.check), []).append(place)
    known: dict[tuple[str, str], list[int]] = {}
    for waiver in waivers:
        key = (waiver.cell, waiver.check)
        if key in known:
            continue
        if not _WILDCARDS.intersection(waiver.cell):
            known[key] = by_key.get(key, [])
            continue
        matches = _pattern(waiver.cell)
        known[key] = [p for p in by_check.get(waiver.check, ()) if matches(results[p].cell)]
    return [known[waiver.cell, waiver.check] for waiver in waivers]


def day_of(moment: str) -> date | None:
    """The day in UTC of a journal's time; ``None`` for what is no time, or has no zone."""
    found = utc(moment)
    return None if found is None else found.date()


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
    named = _named(waivers, results)
    return tuple(_waived(waivers, results, named, day)), tuple(_uses(waivers, results, named, planned, day))


def _waived(
    waivers: Sequence[Waiver],
    results: Sequence[CheckResult],
    named: Sequence[Sequence[int]],
    day: date | None,
) -> list[CheckResult]:
    holding: dict[int, Waiver] = {}
    latest: dict[int, Waiver] = {}
    for waiver, places in zip(waivers, named, strict=True):
        holds = not expired(waiver, day)
        for place in places:
            if holds:
                holding.setdefault(place, waiver)
            elif place not in latest or waiver.expires > latest[place].expires:
                latest[place] = waiver
    found = list(results)
    for place in holding.keys() | latest.keys():
        result = results[place]
        if result.status != "fail":
            continue
        if place in holding:
            update: dict[str, object] = {"status": "waived", "waiver": holding[place]}
        else:
            last = latest[place]
            reason = (
                f"{result.reason}; its waiver expired on {last.expires} (owner: {last.owner}, {last.link})"
            )
            update = {"reason": reason}
        found[place] = result.model_copy(update=update)
    return found


def _uses(
    waivers: Sequence[Waiver],
    results: Sequence[CheckResult],
    named: Sequence[Sequence[int]],
    planned: Collection[tuple[str, str]],
    day: date | None,
) -> list[WaiverUse]:
    uses = []
    for waiver, places in zip(waivers, named, strict=True):
        own = [r for r in map(results.__getitem__, places) if (r.cell, r.check) in planned]
        checks = tuple(f"{r.cell}::{r.check}" for r in own)
        uses.append(WaiverUse(waiver=waiver, state=_state(waiver, own, day), checks=checks))
    return uses


def _state(waiver: Waiver, named: Sequence[CheckResult], day: date | None) -> WaiverState:
    statuses = {result.status for result in named}
    if not named:
        return "not_in_run"
    if not statuses & {"pass", "fail"}:
        # Nothing is known of what it names, and that alone leaves the run without a certificate.
        return "no_answer"
    if expired(waiver, day):
        return "expired"
    return "stale" if "pass" in statuses else "in_force"


def contradiction(checks: Sequence[CheckResult], uses: Sequence[WaiverUse], started: str) -> str:
    """Where a certificate's waivers do not follow from its checks; empty when they do.

    Args:
        checks, uses, started: as the certificate has them.
    """
    day = day_of(started)
    given = frozenset(use.waiver for use in uses)
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
    waivers = [use.waiver for use in uses]
    for use, right in zip(
        uses, _uses(waivers, as_failed, _named(waivers, as_failed), planned, day), strict=True
    ):
        if use != right:
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
