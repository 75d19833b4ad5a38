"""Made-up runs in which every kind of event and every part of a certificate is there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bi_harness.certificate.events import Event, Localized, Node, RunResumed, RunStarted, UnitStarted
from bi_harness.certificate.localized import (
    Cost,
    InputShape,
    Localization,
    ModuleState,
    OptionTried,
    Sent,
    TensorDifference,
    UlpBand,
)
from bi_harness.certificate.records import (
    Fact,
    ModuleResult,
    Needed,
    OpDifference,
    OpRange,
    OpResult,
    PlantedControl,
    Waiver,
)
from bi_harness.certificate.statement import EndpointScope, Power

FIRST = OpDifference(rows=2, place=0, beside="random")
RANGES = (OpRange(first=1, last=4, holds=True), OpRange(first=5, last=9, holds=False))


def runs() -> list[list[Event]]:
    """Runs, none of which is CERTIFIED in a way that ``oracle`` does not know."""
    return [axes(), waived("fail"), waived("pass"), *shards(), whole(), full(), resumed(), lost()]


def axes() -> list[Event]:
    """Bits differ between two data parallel sizes."""
    from tests.certificate import journals as made

    cells = (made.CELL, f"{made.UNIT.replace('dp1', 'dp2')}/core")
    results = [
        made.result(cell=cell, evidence=made.evidence(digest=f"sha256:{letter * 64}"))
        for cell, letter in zip(cells, "ab", strict=True)
    ]
    return made.sound(*results, plan=tuple(made.planned(cell=cell) for cell in cells))


def waived(status: Any) -> list[Event]:
    """A waiver of what failed, or of what passed, beside an error."""
    from tests.certificate import journals as made

    events = made.sound(made.result(status), made.result("error", check="spread"))
    return _with(events, waivers=(made.waiver(),))


def shards() -> list[list[Event]]:
    """Two shards of a run with a failure."""
    from tests.certificate import journals as made
    from tests.certificate import shards as parts

    failed = made.result("fail", cell=f"{parts.unit(1)}/core")
    units = [[parts.unit(1), parts.unit(0)], [parts.unit(2)]]
    return parts.split(parts.whole(2, {"1/alone": failed}), units)


def whole() -> list[Event]:
    """A run of several units that is CERTIFIED."""
    from tests.certificate import shards as parts

    return parts.whole(3)


def full() -> list[Event]:
    """A localized failure, a planted control, operators and modules, of an endpoint on a GPU host."""
    from tests.certificate import journals as made

    failed = made.result("fail")
    planted = PlantedControl(requests="together", evidence=made.evidence(3))
    needed = made.evidence(needed=(Needed(name="preemptions", needed=1, reached=2, at_most=9),))
    op = OpResult(
        op="rms_norm",
        dtype="bfloat16",
        judged=True,
        promised=True,
        rows=8,
        differing=1,
        max_ulp=1,
        repeated=2,
        distance=0.5,
        first=FIRST,
        ranges=RANGES,
    )
    module = ModuleResult(
        type="Linear", name="m", parameters=1, instances=2, audited=1, rows=8, alone=2, ranges=RANGES[:1]
    )
    facts = (Fact(name="kernels_built", found="0", expected=("0",), source="PR 1"),)
    events = made.sound(
        failed,
        made.result(
            check="planted",
            control=made.evidence(),
            planted_control=planted,
            evidence=needed,
        ),
        made.result("error", check="parts", ops=(op,), modules=(module,), facts=facts, control_facts=facts),
    )
    gpu = {"name": "H200", "capability": "9.0", "memory_gib": 139.8, "mig": False}
    host = {"hostname": "a", "machine": "x86_64", "cpu_model": "X", "cpu_flags": ["avx512f"], "gpus": [gpu]}
    options = {"device": "cpu", "models": ["tiny"], "seed": 0, "shard": None, "cores": [1]}
    paths = {"models": "models.yaml", "hardware": "hardware.yaml", "suites": "suites"}
    power = Power(
        suite="core",
        faults=3,
        caught=2,
        clean_runs=1,
        false_alarms=0,
        device="cpu",
        vllm="0.32.0",
        measured=made.TIME,
        current=True,
    )
    events = _with(
        events,
        device={"id": "cpu", "kind": "cpu", "title": "A CPU", "host": host, "nodes": [{"host": "b"}]},
        asked={"options": options, "paths": paths, "vllm": "0.32.0"},
        power=(power,),
        scope=made.started().scope.model_copy(
            update={"endpoint": EndpointScope(url="http://127.0.0.1:8000")}
        ),
    )
    return [*events[:-1], Localized(time=made.TIME, localization=_localization(failed.cell)), events[-1]]


def _localization(cell: str) -> Localization:
    sent = Sent(neighbours=1, prompt_tokens=9, neighbour_tokens=9, steps=2)
    tensor = TensorDifference(
        path="0",
        dtype="bfloat16",
        shape_alone=(1, 8),
        shape_batch=(2, 8),
        rows=1,
        values=8,
        differing_rows=1,
        differing_values=3,
        max_ulp=2,
        ulps=(UlpBand(first=1, last=2, values=3),),
    )
    return Localization(
        cell=cell,
        check="alone",
        outcome="module",
        module="model.layers.0.mlp",
        class_name="MLP",
        eager=True,
        request=0,
        step=1,
        position=3,
        planned=sent,
        smallest=sent,
        inputs=(InputShape(path="0", dtype="bfloat16", shape_alone=(1, 8), shape_batch=(2, 8)),),
        outputs=(tensor,),
        ran_alone=("gemv",),
        ran_batch=("gemm",),
        modules=(ModuleState(name="model", class_name="M", state="differs"),),
        options=(OptionTried(name="eager", differs=None, note="not tried"),),
        cost=Cost(seconds=1.5, starts=1, tries=2, plain_s=0.1, watched_s=0.2, device_peak=9),
    )


def resumed() -> list[Event]:
    """A unit crashed, the run was resumed, and one check gave no answer again."""
    from tests.certificate import journals as made

    error = made.result("error", check="spread")
    start, *body = made.sound(made.result(), error)
    crashed = [*body[:3], made.finished(error), made.ended("crashed", message="it broke"), made.end()]
    again = RunResumed(time=made.TIME, kept=0, left=2, units=1, torn=7, host="b", command=("bi-harness",))
    return [start, *crashed, again, *body]


def lost() -> list[Event]:
    """A unit lost its node, and ran again on another one, with an error."""
    from tests.certificate import journals as made

    start, first, *body = made.sound(made.result(), made.result("error", check="spread"))
    assert isinstance(first, UnitStarted)
    nodes = [first.model_copy(update={"node": Node(id=name, host=name, gpus=("0",))}) for name in "ab"]
    return [start, nodes[0], made.ended("lost", message="its node went away"), nodes[1], *body]


def _with(events: Sequence[Event], **changes: Any) -> list[Event]:
    start = events[0]
    assert isinstance(start, RunStarted)
    if "waivers" in changes:
        assert all(isinstance(one, Waiver) for one in changes["waivers"])
    return [start.model_copy(update=changes), *events[1:]]
