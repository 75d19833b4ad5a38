"""digest(): equal exactly when every bit of every request is."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bi_harness.compare.digest import digest
from bi_harness.compare.observations import Observations
from tests.compare.made import any_observations, any_pair, changed, observations, with_bits


def content(made: Observations) -> list[object]:
    """What a digest stands for, in plain Python."""
    rows: list[object] = [made.ids.shape[2]]
    for row in range(made.requests):
        length = int(made.lengths[row])
        steps = []
        for step in range(length):
            columns = [
                (int(made.ids[row, step, c]), made.logprobs[row, step, c].tobytes())
                if made.ids[row, step, c] >= 0
                else None
                for c in range(made.ids.shape[2])
            ]
            steps.append((int(made.tokens[row, step]), columns))
        rows.append(steps)
    return rows


@given(any_pair())
def test_equal_exactly_when_the_bits_are(pair: tuple[Observations, Observations]) -> None:
    one, two = pair
    assert (digest([one]) == digest([two])) == (content(one) == content(two))


@given(any_observations())
def test_a_copy_has_the_same_digest(made: Observations) -> None:
    assert digest([made]) == digest([changed(made)])


@given(st.data())
def test_every_bit_counts(data: st.DataObject) -> None:
    made = observations(2, 3, 2, lengths=[3, 2])
    where = data.draw(
        st.sampled_from([(r, s, c) for r, n in ((0, 3), (1, 2)) for s in range(n) for c in (0, 1)])
    )
    bit = data.draw(st.integers(0, 31))
    assert digest([with_bits(made, where, int(made.logprobs.view(np.uint32)[where]) ^ (1 << bit))]) != digest(
        [made]
    )


def test_padding_at_the_end_does_not_count() -> None:
    made = observations(2, 3, 2, lengths=[3, 2])
    longer = Observations(
        np.pad(made.tokens, ((0, 0), (0, 4)), constant_values=9),
        made.lengths,
        np.pad(made.ids, ((0, 0), (0, 4), (0, 0)), constant_values=9),
        np.pad(made.logprobs, ((0, 0), (0, 4), (0, 0)), constant_values=np.nan),
    )
    assert digest([longer]) == digest([made])


def test_what_stands_in_a_column_without_a_token_does_not_count() -> None:
    made = observations()
    made.ids[1, 1, 2] = -1
    assert digest([with_bits(made, (1, 1, 2), 0x12345678)]) == digest([made])


def test_the_order_of_requests_counts() -> None:
    made = observations(2)
    assert digest([made.reordered([1, 0])]) != digest([made])


def test_where_one_arm_ends_counts() -> None:
    one, two = observations(2, seed=1), observations(2, seed=2)
    both = Observations(
        *(
            np.concatenate([getattr(one, n), getattr(two, n)])
            for n in ("tokens", "lengths", "ids", "logprobs")
        )
    )
    assert len({digest([one, two]), digest([two, one]), digest([both]), digest([one]), digest([])}) == 5


def test_memory_layout_does_not_count() -> None:
    made = observations()
    assert digest([changed(made, logprobs=np.asfortranarray(made.logprobs))]) == digest([made])
    big = made.logprobs.astype(">f4")
    assert digest([made]) == digest([changed(made, logprobs=big.astype("=f4"))])


@pytest.mark.parametrize("shape", [(0, 4, 3), (3, 0, 3), (3, 4, 0)])
def test_empty_observations_have_a_digest(shape: tuple[int, int, int]) -> None:
    assert digest([observations(*shape)]).startswith("sha256:")


def test_the_format_stays() -> None:
    """Certificates that exist name this digest: it changes only on purpose."""
    tokens = np.asarray([[7, -1]], np.int32)
    ids = np.asarray([[[7, 3], [-1, -1]]], np.int32)
    logprobs = np.asarray([[[-0.5, -1.25], [0, 0]]], np.float32)
    made = Observations(tokens, np.asarray([1], np.int32), ids, logprobs)
    assert digest([made]) == ("sha256:9034011af03ace82bc2750de2c832051ea03c217fd7d9b98b80d178ea5803ae3")
