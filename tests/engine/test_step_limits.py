"""Limits on a running scheduler: set, changed and ended, and everything that was taken is given back once."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bi_harness.engine import step_limits
from bi_harness.engine.step_limits import FILE, apply, write

BUDGET, BLOCKS = 2048, 100


class Pool:
    """A block pool that refuses what vLLM's would: more blocks than are free, blocks that it has already."""

    def __init__(self, blocks: int = BLOCKS) -> None:
        self.free = list(range(blocks))

    def get_num_free_blocks(self) -> int:
        return len(self.free)

    def get_new_blocks(self, count: int) -> list[int]:
        assert 0 < count <= len(self.free)
        taken, self.free = self.free[:count], self.free[count:]
        return taken

    def free_blocks(self, blocks: Iterable[int]) -> None:
        for block in blocks:
            assert block not in self.free
            self.free.append(block)


class Scheduler:
    """What of vLLM's scheduler the limits touch; counts how often its budget is set."""

    def __init__(self, budget: int = BUDGET, blocks: int = BLOCKS) -> None:
        self.sets = -1
        self.max_num_scheduled_tokens = budget
        self.pool = Pool(blocks)
        self.kv_cache_manager = SimpleNamespace(block_pool=self.pool)

    def __setattr__(self, name: str, value: object) -> None:
        super().__setattr__(name, value)
        if name == "max_num_scheduled_tokens":
            self.sets += 1

    @property
    def state(self) -> tuple[int, int]:
        return self.max_num_scheduled_tokens, self.pool.get_num_free_blocks()


@pytest.fixture(autouse=True)
def nothing_held(monkeypatch: pytest.MonkeyPatch) -> None:
    # Schedulers are told apart by their addresses, which another test's may have had.
    monkeypatch.setattr(step_limits, "_held", {})


def held(
    scheduler: object, folder: Path, step_tokens: int | None = None, free_blocks: int | None = None
) -> None:
    write(str(folder), step_tokens=step_tokens, free_blocks=free_blocks)
    apply(scheduler, str(folder))


def test_without_limits_a_scheduler_of_any_make_is_left_alone(tmp_path: Path) -> None:
    apply(object(), str(tmp_path))
    apply(object(), str(tmp_path / "not there"))
    held(object(), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_budget_is_set_and_ended(tmp_path: Path) -> None:
    scheduler = Scheduler()
    held(scheduler, tmp_path, step_tokens=61)
    assert scheduler.state == (61, BLOCKS)
    held(scheduler, tmp_path)
    assert scheduler.state == (BUDGET, BLOCKS)


def test_blocks_are_held_back_and_given_back(tmp_path: Path) -> None:
    scheduler = Scheduler()
    held(scheduler, tmp_path, free_blocks=30)
    assert scheduler.state == (BUDGET, 30)
    held(scheduler, tmp_path)
    assert sorted(scheduler.pool.free) == list(range(BLOCKS))


def test_both_are_set_together_and_ended_one_by_one(tmp_path: Path) -> None:
    scheduler = Scheduler()
    held(scheduler, tmp_path, step_tokens=61, free_blocks=30)
    assert scheduler.state == (61, 30)
    held(scheduler, tmp_path, free_blocks=30)
    assert scheduler.state == (BUDGET, 30)
    held(scheduler, tmp_path, step_tokens=200)
    assert scheduler.state == (200, BLOCKS)


def test_limits_that_change_are_counted_from_the_engines_own(tmp_path: Path) -> None:
    scheduler = Scheduler()
    held(scheduler, tmp_path, step_tokens=61, free_blocks=10)
    held(scheduler, tmp_path, step_tokens=333, free_blocks=80)
    assert scheduler.state == (333, 80)
    held(scheduler, tmp_path)
    assert scheduler.state == (BUDGET, BLOCKS)


@pytest.mark.parametrize("asked", [BUDGET, BUDGET + 1, 10**9])
def test_a_budget_is_never_raised_above_the_engines_own(tmp_path: Path, asked: int) -> None:
    scheduler = Scheduler()
    held(scheduler, tmp_path, step_tokens=asked)
    assert scheduler.max_num_scheduled_tokens == BUDGET
    held(scheduler, tmp_path)
    assert scheduler.max_num_scheduled_tokens == BUDGET


@pytest.mark.parametrize("asked", [BLOCKS, BLOCKS + 1, 10**9])
def test_more_blocks_than_are_free_take_none(tmp_path: Path, asked: int) -> None:
    scheduler = Scheduler()
    held(scheduler, tmp_path, free_blocks=asked)
    assert scheduler.state == (BUDGET, BLOCKS)
    held(scheduler, tmp_path)
    assert scheduler.state == (BUDGET, BLOCKS)


def test_no_block_may_stay_free_and_zero_is_not_none(tmp_path: Path) -> None:
    scheduler = Scheduler()
    held(scheduler, tmp_path, step_tokens=0, free_blocks=0)
    assert scheduler.state == (0, 0)


def test_limits_that_stay_are_applied_once_and_those_that_ended_are_restored_once(tmp_path: Path) -> None:
    scheduler = Scheduler()
    held(scheduler, tmp_path, step_tokens=61, free_blocks=30)
    for _ in range(3):
        # A running request takes and frees blocks meanwhile: no more are held back for that.
        taken = scheduler.pool.get_new_blocks(5)
        apply(scheduler, str(tmp_path))
        held(scheduler, tmp_path, step_tokens=61, free_blocks=30)
        assert scheduler.state == (61, 25)
        scheduler.pool.free_blocks(taken)
    assert scheduler.sets == 1
    held(scheduler, tmp_path)
    scheduler.max_num_scheduled_tokens = 777  # the engine's own business from here on
    for _ in range(3):
        held(scheduler, tmp_path)
    assert scheduler.state == (777, BLOCKS)


def test_two_schedulers_are_held_apart(tmp_path: Path) -> None:
    one, two = Scheduler(), Scheduler(budget=512, blocks=40)
    write(str(tmp_path), step_tokens=61, free_blocks=30)
    apply(one, str(tmp_path))
    assert (one.state, two.state) == ((61, 30), (512, 40))
    apply(two, str(tmp_path))
    assert (one.state, two.state) == ((61, 30), (61, 30))
    write(str(tmp_path), step_tokens=None, free_blocks=None)
    apply(two, str(tmp_path))
    assert (one.state, two.state) == ((61, 30), (512, 40))
    apply(one, str(tmp_path))
    assert one.state == (BUDGET, BLOCKS)
    assert sorted(one.pool.free) == list(range(BLOCKS))
    assert sorted(two.pool.free) == list(range(40))


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(st.none() | st.integers(1, 2 * BUDGET), st.none() | st.integers(0, 2 * BLOCKS)), max_size=8
    )
)
def test_whatever_came_before_the_last_limits_hold_and_all_is_given_back(
    tmp_path_factory: pytest.TempPathFactory, history: list[tuple[int | None, int | None]]
) -> None:
    folder, scheduler = tmp_path_factory.mktemp("limits"), Scheduler()
    step_limits._held.clear()
    for tokens, free in history:
        held(scheduler, folder, tokens, free)
        assert scheduler.state == (
            BUDGET if tokens is None else min(tokens, BUDGET),
            BLOCKS if free is None else min(free, BLOCKS),
        )
    held(scheduler, folder)
    assert scheduler.max_num_scheduled_tokens == BUDGET
    assert sorted(scheduler.pool.free) == list(range(BLOCKS))


@pytest.mark.parametrize(
    ("scheduler", "missing"),
    [
        (SimpleNamespace(max_num_scheduled_tokens=9), "kv_cache_manager"),
        (SimpleNamespace(max_num_scheduled_tokens=9, kv_cache_manager=SimpleNamespace()), "block_pool"),
        (SimpleNamespace(kv_cache_manager=SimpleNamespace(block_pool=Pool())), "max_num_scheduled_tokens"),
    ],
)
def test_a_scheduler_of_another_make_is_an_error_at_every_step(
    tmp_path: Path, scheduler: SimpleNamespace, missing: str
) -> None:
    for _ in range(2):
        with pytest.raises(AttributeError, match=missing):
            held(scheduler, tmp_path, step_tokens=61)


def test_a_pool_of_another_make_is_an_error(tmp_path: Path) -> None:
    scheduler = Scheduler()
    scheduler.kv_cache_manager.block_pool = SimpleNamespace()
    with pytest.raises(AttributeError, match="get_num_free_blocks"):
        held(scheduler, tmp_path, step_tokens=61, free_blocks=3)


@pytest.mark.parametrize("text", ["", "{", '{"step_tokens": 6'])
def test_a_file_that_is_not_whole_is_an_error_and_not_no_limits(tmp_path: Path, text: str) -> None:
    (tmp_path / FILE).write_text(text)
    with pytest.raises(ValueError):
        apply(Scheduler(), str(tmp_path))


def test_the_file_is_replaced_whole_in_a_folder_that_is_made(tmp_path: Path) -> None:
    folder = tmp_path / "engine" / "steps"
    for tokens, free, planted in ((61, None, None), (None, 30, None), (None, None, "together")):
        write(str(folder), step_tokens=tokens, free_blocks=free, planted=planted)
        assert [p.name for p in folder.iterdir()] == [FILE]
        limits = {"step_tokens": tokens, "free_blocks": free, "planted": planted}
        assert json.loads((folder / FILE).read_text()) == limits
    for _ in range(2):
        write(str(folder), step_tokens=None, free_blocks=None)
        assert list(folder.iterdir()) == []
