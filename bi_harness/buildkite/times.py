"""How long units take: from what was measured, and where nothing was, from a figure that says so."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import yaml

from bi_harness.certificate.records import Status
from bi_harness.certificate.statement import Statement
from bi_harness.matrix.cells import Cell, Unit
from bi_harness.spec.times import TimesFile

RAN: tuple[Status, ...] = ("pass", "fail", "inconclusive", "waived")
"""Checks whose time tells how long they take. An error is one that died early, or hung."""

SLACK = 3.0
"""A step is ended after this many times what its shard should take: hosts differ, and caches may be cold. A
unit that hangs is ended by the runner, which knows each check's own limit."""

SET_UP_MINUTES = 30
"""Of every step, besides: environment, checkpoints. Nobody has measured it."""


@dataclass(frozen=True, slots=True)
class Expected:
    """What a unit should take.

    Attributes:
        seconds: of wall time.
        measured, assumed: how many of its checks that is of, by where their times are from.
    """

    seconds: float
    measured: int
    assumed: int


@dataclass(frozen=True, slots=True)
class Sharding:
    """How a device's units are spread over jobs.

    Attributes:
        shards: how many there are.
        expected_s: of the longest one, at most.
        timeout_minutes: after which a job is ended.
    """

    shards: int
    expected_s: float
    timeout_minutes: int


def expected(
    unit: Unit, checks: Mapping[str, tuple[str, ...]], times: TimesFile, *, profile: str, layers: int | None
) -> Expected:
    """What a unit should take.

    Args:
        unit: the unit.
        checks: those that are to run, by cell.
        times: what was measured. A time counts for the same cell, profile and number of layers alone; that of
            a compile cell for mode default too, where default itself was not measured. Default is compile, or
            starts sooner.
        profile, layers: of the run.
    """
    seconds, known, unknown = 0.0, 0, 0
    for cell in unit.cells:
        found = _measured(cell, times, profile, layers)
        for name in checks.get(cell.id, ()):
            seconds += found.get(name, times.assumed_check_s)
            known += name in found
            unknown += name not in found
    return Expected(seconds, known, unknown)


def _measured(cell: Cell, times: TimesFile, profile: str, layers: int | None) -> Mapping[str, float]:
    by_cell = {m.cell: m.checks for m in times.measured if (m.profile, m.layers) == (profile, layers)}
    stands_in = replace(cell, mode="compile") if cell.mode == "default" else cell
    return {**by_cell.get(stands_in.id, {}), **by_cell.get(cell.id, {})}


def sharding(
    units: Mapping[str, float],
    *,
    shard_s: float,
    most: int,
    parts: Callable[[int], Sequence[Sequence[str]]] | None = None,
) -> Sharding:
    """How many shards units make that take so long: as few as keep each under ``shard_s``.

    Args:
        units: seconds of each, by id; not empty.
        shard_s: what a shard should take at most. A single unit may take longer.
        most: shards at most, whatever they take then.
        parts: the units of each of so many shards, as ``run --shard`` has them. Where it is not given, the
            longest shard is bounded, for units that are dealt out in turn or by their times.
    """
    total, most = sum(units.values()), max(1, min(len(units), most))
    shards = min(most, max(1, math.ceil(total / shard_s)))
    # Of a bound, nobody knows that more shards are needed.
    while (longest := _longest(units, shards, parts)) > shard_s and shards < most and parts is not None:
        shards += 1
    return Sharding(shards, longest, SET_UP_MINUTES + math.ceil(SLACK * longest / 60))


def _longest(
    units: Mapping[str, float], shards: int, parts: Callable[[int], Sequence[Sequence[str]]] | None
) -> float:
    if parts is not None:
        return max(sum(units[unit] for unit in part if unit in units) for part in parts(shards))
    total = sum(units.values())
    # In turn, one shard may have all the long ones; by their times, one more than its part.
    in_turn = sum(sorted(units.values(), reverse=True)[: math.ceil(len(units) / shards)])
    return min(total, max(in_turn, total / shards + max(units.values())))


def measure(statements: Iterable[Statement], assumed_check_s: float) -> TimesFile:
    """What certificates say of how long their checks took; of several runs the longest."""
    checks: dict[tuple[str, str, int | None], dict[str, float]] = {}
    runs: dict[tuple[str, str, int | None], dict[str, None]] = {}
    for statement in statements:
        result = statement.predicate.bi_harness
        for check in result.checks:
            if check.status not in RAN or not check.duration_s or check.duration_s <= 0:
                continue
            where = (check.cell, result.scope.profile, result.scope.layers)
            known = checks.setdefault(where, {})
            known[check.check] = max(known.get(check.check, 0.0), round(check.duration_s, 1) or 0.1)
            runs.setdefault(where, {})[result.run_id] = None
    return TimesFile.model_validate(
        {
            "assumed_check_s": assumed_check_s,
            "measured": [
                {
                    "cell": cell,
                    "profile": profile,
                    "layers": layers,
                    "checks": found,
                    "runs": sorted(runs[where]),
                }
                for where, found in sorted(
                    checks.items(), key=lambda item: (item[0][0], item[0][1], item[0][2] or 0)
                )
                for cell, profile, layers in [where]
            ],
        }
    )


_HEAD = """\
# How long checks took: `bi-harness pipeline` makes shards and limits of time of it.
#
# Written by `make times` (`bi-harness pipeline --measure RUN`) from the certificates of the runs in git; do
# not edit by hand.
# assumed_check_s is no measurement: what a check is taken to need that is not listed here for its own cell,
# profile and number of layers. It is above the longest mean that was measured in any cell.
"""


def render_times(times: TimesFile) -> str:
    """The text of ``times.yaml``."""
    data = times.model_dump(mode="json", by_alias=True)
    for cell in data["measured"]:
        if cell["layers"] is None:
            del cell["layers"]
    body: str = yaml.safe_dump(data, sort_keys=False, width=100)
    return _HEAD + body
