"""On GPUs a check's control runs beside its treatment: what they find, and how they fail, is the same."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bi_harness.errors import EngineDied, EngineError, EngineStartError
from bi_harness.matrix.cells import Cell
from bi_harness.runner.suite_session import SuiteSession
from bi_harness.spec.load import default_paths, load_spec
from tests.runner.test_recorder import PLAN, Check, Stub, make


class Meeting(Stub):
    """Waits in its first call until the other arm is in its own."""

    def __init__(self, arm: str, both: threading.Barrier, *, room: bool = True) -> None:
        super().__init__(arm)
        self.config = SimpleNamespace(arm=arm, room_for_two=room)
        self.both = both

    def generate(self, *args: Any, **more: Any) -> Any:
        if not self.asked:
            self.both.wait(10)
        return super().generate(*args, **more)


def beside(control: Callable[[], Stub]) -> Check:
    check = make()
    check.recorder._beside = control  # type: ignore[assignment]
    return check


@pytest.fixture
def both() -> threading.Barrier:
    return threading.Barrier(2)


def test_both_arms_generate_at_once(both: threading.Barrier) -> None:
    engine, control = Meeting("treatment", both), Meeting("control", both)
    check = beside(lambda: control)
    check.compare(engine)  # by themselves, one of them would wait for ever
    evidence = check.compare(control)
    assert control.sizes == [[1, 1, 1, 1], [2, 2]], "it ran once"
    assert evidence.differing_prompts == 4
    result = check.end()
    assert (result.status, result.control) == ("pass", evidence)
    assert {event.arm for event in check.events if event.type == "check_progress"} == {"treatment", "control"}


def test_what_it_finds_is_what_it_finds_by_itself(both: threading.Barrier) -> None:
    engine, control = Meeting("treatment", both), Meeting("control", both)
    together = beside(lambda: control)
    apart = make()
    assert together.compare(engine) == apart.compare(Stub())
    assert together.compare(control) == apart.compare(Stub("control"))


def test_without_room_for_two_they_take_turns(both: threading.Barrier) -> None:
    asked: list[int] = []
    check = beside(lambda: asked.append(1))  # type: ignore[arg-type, return-value]
    engine = Stub()
    engine.config = SimpleNamespace(arm="treatment", room_for_two=False)
    check.compare(engine)
    assert not asked


def test_another_plan_is_run_once_the_first_is_over(both: threading.Barrier) -> None:
    engine, control = Meeting("treatment", both), Meeting("control", both)
    check = beside(lambda: control)
    check.compare(engine)
    check.compare(control, replace(PLAN, arms_first=True))
    assert control.sizes == [[1, 1, 1, 1], [2, 2], [2, 2]]
    assert check.end().status == "pass"


def test_a_control_that_fails_does_so_when_it_is_asked_for(both: threading.Barrier) -> None:
    engine, control = Meeting("treatment", both), Meeting("control", both)
    control.error = (1, EngineDied("the control died"))
    check = beside(lambda: control)
    check.compare(engine)
    assert not check.engines.gone, "engines are ended by the check's own thread"
    result = check.raises(EngineError, lambda: check.compare(control))
    assert (result.status, result.reason) == ("error", "the control died")
    assert check.engines.gone == [control]


def test_a_treatment_that_fails_leaves_no_control_at_work(both: threading.Barrier) -> None:
    engine, control = Meeting("treatment", both), Meeting("control", both)
    engine.error, control.error = (0, EngineDied("the treatment died")), (1, EngineDied("so did the control"))
    check = beside(lambda: control)
    result = check.raises(EngineError, lambda: check.compare(engine))
    assert (result.status, result.reason) == ("error", "the treatment died")
    assert len(control.asked) == 2
    assert check.engines.gone == [engine, control]


def test_a_difference_stays_a_failure_when_the_control_dies(both: threading.Barrier) -> None:
    engine, control = Meeting("treatment", both), Meeting("control", both)
    engine.off, control.error = True, (0, EngineDied("the control died"))
    check = beside(lambda: control)
    check.compare(engine)
    result = check.raises(EngineError, lambda: check.compare(control))
    assert result.status == "fail"


def test_a_control_that_does_not_start_says_so_when_it_is_asked_for() -> None:
    def start() -> Stub:
        raise EngineStartError("no room")

    engine = Stub()
    engine.config = SimpleNamespace(arm="treatment", room_for_two=True)
    check = beside(start)
    assert check.compare(engine).differing_prompts == 0
    result = check.raises(EngineStartError, start)
    assert (result.status, result.reason) == ("error", "no room")


SPEC = load_spec(*(getattr(default_paths(environ={}), name) for name in ("models", "hardware", "suites")))


@pytest.mark.parametrize(
    ("device", "suite", "control", "found"),
    [
        ("h200", "batch_invariance", True, True),
        ("h200", "batch_invariance", False, False),  # there is none
        ("cpu", "batch_invariance", True, False),  # its arms would take each other's cores
        ("h200", "online", True, False),  # its requests arrive by the clock
        ("h200", "compile_startup", True, False),  # its check starts engines by itself
    ],
)
def test_where_both_arms_generate_at_once(device: str, suite: str, control: bool, found: bool) -> None:
    cell = Cell(device, "qwen3-1.7b", "FLASH_ATTN", 1, 1, "compile", suite)
    session = SuiteSession(SPEC, SimpleNamespace(control=control), SimpleNamespace(write=print))  # type: ignore[arg-type]
    (check, *_) = SPEC.suites[suite].checks
    file, _, test = check.test.partition("::")
    recorder = session.recorder(cell, Path("suites") / suite / file, test)
    assert (recorder._beside is not None) == found
