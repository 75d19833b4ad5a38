"""What waivers do to a run's results, and to its verdict. Pure, and from the journal's word alone.

A waiver turns a ``fail`` into ``waived`` and nothing else into anything. It must hold when the run starts,
and all that it names must fail: one that has expired, or that names something which passes, fails the run, so
that it is taken out or looked at again.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from datetime import date
from fnmatch import translate
from functools import lru_cache

from bi_harness.certificate.records import CheckResult, Waiver
from bi_harness.certificate.statement import WaiverState, WaiverUse
from bi_harness.certificate.times import utc


def names(waiver: Waiver, cell: str, check: str) -> bool:
    """Whether the waiver is of this check on this cell."""
    return waiver.check == check and _pattern(waiver.cell)(cell) is not None


_WILDCARD = re.compile(r"[*?]")


@lru_cache(maxsize=4096)
def _pattern(cell: str) -> Callable[[str], object]:
    # As fnmatch.fnmatchcase, which compiles a pattern again after 256 others.
    return re.compile(translate(cell)).match


_Key = tuple[str, str]
"""A waiver's pattern of cells and its check."""


def _named(waivers: Iterable[Waiver], results: Sequence[CheckResult]) -> dict[_Key, list[int]]:
    """The places of the results that waivers name, in their order, by the waivers' cell and check.

    A pattern is tried once, however many waivers have it, and only on results of its check whose cell begins
    with the letters before its first wildcard: a search among all of them would take quadratic time.
    """
    by_check: dict[str, list[tuple[str, int]]] = {}
    for place, result in enumerate(results):
        by_check.setdefault(result.check, []).append((result.cell, place))
    for cells in by_check.values():
        cells.sort()
    return {
        (cell, check): sorted(_matching(cell, by_check.get(check, [])))
        for cell, check in dict.fromkeys((waiver.cell, waiver.check) for waiver in waivers)
    }


def _matching(pattern: str, cells: Sequence[tuple[str, int]]) -> list[int]:
    """The places of the cells that a pattern matches; ``cells`` are sorted."""
    # What follows a "[" is a set of letters.
    words = _WILDCARD.split(pattern.partition("[")[0])
    prefix, longest = words[0], max(words, key=len)
    start = bisect_left(cells, (prefix,))
    end = bisect_left(cells, True, key=lambda one: not one[0].startswith(prefix), lo=start)
    if prefix == pattern:
        return [place for cell, place in cells[start:end] if cell == pattern]
    matches = _pattern(pattern)
    # To look for a word takes a fraction of the time that a regular expression takes.
    return [place for cell, place in cells[start:end] if longest in cell and matches(cell) is not None]


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
    named: Mapping[_Key, Sequence[int]],
    day: date | None,
) -> list[CheckResult]:
    """The results, with the first waiver that holds, or the last day of those that have expired."""
    first: dict[_Key, Waiver] = {}
    for waiver in waivers:
        if not expired(waiver, day):
            first.setdefault((waiver.cell, waiver.check), waiver)
    holding: dict[int, Waiver] = {}
    for key, waiver in first.items():
        for place in named[key]:
            holding.setdefault(place, waiver)
    last = _last_expired(waivers, named, day)
    found = list(results)
    for place in holding.keys() | last.keys():
        result = results[place]
        if result.status != "fail":
            continue
        if place in holding:
            update: dict[str, object] = {"status": "waived", "waiver": holding[place]}
        else:
            update = {"reason": f"{result.reason}{_told(last[place])}"}
        found[place] = result.model_copy(update=update)
    return found


def _last_expired(
    waivers: Sequence[Waiver], named: Mapping[_Key, Sequence[int]], day: date | None
) -> dict[int, Waiver]:
    """By the place of a result, the waiver with the last day of those that name it and have expired."""
    latest: dict[_Key, tuple[int, Waiver]] = {}
    for number, waiver in enumerate(waivers):
        key = (waiver.cell, waiver.check)
        if expired(waiver, day) and (key not in latest or waiver.expires > latest[key][1].expires):
            latest[key] = number, waiver
    found: dict[int, Waiver] = {}
    # In the waivers' order: of two with the same last day, the first counts.
    for key, (_, waiver) in sorted(latest.items(), key=lambda item: item[1][0]):
        for place in named[key]:
            known = found.setdefault(place, waiver)
            if waiver.expires > known.expires:
                found[place] = waiver
    return found


def expiry_told(waivers: Sequence[Waiver], results: Sequence[CheckResult], started: str) -> dict[int, str]:
    """What a failure's reason ends with where its waivers have expired, by the place of the result."""
    if not waivers:
        return {}
    found = _last_expired(waivers, _named(waivers, results), day_of(started))
    return {place: _told(waiver) for place, waiver in found.items()}


def _told(waiver: Waiver) -> str:
    return f"; its waiver expired on {waiver.expires} (owner: {waiver.owner}, {waiver.link})"


def _uses(
    waivers: Iterable[Waiver],
    results: Sequence[CheckResult],
    named: Mapping[_Key, Sequence[int]],
    planned: Collection[tuple[str, str]],
    day: date | None,
) -> list[WaiverUse]:
    known: dict[_Key, tuple[tuple[str, ...], frozenset[str]]] = {}
    uses = []
    for waiver in waivers:
        key = (waiver.cell, waiver.check)
        if key not in known:
            own = [r for r in map(results.__getitem__, named[key]) if (r.cell, r.check) in planned]
            known[key] = tuple(f"{r.cell}::{r.check}" for r in own), frozenset(r.status for r in own)
        checks, statuses = known[key]
        uses.append(WaiverUse(waiver=waiver, state=_state(waiver, statuses, day), checks=checks))
    return uses


def _state(waiver: Waiver, statuses: Collection[str], day: date | None) -> WaiverState:
    if not statuses:
        return "not_in_run"
    if "pass" not in statuses and "fail" not in statuses:
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
