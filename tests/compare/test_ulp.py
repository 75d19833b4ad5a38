"""ULP distances against an oracle of their own."""

from __future__ import annotations

import math
import struct

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from bi_harness.compare.ulp import ordered, ulp_distance

any_bits = st.integers(0, 2**32 - 1)
finite = st.floats(width=32, allow_nan=False, allow_infinity=False)


def value(bits: int) -> np.ndarray:
    return np.asarray([bits], np.uint32).view(np.float32)


def one(x: float) -> np.ndarray:
    return np.asarray([x], np.float32)


def distance(a: int, b: int) -> int:
    return int(ulp_distance(value(a), value(b))[0])


def rank(x: float) -> int:
    """Place in the order of floats, from the sign and the magnitude's bits."""
    (magnitude,) = struct.unpack("<I", struct.pack("<f", abs(x)))
    return magnitude if math.copysign(1, x) > 0 else -magnitude - 1


@given(finite, finite)
def test_distance_of_finite_values(x: float, y: float) -> None:
    assert ulp_distance(one(x), one(y))[0] == abs(rank(x) - rank(y))


@given(finite, st.integers(0, 40), st.sampled_from([-math.inf, math.inf]))
def test_so_many_neighbours_away(x: float, count: int, towards: float) -> None:
    y, zeros = np.float32(x), 0
    for _ in range(count):
        following = np.nextafter(y, np.float32(towards))
        # numpy.nextafter steps over one of the two zeros.
        zeros += bool(y == 0 or following == 0) and bool(np.signbit(y) != np.signbit(following))
        y = following
    steps = 0 if y == np.float32(x) else int(ulp_distance(one(x), one(float(y)))[0])
    reachable = count if np.isfinite(y) else min(count, steps)
    assert steps - zeros <= reachable <= steps


@given(finite)
def test_neighbours_are_one_apart(x: float) -> None:
    up = np.nextafter(np.float32(x), np.float32(np.inf))
    if x != 0 and up != 0:
        assert ulp_distance(one(x), np.asarray([up]))[0] == 1


@given(any_bits, any_bits)
def test_zero_exactly_for_equal_bits_and_symmetric(a: int, b: int) -> None:
    assert (distance(a, b) == 0) == (a == b)
    assert distance(a, b) == distance(b, a) >= 0


@given(any_bits, any_bits, any_bits)
def test_triangle(a: int, b: int, c: int) -> None:
    assert distance(a, c) <= distance(a, b) + distance(b, c)


@given(finite, finite)
def test_ordered_keeps_the_order(x: float, y: float) -> None:
    a, b = int(ordered(one(x))[0]), int(ordered(one(y))[0])
    assert (a < b) == (x < y or (x == y == 0 and math.copysign(1, x) < math.copysign(1, y)))


def test_ends_of_the_scale() -> None:
    assert distance(0x00000000, 0x80000000) == 1
    assert distance(0x7F7FFFFF, 0x7F800000) == 1  # largest finite, infinity
    assert ordered(value(0x7FC00000))[0] > ordered(value(0x7F800000))[0]
    assert ordered(value(0xFFC00000))[0] < ordered(value(0xFF800000))[0]
    assert distance(0x7FFFFFFF, 0xFFFFFFFF) == 2**32 - 1


def test_any_shape_and_layout() -> None:
    grid = np.arange(12, dtype=np.float32).reshape(3, 4)
    assert ulp_distance(grid, np.asfortranarray(grid)).tolist() == [[0] * 4] * 3
    assert ulp_distance(grid[:, ::2], grid[:, ::2]).shape == (3, 2)
    assert ordered(np.empty((0, 2), np.float32)).shape == (0, 2)
