"""How far tensors lie apart."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from bi_harness.compare.ulp import ulp_distance
from bi_harness.localize.culprit import rows_of
from bi_harness.localize.measure import BANDS, difference, distance
from bi_harness.localize.seen import parse
from tests.localize.made import record, tensor, told

floats = arrays.arrays(np.float32, 20, elements=st.floats(width=32))


@given(floats, floats)
def test_float32_is_as_everywhere_else(a: np.ndarray, b: np.ndarray) -> None:
    bits = [x.view(np.int32).astype(np.int64) for x in (a, b)]
    assert distance(*bits, "float32").tolist() == ulp_distance(a, b).tolist()


def test_neighbours_in_bfloat16_are_one_apart() -> None:
    one, below_zero, above_zero = np.array([0x3F80]), np.array([-0x8000]), np.array([0])
    assert distance(one, one + 1, "bfloat16").tolist() == [1]
    assert distance(below_zero, above_zero, "bfloat16").tolist() == [1]
    assert distance(one, one, "bfloat16").tolist() == [0]


def test_values_of_an_unknown_order_count_as_one_apart() -> None:
    assert distance(np.array([1, 7]), np.array([9, 7]), "float8_e4m3fn").tolist() == [1, 0]
    assert distance(np.array([1, 7]), np.array([9, 7]), "int64").tolist() == [8, 0]


def test_the_bands_have_no_gap() -> None:
    assert [b for _, b in BANDS][:-1] == [a - 1 for a, _ in BANDS][1:]


def one(values: list[list[int]], dtype: str = "bfloat16", shape: tuple[int, ...] = (2, 3)) -> object:
    told_ = record("m", [4, 5], [[1], [2]], values)
    told_["out"] = [tensor(values, dtype=dtype, shape=shape)]
    return rows_of(parse(told([told_])), ("m", 0))


def test_rows_values_and_distances_are_counted() -> None:
    alone = one([[10, 20, 30], [40, 50, 60]])
    batch = one([[10, 20, 30], [41, 50, 90]], shape=(9, 3))
    inputs, (output,) = difference(alone, batch, 4)  # type: ignore[arg-type]
    assert (output.rows, output.differing_rows, output.values, output.differing_values) == (2, 1, 6, 2)
    assert output.max_ulp == 30
    assert [(band.first, band.values) for band in output.ulps] == [(1, 1), (16, 1)]
    assert (output.shape_alone, output.shape_batch) == ((2, 3), (9, 3))
    assert len(inputs) == 1


def test_another_dtype_is_told_and_not_measured() -> None:
    _, (output,) = difference(one([[1], [2]]), one([[1], [2]], dtype="float32"), 4)  # type: ignore[arg-type]
    assert (output.dtype, output.values) == ("bfloat16 and float32", 0)


@pytest.mark.parametrize("position", [3, 6])
def test_a_position_that_is_not_there_gives_nothing(position: int) -> None:
    assert difference(one([[1], [2]]), one([[1], [2]]), position) == ((), ())  # type: ignore[arg-type]
