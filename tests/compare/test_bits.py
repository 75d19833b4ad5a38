"""compare(): every differing bit is found, and nothing else is."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bi_harness.compare import bits
from bi_harness.compare.bits import TOKENS_DIFFER, Place, compare
from bi_harness.compare.observations import Observations
from tests.compare.made import (
    any_observations,
    any_pair,
    changed,
    observations,
    oracle,
    with_bits,
    with_token,
)

NAN = 0x7FC00000


@given(any_observations())
def test_the_same_bits_never_differ(made: Observations) -> None:
    found = compare(made, changed(made))
    assert found.first is None
    assert not found.differing_requests.any()
    assert (found.differing_steps, found.differing_values, found.max_ulp, found.max_abs) == (0, 0, 0, 0.0)
    assert found.steps == made.lengths.sum()


@given(any_pair())
def test_it_agrees_with_a_comparison_value_by_value(pair: tuple[Observations, Observations]) -> None:
    expected, found = oracle(*pair), compare(*pair)
    assert (found.steps, found.values) == (expected["steps"], expected["values"])
    assert found.differing_steps == expected["differing_steps"]
    assert found.differing_values == expected["differing_values"]
    assert found.differing_requests.tolist() == expected["differing_requests"]
    assert found.first == (expected["first"] and Place(*expected["first"]))


@given(any_pair(), st.integers(1, 30))
def test_the_size_of_a_block_makes_no_difference(pair: tuple[Observations, Observations], block: int) -> None:
    whole = compare(*pair)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bits, "_BLOCK_VALUES", block)
        parts = compare(*pair)
    assert whole.differing_requests.tolist() == parts.differing_requests.tolist()
    for name in ("steps", "values", "differing_steps", "differing_values", "first", "max_ulp", "max_abs"):
        assert getattr(whole, name) == getattr(parts, name)


@given(any_pair())
def test_counts_do_not_depend_on_which_side_is_the_reference(pair: tuple[Observations, Observations]) -> None:
    one, two = compare(*pair), compare(*reversed(pair))
    assert one.differing_requests.tolist() == two.differing_requests.tolist()
    for name in ("steps", "values", "differing_steps", "differing_values", "first", "max_ulp", "max_abs"):
        assert getattr(one, name) == getattr(two, name)


@given(st.data())
def test_one_flipped_bit_is_found_where_it_is(data: st.DataObject) -> None:
    made = observations(3, 4, 3, lengths=[4, 2, 3])
    request = data.draw(st.integers(0, 2))
    step = data.draw(st.integers(0, int(made.lengths[request]) - 1))
    column, bit = data.draw(st.integers(0, 2)), data.draw(st.integers(0, 31))
    where = (request, step, column)
    flipped = with_bits(made, where, int(made.logprobs.view(np.uint32)[where]) ^ (1 << bit))

    found = compare(made, flipped)

    assert found.first == Place(*where)
    assert np.flatnonzero(found.differing_requests).tolist() == [request]
    assert (found.differing_steps, found.differing_values) == (1, 1)
    assert (found.steps, found.values) == (9, 27)
    if bit < 31:
        assert found.max_ulp == 1 << bit
    x, y = float(made.logprobs[where]), float(flipped.logprobs[where])
    assert found.max_abs == (abs(x - y) if math.isfinite(y) else 0.0)


@pytest.mark.parametrize("column", [0, 1, 2])
@pytest.mark.parametrize("step", [0, 3])
def test_the_last_ulp_of_any_column_counts(column: int, step: int) -> None:
    made = observations()
    neighbour = np.nextafter(made.logprobs[1, step, column], np.float32(-np.inf))
    found = compare(made, with_bits(made, (1, step, column), int(neighbour.view(np.uint32))))
    assert found.first == Place(1, step, column)
    assert found.max_ulp == 1


def test_a_step_differs_once_however_many_of_its_columns_do() -> None:
    made = observations()
    other = with_bits(with_bits(made, (0, 1, 2), 0), (0, 1, 1), 0)
    found = compare(made, other)
    assert (found.differing_steps, found.differing_values, found.first) == (1, 2, Place(0, 1, 1))


def test_the_first_place_is_of_the_first_request_not_of_the_first_step() -> None:
    made = observations()
    assert compare(made, with_bits(with_bits(made, (2, 0, 0), 0), (1, 3, 2), 0)).first == Place(1, 3, 2)


@pytest.mark.parametrize("rubbish", [0x3F800000, NAN, 0x80000000])
def test_padding_never_counts(rubbish: int) -> None:
    made = observations(2, 4, 3, lengths=[2, 4])
    past_end = changed(with_bits(made, (0, 2, 1), rubbish))
    past_end.tokens[0, 3], past_end.ids[0, 2, 1] = 7, 7
    found = compare(made, past_end)
    assert found.first is None
    assert (found.steps, found.values) == (6, 18)

    made.ids[1, 1, 2] = -1
    found = compare(made, with_bits(made, (1, 1, 2), rubbish))
    assert found.first is None
    assert found.values == 17


def test_a_column_that_only_one_side_has_differs() -> None:
    made = observations()
    other = changed(made)
    other.ids[1, 2, 2], other.logprobs[1, 2, 2] = -1, 0
    found = compare(made, other)
    assert (found.first, found.differing_values, found.values) == (Place(1, 2, 2), 1, 36)
    # Of two tokens there is no distance.
    assert (found.max_ulp, found.max_abs) == (0, 0.0)


def test_the_same_bits_for_another_token_differ() -> None:
    made = observations()
    other = changed(made)
    other.ids[0, 0, 1] += 1
    found = compare(made, other)
    assert (found.first, found.differing_values, found.max_ulp) == (Place(0, 0, 1), 1, 0)


def test_after_another_token_was_sampled_a_request_is_not_compared() -> None:
    made = observations()
    other = with_token(made, 1, 1, 5000)
    other.logprobs[1, 2:] = 1
    other.tokens[1, 2:] = 3
    found = compare(made, other)
    # The diverging step itself counts: its prefix is the same.
    assert (found.steps, found.values) == (4 + 2 + 4, 30)
    assert (found.differing_steps, found.differing_values) == (1, 1)
    assert found.first == Place(1, 1, 0)


def test_tokens_that_differ_alone_are_a_difference() -> None:
    made = observations()
    other = changed(made)
    other.tokens[2, 3] += 1
    found = compare(made, other)
    assert (found.first, found.differing_steps, found.differing_values) == (Place(2, 3, TOKENS_DIFFER), 1, 0)


@pytest.mark.parametrize("shorter", [0, 1, 3])
def test_a_request_that_ends_earlier_differs_where_it_ends(shorter: int) -> None:
    made, other = observations(), observations(lengths=[4, shorter, 4])
    other = changed(made, lengths=other.lengths)
    for found in (compare(made, other), compare(other, made)):
        assert found.first == Place(1, shorter, TOKENS_DIFFER)
        assert found.differing_requests.tolist() == [False, True, False]
        assert (found.differing_steps, found.differing_values) == (1, 0)
        assert found.steps == 8 + shorter


def test_a_length_that_follows_from_another_token_is_not_counted_again() -> None:
    made = observations()
    other = changed(with_token(made, 0, 1, 5000), lengths=np.asarray([3, 4, 4], np.int32))
    assert compare(made, other).differing_steps == 1


def test_a_bit_before_the_early_end_is_the_first_difference() -> None:
    made = observations()
    other = changed(with_bits(made, (0, 1, 1), 0), lengths=np.asarray([3, 4, 4], np.int32))
    found = compare(made, other)
    assert (found.first, found.differing_steps) == (Place(0, 1, 1), 2)


def test_nans_of_the_same_bits_are_equal_and_of_other_bits_are_not() -> None:
    made = with_bits(observations(), (0, 0, 0), NAN)
    assert compare(made, changed(made)).first is None
    found = compare(made, with_bits(made, (0, 0, 0), NAN | 1))
    assert (found.first, found.max_ulp, found.max_abs) == (Place(0, 0, 0), 1, 0.0)


def test_zeros_of_other_sign_differ() -> None:
    made = with_bits(observations(), (0, 0, 0), 0)
    found = compare(made, with_bits(made, (0, 0, 0), 0x80000000))
    assert (found.first, found.max_ulp, found.max_abs) == (Place(0, 0, 0), 1, 0.0)


@pytest.mark.parametrize("bits_there", [0x7F800000, 0xFF800000, NAN])
def test_what_is_not_finite_has_no_absolute_distance(bits_there: int) -> None:
    made = observations()
    found = compare(made, with_bits(made, (0, 0, 0), bits_there))
    assert found.differing_values == 1
    assert found.max_ulp > 0
    assert found.max_abs == 0.0


@pytest.mark.parametrize("shape", [(2, 4, 3), (3, 5, 3), (3, 4, 2)])
def test_observations_of_other_requests_are_refused(shape: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="shapes differ"):
        compare(observations(), observations(*shape))


@pytest.mark.parametrize("shape", [(0, 4, 3), (3, 0, 3), (3, 4, 0), (0, 0, 0)])
def test_nothing_to_compare_is_no_difference_and_no_values(shape: tuple[int, int, int]) -> None:
    found = compare(observations(*shape), observations(*shape))
    assert (found.values, found.first) == (0, None)


def test_memory_layout_does_not_matter() -> None:
    made = observations()
    wide = np.zeros((3, 4, 6), np.float32)
    wide[:, :, ::2] = made.logprobs
    assert compare(made, changed(made, logprobs=wide[:, :, ::2])).first is None
    assert compare(made, changed(made, logprobs=np.asfortranarray(made.logprobs))).first is None
