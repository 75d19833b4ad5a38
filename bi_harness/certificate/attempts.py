"""What a run that is resumed keeps, and what it has to do again. Pure.

A result that says something about the bits (``pass``, ``fail``, ``inconclusive``) stands: a resumed run is no
second chance. A check without a result, or with one that says nothing (``error``), runs again, and the
certificate lists what was there before. A unit that crashed or hung after its last check has no pass to be
believed: its passes run again, its failures stand. One that was cut off, its results on disk, is done.

A unit whose node was lost was cut off, too: what has no verdict runs again on another node, within the same
run, at most ``TRIES`` times in all.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from bi_harness.certificate.events import RunStarted, UnitFinished
from bi_harness.certificate.records import CheckResult, Status
from bi_harness.certificate.statement import EffectiveArm, Reopened

Key = tuple[str, str]
"""Cell and check."""

FINAL: Final[frozenset[Status]] = frozenset({"pass", "fail", "inconclusive", "waived"})
"""What is never run again (but for the passes of a unit that ended badly by itself)."""

TRIES: Final = 3
"""How often a unit is started in a run that loses its nodes, before somebody has to look (``--resume``)."""

_OWN_END: Final = ("crashed", "timed_out")
"""How a unit ends badly by itself; cut off, it was by something else."""


@dataclass(frozen=True, slots=True)
class Left:
    """What is left of a plan.

    Attributes:
        reopened: the checks to run, in plan order, with what was there before.
        kept: how many checks keep their results.
        done: the units that have nothing left to run.
        units: how many units have something left.
    """

    reopened: tuple[Reopened, ...]
    kept: int
    done: frozenset[str]
    units: int

    @property
    def checks(self) -> dict[str, tuple[str, ...]]:
        """The checks to run of each cell that has some."""
        found: dict[str, tuple[str, ...]] = {}
        for one in self.reopened:
            found[one.cell] = (*found.get(one.cell, ()), one.check)
        return found


def left(start: RunStarted, results: Mapping[Key, CheckResult], units: Mapping[str, UnitFinished]) -> Left:
    """What is left to do.

    Args:
        start: the plan.
        results: of the run up to now.
        units: those that ended, by id.
    """
    of_unit: dict[str, list[Key]] = {}
    for planned in start.own:
        if planned.rule is None:
            of_unit.setdefault(planned.unit, []).extend((planned.cell, check) for check in planned.checks)
    again: set[Key] = set()
    for unit, keys in of_unit.items():
        unsettled = set(open_of(keys, results))
        ended = units.get(unit)
        if not unsettled and ended is not None and ended.outcome in _OWN_END:
            unsettled = {key for key in keys if results[key].status == "pass"}
        again |= unsettled
    order = [
        key for planned in start.own if planned.rule is None for key in _keys(planned.cell, planned.checks)
    ]
    unit_of = {key: unit for unit, keys in of_unit.items() for key in keys}
    return Left(
        reopened=tuple(
            _reopened(key, results.get(key), units.get(unit_of[key])) for key in order if key in again
        ),
        kept=sum(key not in again for key in order),
        done=frozenset(unit for unit, keys in of_unit.items() if not again & set(keys)),
        units=sum(bool(again & set(keys)) for keys in of_unit.values()),
    )


def open_of(keys: Iterable[Key], results: Mapping[Key, CheckResult]) -> list[Key]:
    """Those checks that have no verdict: no result, or one that says nothing."""
    return [key for key in keys if key not in results or results[key].status not in FINAL]


def lost(start: RunStarted, results: Mapping[Key, CheckResult], ended: UnitFinished) -> tuple[Reopened, ...]:
    """What a unit whose node was lost has left to do, in plan order, with what was there before."""
    keys = [
        (planned.cell, check)
        for planned in start.plan
        if planned.rule is None and planned.unit == ended.unit
        for check in planned.checks
    ]
    return tuple(_reopened(key, results.get(key), ended) for key in open_of(keys, results))


def current(
    arms: Sequence[tuple[tuple[int, int], EffectiveArm]], cells: Sequence[str]
) -> tuple[EffectiveArm, ...]:
    """What the engines of a run said, as an undisturbed run would tell it.

    Args:
        arms: each with the number of its attempt, and how often its unit was lost in it before, in the order
            of the journal.
        cells: the plan's, in order.

    Returns:
        In the order of the plan, whichever of units that ran side by side was ready first; those of one unit
        as they came. Of several attempts, without those that a later one had again, the same in everything
        but the time that the start took.
    """
    seen: dict[str, tuple[int, int]] = {}
    for attempt, arm in arms:
        seen[_what(arm)] = attempt  # the last one
    last = [arm for attempt, arm in arms if seen[_what(arm)] == attempt]
    rank: dict[str, int] = {}
    for number, cell in enumerate(cells):
        # An engine that several suites share is named by its cells without the suite.
        for name in (cell, cell.rpartition("/")[0]):
            rank.setdefault(name, number)
    return tuple(sorted(last, key=lambda arm: rank.get(arm.unit, len(rank))))


def _what(arm: EffectiveArm) -> str:
    return arm.model_copy(update={"start_s": 0.0}).model_dump_json()


def _keys(cell: str, checks: Sequence[str]) -> list[Key]:
    return [(cell, check) for check in checks]


def _reopened(key: Key, before: CheckResult | None, unit: UnitFinished | None) -> Reopened:
    what_of_unit = unit.message if unit is not None else ""
    if before is None:
        return Reopened(
            cell=key[0],
            check=key[1],
            status="none",
            reason=what_of_unit or "the run was cut off before its end",
        )
    status = before.status
    assert status in ("error", "skip", "pass")
    return Reopened(
        cell=key[0],
        check=key[1],
        status=status,
        reason=f"its unit did not end well: {what_of_unit}" if status == "pass" else before.reason,
    )
