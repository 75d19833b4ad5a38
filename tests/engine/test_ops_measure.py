"""The measurement of operators, on some that are made up to be right or wrong."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from bi_harness.engine.ops.accuracy import error  # noqa: E402
from bi_harness.engine.ops.base import (  # noqa: E402
    Alike,
    Kind,
    Setting,
)
from bi_harness.engine.ops.gemm import values  # noqa: E402
from bi_harness.engine.ops.measure import Measured, measure  # noqa: E402
from bi_harness.engine.ops.planted import FROM_ROWS, Planted  # noqa: E402
from bi_harness.engine.ops.sizes import batches, row_counts  # noqa: E402

SUBJECTS = 16
SETTING = Setting("cpu", 0, {}, "float32")


class Doubled(Alike):
    """Twice the input, and what ``change`` makes of it in a batch."""

    where, shape, bound, row_bytes = "made.up", "8", "1 ULP", 32

    def __init__(self, change: Callable[[Any, Any], Any] = lambda out, x: out) -> None:
        self._change = change

    def rows(self, count: int, kind: Kind, generator: Any) -> tuple[Any, ...]:
        return (values(count, (8,), kind, generator, SETTING),)

    def call(self, rows: tuple[Any, ...]) -> tuple[Any, ...]:
        out = rows[0] * 2
        rows[0].zero_()  # an operator may change its input
        return (self._change(out, out / 2),)

    def error(self, rows: tuple[Any, ...], results: tuple[Any, ...]) -> float:
        return error(results[0], rows[0].double() * 2, ulps=1)


def of(made: Any, most: int = 600) -> Measured:
    tried = batches(row_counts(most, 4, 0), subjects=SUBJECTS, least=SUBJECTS, seed=0, every=2)
    return measure(made, tried, subjects=SUBJECTS, device="cpu", seed=0)


def moved(out: Any, rows: Any) -> Any:
    """``out`` with some rows a ULP away."""
    out = out.clone()
    out.view(torch.int32)[rows] += 1
    return out


def test_rows_that_are_computed_by_themselves_hold() -> None:
    found = of(Doubled())
    assert (found.differing, found.first, found.max_ulp, found.unequal) == (0, None, 0, 0)
    assert found.compared > 600
    assert found.repeated == 600
    assert found.error <= 1
    assert [size.rows for size in found.sizes] == list(row_counts(600, 4, 0))


def test_a_switch_by_the_number_of_rows_is_found_where_it_is() -> None:
    found = of(Doubled(lambda out, x: moved(out, slice(None)) if len(out) >= 256 else out))
    assert found.first is not None
    assert found.first.rows == 256
    assert found.max_ulp == 1
    assert all((size.differing == 0) == (size.rows < 256) for size in found.sizes)
    assert found.differing == sum(size.compared for size in found.sizes if size.rows >= 256)


def test_one_size_alone_is_found() -> None:
    found = of(Doubled(lambda out, x: moved(out, slice(None)) if len(out) == 17 else out))
    assert [size.rows for size in found.sizes if size.differing] == [17]


def test_the_last_row_of_a_batch_alone_is_found() -> None:
    found = of(Doubled(lambda out, x: moved(out, -1) if len(out) > 1 else out))
    assert found.first is not None
    assert found.first.place == found.first.rows - 1 > 0


def test_a_scale_over_the_neighbours_is_found_beside_large_ones_alone() -> None:
    def scaled(out: Any, x: Any) -> Any:
        return moved(out, slice(None)) if x.abs().max() > 1000 else out

    found = of(Doubled(scaled))
    assert found.first is not None
    assert found.first.filler == "large"


def test_zero_neighbours_are_looked_at() -> None:
    found = of(Doubled(lambda out, x: moved(out, slice(None)) if (x == 0).all(dim=1).any() else out))
    assert found.first is not None
    assert found.first.filler == "zeros"


def test_what_differs_from_itself_is_found_in_every_row() -> None:
    calls: list[int] = []

    def another(out: Any, x: Any) -> Any:
        calls.append(0)
        # A row that no subject is in, each time another way.
        return moved(out, 1) if len(out) == 600 and len(calls) % 2 else out

    assert of(Doubled(another)).unequal == 1


@pytest.mark.parametrize("constant", [0.0, 1.0, math.nan, math.inf])
def test_a_constant_is_invariant_and_wrong(constant: float) -> None:
    found = of(Doubled(lambda out, x: torch.full_like(out, constant)))
    assert found.differing == 0
    assert found.error > 1


def test_a_nan_that_comes_and_goes_differs_and_one_with_equal_bits_does_not() -> None:
    def spoiled(out: Any, x: Any) -> Any:
        return torch.full_like(out, math.nan) if len(out) > 2 else out

    assert of(Doubled(spoiled)).differing > 0


def test_results_in_fp8_are_compared_by_their_bits() -> None:
    def quantized(out: Any, x: Any) -> Any:
        return out.to(torch.float8_e4m3fn)

    made = Doubled(quantized)
    made.error = lambda rows, results: 0.0  # type: ignore[method-assign]
    assert of(made).differing == 0
    made = Doubled(lambda out, x: quantized(out * (2 if len(out) >= 256 else 1), x))
    made.error = lambda rows, results: 0.0  # type: ignore[method-assign]
    found = of(made)
    assert found.first is not None
    assert found.first.rows == 256
    assert found.max_ulp > 0


def test_minus_zero_is_another_value() -> None:
    found = of(Doubled(lambda out, x: torch.zeros_like(out) * (-1.0 if len(out) > 4 else 1.0)))
    assert found.first is not None
    assert found.first.rows == 5


def test_a_planted_difference_is_seen_by_the_same_measurement() -> None:
    found = of(Planted(Doubled()), most=64)
    assert found.first is not None
    assert found.first.rows == FROM_ROWS
    assert found.max_ulp == 1
    assert all((size.differing > 0) == (size.rows >= FROM_ROWS) for size in found.sizes)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_an_error_is_in_units_of_what_is_allowed(dtype: Any) -> None:
    right = torch.tensor([1.0, -3.0, 0.0], dtype=torch.float64)
    eps = torch.finfo(dtype).eps
    assert error(right.to(dtype), right, ulps=1) == 0
    off = right.to(dtype) * (1 + 2 * eps)
    assert 1 < error(off, right, ulps=1) <= 2.1
    assert error(off, right, ulps=4) <= 1
    assert error(off, right, ulps=1, slack=10 * eps) < 1
    # What should be nothing and is something is as wrong as can be.
    assert error(torch.tensor([1e-3], dtype=dtype), torch.zeros(1, dtype=torch.float64), ulps=4) > 1e3


def test_infinities_are_right_only_where_they_belong() -> None:
    low = torch.tensor([-math.inf, 1.0])
    assert error(low, torch.tensor([-math.inf, 1.0], dtype=torch.float64), ulps=1) == 0
    assert error(low, torch.tensor([2.0, 1.0], dtype=torch.float64), ulps=1) > 1
    assert error(torch.tensor([2.0]), torch.tensor([-math.inf], dtype=torch.float64), ulps=1) > 1
