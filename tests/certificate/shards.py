"""Journals of shards: a whole run's in parts, as if the parts had run by themselves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from bi_harness.certificate.events import (
    CheckFinished,
    CheckProgress,
    CheckStarted,
    EngineReady,
    Event,
    Localized,
    PlannedChecks,
    RunResumed,
    RunStarted,
    ShardStarted,
    UnitFinished,
    UnitStarted,
    plan_digest,
)
from bi_harness.certificate.records import CheckResult
from tests.certificate.journals import DIGEST, TIME, end, finished, ready, result, started

CHECKS = ("alone", "spread")


def unit(number: int) -> str:
    return f"cpu/m{number}/CPU_ATTN/tp1-dp1/eager"


def shard_of(start: RunStarted, index: int, count: int, units: Sequence[str]) -> ShardStarted:
    return ShardStarted(index=index, count=count, plan=plan_digest(start.plan), units=tuple(units))


def unit_of(event: Event, start: RunStarted) -> str | None:
    """Written anew here: by what an event names."""
    if isinstance(event, UnitStarted | UnitFinished):
        return event.unit
    cell = ""
    if isinstance(event, EngineReady):
        cell = event.arm.unit
    elif isinstance(event, CheckStarted | CheckProgress):
        cell = event.cell
    elif isinstance(event, CheckFinished):
        cell = event.result.cell
    elif isinstance(event, Localized):
        cell = event.localization.cell
    else:
        return None
    (found,) = {p.unit for p in start.plan if cell in (p.cell, p.unit)}
    return found


def split(events: Sequence[Event], units: Sequence[Sequence[str]]) -> list[list[Event]]:
    """A journal as shards would have written it that have these units, one after the other."""
    start = events[0]
    assert isinstance(start, RunStarted)
    found: list[list[Event]] = []
    for index, own in enumerate(units, start=1):
        shard = shard_of(start, index, len(units), own)
        first = start.model_copy(update={"shard": shard})
        rest = [e for e in events[1:] if (of := unit_of(e, start)) is None or of in own]
        assert not any(isinstance(e, RunResumed) for e in rest), "of a run that was resumed, make each anew"
        found.append([first, *rest])
    return found


def plan_of(count: int) -> tuple[PlannedChecks, ...]:
    """``count`` units of one cell each, and a cell of the first and one more unit that a rule excludes."""
    cells = [PlannedChecks(cell=f"{unit(n)}/core", unit=unit(n), checks=CHECKS) for n in range(1, count + 1)]
    rule = {"rule": "heads", "reason": "Too few heads.", "source": "PR 1"}
    return (
        *cells[:1],
        PlannedChecks(cell=f"{unit(1)}/other", unit=unit(1), checks=("alone",), **rule),
        PlannedChecks(cell=f"{unit(0)}/core", unit=unit(0), checks=("alone",), **rule),
        *cells[1:],
    )


def body(number: int, results: Mapping[str, CheckResult] | None = None) -> list[Event]:
    """What a unit writes that comes to its end, with a pass where nothing else is given."""
    name, cell = unit(number), f"{unit(number)}/core"
    told: list[Event] = [UnitStarted(time=TIME, unit=name)]
    told += [ready_of(number, "treatment"), ready_of(number, "control")]
    for check in CHECKS:
        given = (results or {}).get(check) or result(check=check, cell=cell)
        told += [
            CheckStarted(time=TIME, cell=cell, check=check),
            CheckProgress(time=TIME, cell=cell, check=check, arm="treatment", done=1, of=2),
            finished(given),
        ]
    told.append(
        UnitFinished(time=TIME, unit=name, outcome="completed", log=f"logs/m{number}.log", duration_s=2.0)
    )
    return told


def ready_of(number: int, arm: str) -> EngineReady:
    return ready(arm, unit=unit(number), checkpoints={f"m{number}": DIGEST})


def whole(count: int, results: Mapping[str, CheckResult] | None = None, **changes: object) -> list[Event]:
    """A run of ``count`` units, with these results in place of passes: by ``<number>/<check>``."""
    told: list[Event] = [started(*plan_of(count), **changes)]
    for number in range(1, count + 1):
        own = {k.partition("/")[2]: v for k, v in (results or {}).items() if k.startswith(f"{number}/")}
        told += body(number, own)
    return [*told, end()]


def units_of(count: int) -> list[str]:
    """All units of ``plan_of``, in its order."""
    return [unit(1), unit(0), *(unit(n) for n in range(2, count + 1))]
