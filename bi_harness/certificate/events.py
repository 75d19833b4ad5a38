"""What a run writes down as it goes: the journal's events. Certificate and reports follow from them alone.

A journal is ``events.jsonl``, one event a line, in the order in which they were written. The runner writes
``RunStarted`` first, with the whole plan, so that a check that leaves no trace is still missed.
``RunResumed`` begins another attempt at what is left.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Annotated, Any, Literal

from pydantic import (
    FailFast,
    Field,
    SerializerFunctionWrapHandler,
    TypeAdapter,
    model_serializer,
)

from bi_harness.certificate.free_parts import Asked, Device, Provenance
from bi_harness.certificate.localized import Localization
from bi_harness.certificate.records import (
    CheckResult,
    Count,
    Digest,
    PositiveCount,
    Record,
    Waiver,
)
from bi_harness.certificate.statement import EffectiveArm, Power, Scope
from bi_harness.matrix.shards import MOST as MAX_SHARDS

MAX_WAIVERS = 4096
"""Of a run; ``waivers.yaml`` holds fewer. Each may be a pattern that is tried on every failure."""


class PlannedChecks(Record):
    """One cell of the plan.

    Attributes:
        cell: its id.
        unit: the unit that serves it.
        checks: the checks to run (or, for a skipped cell, that would have run), in order.
        rule: id of the rule that skips it; ``None`` when it runs.
        reason: of the skip.
        source: of the rule.
    """

    cell: str
    unit: str
    checks: tuple[str, ...]
    rule: str | None = None
    reason: str = ""
    source: str = ""


class ShardStarted(Record):
    """Which part of its plan a run is of, and of which plan.

    Attributes:
        index: from 1.
        count: how many parts there are.
        plan: digest of the whole plan (see ``plan_digest``).
        units: of this part; none where there are more parts than units.
    """

    index: PositiveCount
    count: Annotated[int, Field(ge=2, le=MAX_SHARDS)]
    plan: Digest
    units: Annotated[tuple[str, ...], FailFast()]


def plan_digest(plan: Iterable[PlannedChecks]) -> str:
    """``sha256:...`` over a plan: its cells, units, checks and rules, in order."""
    total = hashlib.sha256()
    for planned in plan:
        total.update(planned.model_dump_json().encode() + b"\n")
    return f"sha256:{total.hexdigest()}"


class RunStarted(Record):
    """The first event: what was asked for, of whom, and with what.

    ``waivers`` are all that the run was given, in the file's order; ``time`` decides which have expired.
    ``shard`` is there where the run is of a part of its plan; ``plan`` is the whole all the same, so that
    what a set of shards lacks is missed in what they are merged to.
    """

    type: Literal["run_started"] = "run_started"
    time: str
    run_id: str
    device: Device
    scope: Scope
    plan: Annotated[tuple[PlannedChecks, ...], FailFast()]
    provenance: Provenance
    power: tuple[Power, ...] = ()
    waivers: Annotated[tuple[Waiver, ...], FailFast(), Field(max_length=MAX_WAIVERS)] = ()
    asked: Asked | None = None
    """The options as they were given, for ``--resume``; ``None`` in journals of before there was one."""
    shard: ShardStarted | None = None

    @property
    def own(self) -> tuple[PlannedChecks, ...]:
        """What of the plan this run is of: all of it, but for a shard."""
        return self.plan if self.shard is None else self.part(self.shard.units)

    def part(self, units: Iterable[str]) -> tuple[PlannedChecks, ...]:
        """What of the plan is of these units."""
        wanted = frozenset(units)
        return tuple(planned for planned in self.plan if planned.unit in wanted)

    @model_serializer(mode="wrap")
    def _shard_where_it_is_one(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return _without_none(handler(self), "shard")


class Node(Record):
    """Where a unit of a run on several hosts ran.

    Attributes:
        id: the cluster's name of it.
        host: what the node calls itself.
        gpus: ids of the GPUs that the unit was given; none on a CPU.
    """

    id: str
    host: str
    gpus: tuple[str, ...] = ()


class UnitStarted(Record):
    """A unit's process was started; on which node, where that is another host than the runner's."""

    type: Literal["unit_started"] = "unit_started"
    time: str
    unit: str
    node: Node | None = None

    @model_serializer(mode="wrap")
    def _node_where_there_is_one(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        data: dict[str, Any] = handler(self)
        if self.node is None:
            # The lines of runs on one host stay what they always were.
            del data["node"]
        return data


class EngineReady(Record):
    """An engine answered, and said what it is."""

    type: Literal["engine_ready"] = "engine_ready"
    time: str
    arm: EffectiveArm
    provenance: Provenance


class CheckStarted(Record):
    """A check began."""

    type: Literal["check_started"] = "check_started"
    time: str
    cell: str
    check: str


class CheckProgress(Record):
    """Bursts done of one arm of a check: a sign of life."""

    type: Literal["check_progress"] = "check_progress"
    time: str
    cell: str
    check: str
    arm: str
    done: Count
    of: Count


class CheckFinished(Record):
    """A check ended, with its result."""

    type: Literal["check_finished"] = "check_finished"
    time: str
    result: CheckResult


class UnitFinished(Record):
    """A unit's process ended.

    Attributes:
        outcome: ``completed``, ``crashed``, ``timed_out``, ``interrupted``, or ``lost``: its node went away
            under it, which says nothing of the unit; it may be started again for what has no verdict.
        message: one sentence for a reader; empty when it completed.
        log: the unit's log, relative to the run folder.
        duration_s: seconds of wall time.
    """

    type: Literal["unit_finished"] = "unit_finished"
    time: str
    unit: str
    outcome: Literal["completed", "crashed", "timed_out", "interrupted", "lost"]
    message: str = ""
    log: str | None = None
    duration_s: float


class Localized(Record):
    """A failure was traced to where it begins, or that was tried: see ``certificate.localized``."""

    type: Literal["localized"] = "localized"
    time: str
    localization: Localization


class RunFinished(Record):
    """The last event. A journal without it is of a run that was cut off."""

    type: Literal["run_finished"] = "run_finished"
    time: str
    interrupted: bool


class RunResumed(Record):
    """A run that left checks without a verdict goes on. What was written before stays as it is.

    Attributes:
        kept: checks whose results stand (see ``attempts``).
        left: checks that are to run, for the first time or again.
        units: how many units those are of.
        torn: bytes of a last line that was cut off while it was written, and was dropped.
        host: the name of the host that it goes on on.
        command: that resumed it.
        of: in a merged journal, the units of the shard that was resumed, maybe none; ``None`` where the
            whole run was resumed.
    """

    type: Literal["run_resumed"] = "run_resumed"
    time: str
    kept: Count
    left: Count
    units: Count
    torn: Count = 0
    host: str = ""
    command: tuple[str, ...] = ()
    of: tuple[str, ...] | None = None

    @model_serializer(mode="wrap")
    def _of_where_it_is_merged(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return _without_none(handler(self), "of")


def _without_none(data: dict[str, Any], name: str) -> dict[str, Any]:
    # Journals of whole runs stay what they always were, byte for byte.
    if data.get(name) is None:
        data.pop(name, None)
    return data


Event = Annotated[
    RunStarted
    | UnitStarted
    | EngineReady
    | CheckStarted
    | CheckProgress
    | CheckFinished
    | UnitFinished
    | Localized
    | RunFinished
    | RunResumed,
    Field(discriminator="type"),
]

EVENTS: TypeAdapter[Event] = TypeAdapter(Event)
"""To and from JSON: ``EVENTS.validate_json(line)``, ``event.model_dump_json()``."""
