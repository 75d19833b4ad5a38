"""From node to node: what is passed on of a unit, and when it is given up. The cluster is made up here."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

pytest.importorskip("ray")

from bi_harness.certificate.attempts import TRIES
from bi_harness.certificate.events import CheckFinished, CheckStarted, Event, RunFinished, UnitFinished
from bi_harness.errors import InfrastructureError
from bi_harness.runner.execution import Job
from bi_harness.runner.journal import now
from bi_harness.runner.on_ray import executor as tested
from bi_harness.runner.on_ray.alike import Chosen
from bi_harness.runner.on_ray.cluster import Given, Lost, Stopped
from bi_harness.runner.on_ray.executor import RayExecutor, places, takes_of
from bi_harness.runner.schedule import Need
from tests.certificate.journals import CELL, UNIT, result
from tests.runner.on_ray.test_alike import node
from tests.runner.standin import Standin

NEWS = dict[str, Any]


def news(*events: Event | str, ended: bool = False, error: str = "", **logs: bytes) -> NEWS:
    lines = [event if isinstance(event, str) else event.model_dump_json() for event in events]
    return {"events": lines, "logs": logs, "ended": ended, "error": error}


def over(outcome: Any = "completed") -> UnitFinished:
    return UnitFinished(time=now(), unit=UNIT, outcome=outcome, message="", duration_s=1.0)


def found(status: Any = "pass", check: str = "one") -> CheckFinished:
    return CheckFinished(time=now(), result=result(status, check))


@dataclass
class FakeUnit:
    told: list[NEWS | Exception]
    node: str = "id-a"
    refused: str = ""
    calls: list[str] = field(default_factory=list)
    order: dict[str, Any] = field(default_factory=dict)

    def begin(self, order: str, files: Any, enough: Callable[[], bool]) -> dict[str, Any]:
        self.order = json.loads(order)
        if enough():
            raise Stopped
        return {"refused": self.refused, "node": self.node, "host": self.node[3:], "gpus": []}

    def news(self, events: int, logs: dict[str, int]) -> NEWS:
        one = self.told.pop(0)
        if isinstance(one, Exception):
            raise one
        return one

    def stop(self) -> None:
        self.calls.append("stop")

    def end(self, *, orderly: bool) -> None:
        self.calls.append(f"end {orderly}")


@dataclass
class FakeCluster:
    units: list[FakeUnit]
    alive: list[str] = field(default_factory=lambda: ["id-a", "id-b"])
    asked: list[tuple[str, ...]] = field(default_factory=list)
    used: list[FakeUnit] = field(default_factory=list)

    def nodes(self) -> tuple[Given, ...]:
        return tuple(Given(name, name, 8, 0) for name in self.alive)

    def keep(self, files: Any) -> Any:
        return files

    def place(self, nodes: tuple[str, ...], *, cpus: float, gpus: int) -> FakeUnit:
        self.asked.append(tuple(nodes))
        self.used.append(self.units.pop(0))
        return self.used[-1]


@dataclass
class Run:
    standin: Standin
    cluster: FakeCluster
    events: list[Event] = field(default_factory=list)

    def go(self, stopped: Callable[[], bool] = lambda: False) -> None:
        self.standin.write(one="pass", two="pass")
        made = object.__new__(RayExecutor)
        both = (node("a"), node("b"))
        made._cluster = self.cluster  # type: ignore[assignment]
        made._known = {one.id: one for one in both}
        made._knowing = threading.Lock()
        made._chosen = Chosen("cpu", both, {})
        made._kind, made._python = "cpu", None
        task = self.standin.task()
        job = Job({UNIT: Need(1, 1.0, 1.0)}, both[0].host, "cpu", None, {})
        made.run(job, lambda unit: task, self.events.append, stopped)

    def told(self) -> list[str]:
        names = []
        for event in self.events:
            name = event.type
            if event.type == "unit_started":
                name = f"started on {event.node.host}"  # type: ignore[union-attr]
            elif event.type == "unit_finished":
                name = f"{event.outcome}: {event.message}".removesuffix(": ")
            elif event.type == "check_finished":
                name = f"{event.result.check} {event.result.status}"
            names.append(name)
        return names


def run(standin: Standin, *units: FakeUnit, **cluster: Any) -> Run:
    return Run(standin, FakeCluster(list(units), **cluster))


def test_a_unit_goes_on_elsewhere_with_what_has_no_verdict(standin: Standin) -> None:
    first = FakeUnit([news(found("fail")), Lost("the node has died")])
    second = FakeUnit([news(found(check="two"), over(), ended=True)], node="id-b")
    it = run(standin, first, second)
    it.go()
    assert it.told() == [
        "started on a",
        "one fail",
        "lost: its node a was lost: the node has died",
        "started on b",
        "two pass",
        "completed",
    ]
    assert it.cluster.asked == [("id-a", "id-b"), ("id-b",)], "not where it was lost"
    (cell,) = second.order["context"]["cells"]
    assert cell["checks"] == ["two"]
    assert (first.order["logs"], second.order["logs"]) == ("logs", "logs/try-2")
    assert (first.calls, second.calls) == (["end False"], ["end True"])


def test_the_only_node_is_asked_again(standin: Standin) -> None:
    it = run(
        standin,
        FakeUnit([Lost("the worker was killed due to memory pressure")]),
        FakeUnit([news(found(), found(check="two"), over(), ended=True)]),
        alive=["id-a"],
    )
    it.go()
    assert it.cluster.asked == [("id-a",), ("id-a",)]


def test_a_unit_that_has_all_its_verdicts_is_not_started_again(standin: Standin) -> None:
    it = run(standin, FakeUnit([news(found(), found(check="two")), Lost("gone")]))
    it.go()
    assert it.told()[-1] == "lost: its node a was lost: gone"


def test_tries_are_bounded_and_then_it_is_the_surroundings(standin: Standin) -> None:
    units = [FakeUnit([Lost(f"gone {number}")]) for number in range(TRIES)]
    it = run(standin, *units)
    with pytest.raises(InfrastructureError, match=f"lost {TRIES} times; the last time: gone 2") as told:
        it.go()
    assert told.value.exit_code == 75
    assert "--resume" in str(told.value)
    assert sum(event.type == "unit_started" for event in it.events) == TRIES


def test_a_node_that_is_not_what_it_was_gets_no_unit(standin: Standin) -> None:
    refuses = FakeUnit([], refused="it is not as the other nodes are: driver: 1 and 2")
    it = run(standin, refuses, FakeUnit([news(found(), found(check="two"), over(), ended=True)], "id-b"))
    it.go()
    assert it.told()[0] == "started on b", "nothing ran on the other, so nothing is told of it"
    assert it.cluster.asked[1] == ("id-b",)


def test_no_node_is_left(standin: Standin, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tested, "NO_NODE_S", 0.0)
    with pytest.raises(InfrastructureError, match="no node that the unit could run on is left"):
        run(standin, alive=[]).go()


def test_what_is_no_event_of_this_unit_ends_it(standin: Standin) -> None:
    for nonsense in (
        "not json",
        RunFinished(time=now(), interrupted=False),
        found(check="three"),
        CheckFinished(time=now(), result=result(check="one", cell=CELL.replace("tiny", "org"))),
        over("lost"),
        replace_unit(over()),
    ):
        unit = FakeUnit([news(nonsense, found()), news(ended=True)])
        it = run(standin, unit)
        it.go()
        assert it.told()[1].startswith("crashed: what its node tells is damaged"), nonsense
        assert len(it.events) == 2, "nothing after it is believed"
        assert unit.calls == ["stop", "end True"]


def replace_unit(event: UnitFinished) -> UnitFinished:
    return event.model_copy(update={"unit": "another"})


def test_an_error_of_the_node_is_a_loss(standin: Standin) -> None:
    it = run(
        standin,
        FakeUnit([news(ended=True, error="InfrastructureError: no space left")]),
        FakeUnit([news(found(), found(check="two"), over(), ended=True)], "id-b"),
    )
    it.go()
    assert it.told()[1] == "lost: its node a was lost: InfrastructureError: no space left"


def test_a_stop_ends_it_there(standin: Standin) -> None:
    asked: list[int] = []
    unit = FakeUnit(
        [news(CheckStarted(time=now(), cell=CELL, check="one")), news(over("interrupted"), ended=True)]
    )

    def stopped() -> bool:
        asked.append(1)
        return len(asked) > 2

    it = run(standin, unit)
    it.go(stopped)
    assert it.told()[-1] == "interrupted"
    assert unit.calls == ["stop", "end True"]


def test_a_node_that_does_not_end_it_is_not_waited_for(
    standin: Standin, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tested, "STOP_S", 0.0)
    unit = FakeUnit([news() for _ in range(9)])
    asked: list[int] = []

    def stopped() -> bool:
        asked.append(1)
        return len(asked) > 2

    it = run(standin, unit)
    it.go(stopped)
    assert it.told()[-1] == "interrupted: the run was interrupted"
    assert unit.calls[-1].startswith("end")


def test_logs_arrive_where_a_local_run_has_them_and_nowhere_else(standin: Standin) -> None:
    it = run(
        standin,
        FakeUnit(
            [
                {**news(), "logs": {"logs/unit.log": b"one "}},
                {**news(found(), found(check="two"), over(), ended=True), "logs": {"logs/unit.log": b"two"}},
            ]
        ),
    )
    it.go()
    assert standin.log() == "one two"
    for name in ("../x", "events.jsonl", "/etc/x"):
        bad = FakeUnit([{**news(), "logs": {name: b"x"}}])
        more = run(standin, bad, *[replace(bad, told=[Lost("x")]) for _ in range(TRIES - 1)])
        with pytest.raises(InfrastructureError):
            more.go()
        assert "a log that is none" in more.told()[1]


def test_what_a_unit_takes_of_a_node() -> None:
    gpus = tuple(node(name) for name in "ab")
    assert takes_of(Need(1, 1.0, 1.0), gpus, "cpu") == (8, 0), "all of it"
    assert takes_of(Need(2, 60.0, 4.0), gpus, "cuda") == (4.0, 2)
    assert takes_of(Need(8, 60.0, 16.0), gpus, "cuda") == (8, 8), "never more than a node has"
    assert places(replace(gpus[0], gpus=8, cpus=16), 4.0, 2) == 4
    assert places(replace(gpus[0], gpus=8, cpus=8), 4.0, 2) == 2
