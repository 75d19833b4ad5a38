"""The driver of vLLM's asynchronous engine, on one that only counts: which rank gets what, and when."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bi_harness.engine import worker
from bi_harness.engine.online import OnlineEngine
from bi_harness.workload.requests import Member, Request


class Engine:
    """Gives every request one token a step, and logs a line for each as the probe does."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.told: list[tuple[str, int | None, int]] = []
        self.ended: list[str] = []
        self.fails: str | None = None
        self.steps = 0
        self.engine_core = SimpleNamespace(resources=SimpleNamespace(engine_manager=None))
        self.closed = False

    async def generate(
        self, prompt: Any, params: Any, name: str, data_parallel_rank: int | None
    ) -> AsyncIterator[Any]:
        self.told.append((name, data_parallel_rank, self.steps))
        if name == self.fails:
            raise ValueError("the engine is dead")
        try:
            for count in range(1, params.max_tokens + 1):
                await asyncio.sleep(0.005)
                self.steps += 1
                with open(self.folder / f"steps-dp{data_parallel_rank or 0}-1.jsonl", "a") as log:
                    log.write("{}\n")
                yield SimpleNamespace(request_id=name, count=count)
        finally:
            self.ended.append(name)

    async def collective_rpc(self, method: str) -> list[Any]:
        for rank in range(2):
            told = {"rank": rank, "method": method}
            (self.folder / f"worker-{rank}-0.json").write_text(json.dumps(told))
        return [{"rank": 0}]

    def shutdown(self) -> None:
        self.closed = True


class Driver(OnlineEngine):
    """The driver around an engine that is there already."""

    def __init__(self, folder: Path, ranks: int) -> None:
        self.fake = self._engine = Engine(folder)
        self._adapters, self._folder, self._ranks = (), folder, ranks
        self._numbers = itertools.count()
        self._loop = asyncio.new_event_loop()


@pytest.fixture
def driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Driver]:
    monkeypatch.setattr("bi_harness.engine.online.sampling", lambda request: request)
    monkeypatch.setattr("bi_harness.engine.online._EXIT_S", 0.1)
    made = Driver(tmp_path, ranks=2)
    yield made
    made.shut_down()
    assert made.fake.closed


def test_ending_it_does_not_wait_for_idle_ranks_and_leaves_no_task(tmp_path: Path) -> None:
    made, told = Driver(tmp_path, ranks=2), []

    def shutdown(timeout: float | None = None) -> None:
        told.append(timeout)

    made.fake.shutdown = shutdown  # type: ignore[assignment]
    waiting = made._loop.create_task(asyncio.sleep(600))
    made.shut_down()
    assert told == [1.0]
    assert waiting.cancelled()
    assert made._loop.is_closed()


def requests(*lengths: int) -> list[Request]:
    return [Request((1, 2), length, 0.0, None, 1) for length in lengths]


def test_answers_come_in_the_bursts_order(driver: Driver) -> None:
    outputs, aborted = driver.run_burst(requests(3, 1, 2), [Member(2), Member(0), Member(1)])
    assert [output.count for output in outputs] == [2, 3, 1]
    assert aborted == 0


def test_requests_go_to_the_ranks_in_turn(driver: Driver) -> None:
    burst = [Member(n) for n in (2, 0, 1)]
    driver.run_burst(requests(1, 1, 1), burst)
    assert [rank for _, rank, _ in driver.fake.told] == [0, 1, 0]
    assert driver.ranks_of(burst) == {"dp0", "dp1"}


def test_requests_alone_go_to_every_rank_too(driver: Driver) -> None:
    for number in range(3):
        driver.run_burst(requests(1, 1, 1), [Member(number)])
        assert driver.ranks_of([Member(number)]) == {f"dp{number % 2}"}
    assert [rank for _, rank, _ in driver.fake.told] == [0, 1, 0]


def test_one_rank_is_not_asked_for(driver: Driver) -> None:
    driver._ranks = 1
    driver.run_burst(requests(1), [Member(0)])
    assert driver.fake.told[0][1] is None


def test_an_arrival_waits_for_the_steps_of_those_before_it(driver: Driver) -> None:
    driver.run_burst(requests(9, 1), [Member(0), Member(1, arrival=4)])
    assert driver.fake.told[1][2] >= 4


def test_a_gap_in_which_nothing_runs_is_bridged(driver: Driver) -> None:
    outputs, _ = driver.run_burst(requests(1, 1), [Member(0), Member(1, arrival=1000)])
    assert all(outputs)


def test_an_aborted_request_gives_nothing_is_counted_and_told_to_end(driver: Driver) -> None:
    outputs, aborted = driver.run_burst(requests(400, 40), [Member(0, abort=3), Member(1)])
    assert (outputs[0], outputs[1].count, aborted) == (None, 40, 1)
    assert sorted(driver.fake.ended) == ["0", "1"]


def test_one_that_ends_before_its_abort_has_ended(driver: Driver) -> None:
    outputs, aborted = driver.run_burst(requests(2, 30), [Member(0, abort=20), Member(1)])
    assert (outputs[0].count, aborted) == (2, 0)


def test_a_rank_that_died_is_named_with_its_exit(driver: Driver) -> None:
    ranks = [
        SimpleNamespace(name="EngineCore_DP0", pid=6, exitcode=None),
        SimpleNamespace(name="EngineCore_DP1", pid=7, exitcode=-9),
    ]
    driver.fake.engine_core.resources.engine_manager = SimpleNamespace(processes=ranks)
    driver.fake.fails = "1"
    said = r"^EngineCore_DP1 \(pid 7\) ended with exit code -9: ValueError: the engine is dead$"
    with pytest.raises(RuntimeError, match=said):
        driver.run_burst(requests(50, 1), [Member(0), Member(1)])


def test_a_failure_without_a_death_says_so(driver: Driver) -> None:
    driver.fake.fails = "0"
    with pytest.raises(RuntimeError, match=r"^the engine failed: ValueError: the engine is dead$"):
        driver.run_burst(requests(1), [Member(0)])


def test_a_rank_that_was_given_requests_and_scheduled_none_is_named(driver: Driver) -> None:
    both = [Member(0), Member(1)]
    worker._all_ranks_served(driver, both, {"dp0", "dp1"})
    worker._all_ranks_served(driver, [Member(0)], {"dp0"})
    with pytest.raises(worker.Refused, match="data parallel rank dp1 was given requests and scheduled none"):
        worker._all_ranks_served(driver, both, {"dp0"})


def test_every_worker_of_every_rank_answers_and_what_it_said_before_is_forgotten(driver: Driver) -> None:
    (driver.fake.folder / "worker-7-0.json").write_text("{}")
    assert [answer["rank"] for answer in driver.collective_rpc("who")] == [0, 1]
