"""The worker's loop: arrivals and aborts by engine step, on an engine that only counts."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from bi_harness.engine import worker
from bi_harness.workload.requests import Member, Request


class Engine:
    """Gives every request one token a step; remembers what it was told, and when."""

    def __init__(self) -> None:
        self.left: dict[str, int] = {}
        self.told: list[tuple[int, str, str]] = []
        self.steps = 0

    def add_request(self, name: str, prompt: dict[str, Any], params: Any) -> None:
        assert name not in self.left
        self.left[name] = params.max_tokens
        self.told.append((self.steps, "add", name))

    def abort_request(self, names: list[str]) -> None:
        for name in names:
            self.told.append((self.steps, "abort", name))
            self.left.pop(name, None)

    def has_unfinished_requests(self) -> bool:
        return bool(self.left)

    def step(self) -> list[Any]:
        self.steps += 1
        for name in self.left:
            self.left[name] -= 1
        done = [name for name, left in self.left.items() if not left]
        for name in done:
            del self.left[name]
        return [SimpleNamespace(request_id=name, finished=True) for name in done]


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> Engine:
    fake = ModuleType("vllm")
    fake.SamplingParams = SimpleNamespace  # type: ignore[attr-defined]
    params = ModuleType("vllm.sampling_params")
    params.RequestOutputKind = SimpleNamespace(FINAL_ONLY=2)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "vllm", fake)
    monkeypatch.setitem(sys.modules, "vllm.sampling_params", params)
    return Engine()


def run(engine: Engine, *members: Member, lengths: tuple[int, ...] = (4, 4, 4)) -> tuple[list[Any], int]:
    requests = [Request((1, 2), length, 0.0, None, 1) for length in lengths]
    return worker._run_burst(SimpleNamespace(llm_engine=engine), requests, list(members))


def test_a_burst_is_submitted_whole_and_answers_come_in_its_order(engine: Engine) -> None:
    outputs, aborted = run(engine, Member(2), Member(0), Member(1), lengths=(3, 1, 2))
    assert [what for _, what, _ in engine.told] == ["add"] * 3
    names = [name for _, _, name in engine.told]
    assert [o.request_id for o in outputs] == names
    assert aborted == 0


def test_arrivals_are_counted_in_steps(engine: Engine) -> None:
    run(engine, Member(0), Member(1, arrival=2), Member(2, arrival=3))
    assert [step for step, _, _ in engine.told] == [0, 2, 3]


def test_a_gap_in_which_nothing_runs_is_bridged(engine: Engine) -> None:
    outputs, _ = run(engine, Member(0), Member(1, arrival=9), lengths=(1, 1, 1))
    assert all(outputs)
    assert engine.steps == 2


def test_an_aborted_request_gives_nothing_and_is_counted(engine: Engine) -> None:
    outputs, aborted = run(engine, Member(0), Member(1, arrival=1, abort=3))
    assert (outputs[1], aborted) == (None, 1)
    assert outputs[0] is not None
    assert [(step, what) for step, what, _ in engine.told] == [(0, "add"), (1, "add"), (3, "abort")]


def test_an_abort_after_the_end_is_none(engine: Engine) -> None:
    outputs, aborted = run(engine, Member(0, abort=5), Member(1), lengths=(2, 9, 1))
    assert all(outputs)
    assert aborted == 0


def test_names_are_never_used_twice(engine: Engine) -> None:
    for _ in range(3):
        run(engine, Member(0), Member(1))
    names = [name for _, _, name in engine.told]
    assert len(names) == len(set(names)) == 6
