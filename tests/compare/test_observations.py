"""Observations refuse arrays that do not fit, and go from burst order to request order."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bi_harness.compare.observations import Observations
from tests.compare.made import changed, observations


@pytest.mark.parametrize(
    ("name", "array"),
    [
        ("tokens", np.zeros((3, 5), np.int32)),
        ("tokens", np.zeros((3, 4), np.int64)),
        ("tokens", np.zeros((12,), np.int32)),
        ("lengths", np.zeros(2, np.int32)),
        ("lengths", np.zeros(3, np.float32)),
        ("lengths", np.asarray([1, 2, 5], np.int32)),
        ("lengths", np.asarray([1, -1, 2], np.int32)),
        ("ids", np.zeros((3, 4), np.int32)),
        ("ids", np.zeros((3, 4, 2), np.int32)),
        ("logprobs", np.zeros((3, 4, 3), np.float64)),
        ("logprobs", np.zeros((3, 4, 4), np.float32)),
        ("logprobs", np.zeros((3, 4, 3), np.float16)),
    ],
)
def test_arrays_that_do_not_fit_are_refused(name: str, array: np.ndarray) -> None:
    with pytest.raises(ValueError):
        changed(observations(3, 4, 3), **{name: array})


@given(st.permutations(range(5)))
def test_reordered_puts_each_row_where_it_belongs(order: list[int]) -> None:
    made = observations(5, 3, 2, lengths=[1, 2, 3, 2, 1])
    # What a burst in this order gives ...
    burst = Observations(made.tokens[order], made.lengths[order], made.ids[order], made.logprobs[order])
    # ... goes back into the order of the requests.
    back = burst.reordered(order)
    for name in ("tokens", "lengths", "ids", "logprobs"):
        assert np.array_equal(getattr(back, name), getattr(made, name))


@pytest.mark.parametrize("order", [[0, 1], [0, 0, 1], [1, 2, 3], [0, 1, 2, 3], []])
def test_what_is_no_permutation_is_refused(order: list[int]) -> None:
    with pytest.raises(ValueError, match="permutation"):
        observations(3).reordered(order)
