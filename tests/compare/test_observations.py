"""Observations refuse arrays that do not fit, go from burst order to request order, and are padded."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bi_harness.compare.bits import compare
from bi_harness.compare.observations import Observations
from tests.compare.made import any_observations, any_pair, changed, observations


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


@given(any_observations(), st.integers(0, 9))
def test_widened_keeps_every_bit_and_is_equal_to_what_it_was(made: Observations, more: int) -> None:
    width = made.tokens.shape[1]
    wide = made.widened(width + more)
    assert wide.ids.shape == (made.requests, width + more, made.ids.shape[2])
    assert wide.ids[:, :width].tobytes() == made.ids.tobytes()
    assert wide.logprobs[:, :width].tobytes() == made.logprobs.tobytes()
    assert np.array_equal(wide.tokens[:, :width], made.tokens)
    assert np.array_equal(wide.lengths, made.lengths)
    # What is added is padding, as it is everywhere else.
    assert np.all(wide.tokens[:, width:] == -1)
    assert np.all(wide.ids[:, width:] == -1)
    assert wide.logprobs[:, width:].tobytes() == bytes(wide.logprobs[:, width:].nbytes)
    back = wide.widened(width)
    seen = compare(made, back)
    assert (seen.differing_steps, seen.differing_values, seen.first) == (0, 0, None)


@given(any_pair(), st.integers(0, 9))
def test_widened_changes_nothing_of_what_a_comparison_finds(
    pair: tuple[Observations, Observations], more: int
) -> None:
    one, two = pair
    width = one.tokens.shape[1] + more
    wide, plain = compare(one.widened(width), two.widened(width)), compare(one, two)
    for field in dataclasses.fields(plain):
        assert np.array_equal(getattr(wide, field.name), getattr(plain, field.name))


@given(any_observations(), st.integers(0, 9))
def test_widened_cuts_padding_and_never_a_step(made: Observations, steps: int) -> None:
    longest = max(made.lengths.tolist(), default=0)
    if steps < longest:
        with pytest.raises(ValueError, match=f"has {longest} steps, and room is asked for {steps}"):
            made.widened(steps)
        return
    cut = made.widened(steps)
    assert cut.tokens.shape == (made.requests, steps)
    whole = made.widened(max(steps, made.tokens.shape[1]))
    assert compare(whole, cut.widened(whole.tokens.shape[1])).differing_steps == 0


def test_widened_leaves_the_original_as_it_was() -> None:
    made = observations(3, 4, 2, lengths=[4, 1, 2])
    before = changed(made)
    wide = made.widened(6)
    wide.tokens[:], wide.logprobs[:] = 7, 7
    assert np.array_equal(made.tokens, before.tokens)
    assert np.array_equal(made.logprobs, before.logprobs)


@pytest.mark.parametrize("steps", [-1, -5])
def test_less_than_no_room_is_refused(steps: int) -> None:
    with pytest.raises(ValueError):
        observations(2, 3, 2).widened(steps)
