"""Summing over ranks that are processes; what a rank computes itself is in tests/e2e/test_ops.py."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from bi_harness.engine.ops import all_reduce
from bi_harness.engine.ops.all_reduce import OPS, Ranks
from bi_harness.engine.ops.base import Missing, Setting
from bi_harness.engine.ops.rank import STORE, mapped, part

torch = pytest.importorskip("torch")
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    """The fake rank, in a process of its own."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))


@contextmanager
def ranks(count: int = 3, runs: tuple[str, ...] = ("x",), **wrong: int) -> Iterator[Ranks]:
    made = Ranks(count, "cpu", "model", wrong, 8, runs=runs, module="tests.engine.fake_rank")
    try:
        yield made
    finally:
        made.close()


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_each_rank_has_a_place_of_its_own(tmp_path: Path, dtype: str) -> None:
    (tmp_path / STORE).write_bytes(bytes(2 * 3 * 5 * 7 * 4))
    store = mapped(tmp_path, 2 * 3 * 5 * 7 * 4)
    places = [(rank, result) for result in (False, True) for rank in range(3)]
    for number, (rank, result) in enumerate(places):
        part(store, dtype, 3, 5, 7, rank, result=result).fill_(number)
    again = mapped(tmp_path, store.numel())
    for number, (rank, result) in enumerate(places):
        found = part(again, dtype, 3, 5, 7, rank, result=result)
        assert found.shape == (5, 7)
        assert bool((found == number).all())


def test_rows_go_to_the_ranks_and_come_back_from_each() -> None:
    with ranks() as three:
        folder = three._folder
        for rows in (1, 4):
            given = torch.arange(rows * 3 * 8).reshape(rows, 3, 8).to(torch.bfloat16)
            found = three.sum(given)
            assert len(found) == 3
            for rank, result in enumerate(found):
                assert torch.equal(result, given.sum(1) + rank)
    assert not folder.exists()
    assert all(process.returncode == 0 for process in three._processes)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"dies": 1}, "rank 1 did not sum: it ended"),
        ({"silent": 2}, "ranks did not sum within 1 s"),
    ],
)
def test_a_rank_that_fails_is_named(monkeypatch: pytest.MonkeyPatch, wrong: Any, says: str) -> None:
    monkeypatch.setattr(all_reduce, "SUM_S", 1.0 if "silent" in wrong else 60.0)
    monkeypatch.setattr(all_reduce, "END_S", 0.5)
    with ranks(**wrong) as three, pytest.raises(RuntimeError, match=says):
        three.sum(torch.zeros(2, 3, 8))


def test_ranks_that_do_not_come_up_leave_nothing() -> None:
    with (
        pytest.raises(RuntimeError, match="rank 2 did not come up: ValueError: no such model"),
        ranks(refuses=2),
    ):
        pass
    with (
        pytest.raises(RuntimeError, match=r"rank 0 runs \['x'\], and this process \['x', 'a-fault'\]"),
        ranks(1, ("x", "a-fault")),
    ):
        pass


def test_the_bound_is_the_rounding_of_the_additions(monkeypatch: pytest.MonkeyPatch) -> None:
    made = object.__new__(all_reduce._AllReduce)
    made._count = 3
    rows = (torch.randn(16, 3, 64, generator=torch.Generator().manual_seed(1)).to(torch.bfloat16),)
    right = rows[0].sum(1)
    assert made.error(rows, (right, right, right)) <= 1
    off = right.clone()
    off[3, 5] += 1
    assert made.error(rows, (right, right, off)) > 1


def test_what_takes_several_ranks_is_missing_without() -> None:
    with pytest.raises(Missing, match="one rank has nothing to sum"):
        OPS[0].make(Setting("cpu", 0, {"hidden": 8}, "bfloat16"))
