"""Drawn shapes: many that hold as one, and the smallest of those that do not."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from bi_harness.certificate.ops import HOLDS, found
from bi_harness.certificate.records import OpDifference, OpResult
from bi_harness.engine.ops_client import OpRecord
from bi_harness.errors import EngineError
from bi_harness.runner.op_shapes import Limits, search, together

LIMITS = Limits(examples=40, width=512, rows=300, seed=3)
DRAWN = {"hidden": 8, "head_dim": 16}


def result(rows: int, *, differs: bool = False) -> OpResult:
    return OpResult(
        op="norm",
        dtype="bfloat16",
        judged=True,
        promised=True,
        shape="x",
        rows=10,
        differing=3 if differs else 0,
        max_ulp=1 if differs else 0,
        repeated=rows,
        first=OpDifference(rows=rows, place=0, beside="random") if differs else None,
    )


def test_shapes_that_hold_are_one_result_of_them_all() -> None:
    tried: list[tuple[Mapping[str, int], int]] = []

    def case(shape: Mapping[str, int], rows: int) -> OpRecord:
        tried.append((shape, rows))
        return OpRecord(result(rows))

    one = search(DRAWN, LIMITS, case)
    assert found(one) == HOLDS
    assert one.drawn == len(tried) >= 20
    assert (one.rows, one.shape, one.ranges) == (10 * len(tried), f"{len(tried)} drawn shapes", ())
    for shape, rows in tried:
        assert shape.keys() == DRAWN.keys()
        assert all(0 < size <= 512 and size % DRAWN[name] == 0 for name, size in shape.items())
        assert 2 <= rows <= 300


def test_a_seed_draws_the_same_shapes_and_another_seed_others() -> None:
    def shapes(seed: int) -> list[tuple[dict[str, int], int]]:
        tried: list[tuple[dict[str, int], int]] = []

        def case(shape: Mapping[str, int], rows: int) -> OpRecord:
            tried.append((dict(shape), rows))
            return OpRecord(result(rows))

        search(DRAWN, Limits(20, 512, 300, seed), case)
        return tried

    assert shapes(1) == shapes(1) != shapes(2)


def test_a_shape_that_fails_is_made_as_small_as_it_can_be() -> None:
    one = search(
        DRAWN,
        LIMITS,
        lambda shape, rows: OpRecord(result(rows, differs=rows >= 100 and shape["hidden"] >= 64)),
    )
    assert one.differing == 3
    assert one.shape == "hidden 64, head_dim 16 and 100 rows"
    assert one.drawn > 0
    assert "differs from M = 100 at hidden 64" in found(one)


def test_one_that_fails_one_time_and_not_the_next_has_failed() -> None:
    asked: list[int] = []

    def case(shape: Mapping[str, int], rows: int) -> OpRecord:
        asked.append(rows)
        return OpRecord(result(rows, differs=len(asked) == 5))

    assert search(DRAWN, LIMITS, case).differing == 3


def test_a_shape_that_cannot_be_measured_is_an_error_and_no_shape_is_tried_after_it() -> None:
    asked: list[int] = []

    def case(shape: Mapping[str, int], rows: int) -> OpRecord:
        asked.append(rows)
        return OpRecord(result(rows), error="RuntimeError: no such kernel")

    with pytest.raises(EngineError, match=r"norm of .*no such kernel"):
        search(DRAWN, LIMITS, case)
    assert len(asked) == 1


def test_a_process_that_dies_is_an_error() -> None:
    def case(shape: Mapping[str, int], rows: int) -> OpRecord:
        raise EngineError("it died")

    with pytest.raises(EngineError, match="it died"):
        search(DRAWN, LIMITS, case)
    with pytest.raises(EngineError, match="no shape was drawn"):
        together([])
