"""A plan in parts, for several hosts of one device. Pure: the same plan gives the same parts everywhere.

A part is made of whole units, since a unit is what one engine start serves. Every unit of the plan is in
exactly one part, units of which rules leave nothing to run too: parts together tell all that a plan tells.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from heapq import heapreplace
from typing import Final

from bi_harness.errors import UsageError
from bi_harness.matrix.select import Selection

MOST: Final = 999
"""Shards of a run, at most."""

JOB, JOBS = "BUILDKITE_PARALLEL_JOB", "BUILDKITE_PARALLEL_JOB_COUNT"
"""Buildkite's variables of a step with ``parallelism``: which job it is, from 0, and of how many.
Source: https://buildkite.com/docs/pipelines/configure/environment-variables"""

_SHARD = re.compile(r"([0-9]{1,6})/([0-9]{1,6})", re.ASCII)
_NUMBER = re.compile(r"[0-9]{1,6}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Shard:
    """Which part of a run.

    Attributes:
        index: from 1.
        count: how many there are; more than 1.
    """

    index: int
    count: int


def shard_asked(text: str | None, environ: Mapping[str, str]) -> Shard | None:
    """The shard that a process is to run; ``None`` for all of the run.

    Args:
        text: of ``--shard``, ``2/3``; ``None`` where it is not given. ``1/1`` is all of the run.
        environ: of the process. Where no text is given, Buildkite's variables count, if both are there.

    Raises:
        UsageError: neither is a shard.
    """
    if text is not None:
        found = _SHARD.fullmatch(text.strip())
        if found is None:
            raise UsageError(f"--shard {text[:60]!r}: give I/N, the first of three is 1/3")
        return _valid(int(found[1]), int(found[2]), f"--shard {text.strip()}")
    job, jobs = environ.get(JOB), environ.get(JOBS)
    if job is None or jobs is None:
        return None
    where = f"{JOB}={job[:20]} {JOBS}={jobs[:20]}"
    if not (_NUMBER.fullmatch(job) and _NUMBER.fullmatch(jobs)):
        raise UsageError(f"{where}: Buildkite gives two numbers, the job's from 0. Say it with --shard I/N")
    return _valid(int(job) + 1, int(jobs), where)


def _valid(index: int, count: int, where: str) -> Shard | None:
    if not 1 <= count <= MOST:
        raise UsageError(f"{where}: there can be 1 to {MOST} shards")
    if not 1 <= index <= count:
        raise UsageError(
            f"{where}: there is no shard {index} of {count}; the first is 1, the last is {count}"
        )
    return Shard(index, count) if count > 1 else None


def parts(weights: Mapping[str, float], count: int) -> tuple[tuple[str, ...], ...]:
    """Units in ``count`` parts of about the same weight.

    The heaviest unit first, each goes where the least weight is: no part is heavier than the mean and one
    unit more, and none is heavier than 4/3 of what the best division has (Graham 1969).

    Args:
        weights: of each unit, by id, none below 0, in the order of the plan; it decides between equals.
        count: how many parts; some are empty where there are fewer units.

    Returns:
        The ids of each part, in the order of the plan.
    """
    place = {unit: number for number, unit in enumerate(weights)}
    # Load, units (which decide where units weigh nothing), number: a heap as it stands.
    heads = [(0.0, 0, index) for index in range(count)]
    found: list[list[str]] = [[] for _ in heads]
    for unit in sorted(weights, key=lambda unit: (-weights[unit], place[unit])):
        load, units, index = heads[0]
        found[index].append(unit)
        heapreplace(heads, (load + weights[unit], units + 1, index))
    return tuple(tuple(sorted(units, key=place.__getitem__)) for units in found)


def narrowed_to(selection: Selection, units: Collection[str]) -> Selection:
    """What of a selection is of these units: cells that run, and those that rules leave out."""
    wanted = frozenset(units)
    cells = tuple(planned for planned in selection.plan.cells if planned.unit in wanted)
    plan = replace(
        selection.plan, cells=cells, units=tuple(u for u in selection.plan.units if u.id in wanted)
    )
    return Selection(plan=plan, checks={p.cell.id: selection.checks[p.cell.id] for p in cells})
