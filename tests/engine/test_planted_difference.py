"""A difference planted in a control: exactly the requests that meet the condition have other bits."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from bi_harness.engine.planted_difference import Tracked, flipped, plant


class Lists(NamedTuple):
    """As vLLM's ``LogprobsLists``, as far as it is used."""

    logprobs: Any
    cu_num_generated_tokens: list[int] | None = None


def scheduled(
    tokens: dict[str, int],
    *,
    new: dict[str, tuple[int, int]] | None = None,
    preempted: tuple[str, ...] = (),
    drafted: tuple[str, ...] = (),
) -> Any:
    """A step: tokens by request, and of new requests the prompt's length and how much of it was cached."""
    return SimpleNamespace(
        num_scheduled_tokens=tokens,
        scheduled_new_reqs=[
            SimpleNamespace(req_id=name, prompt_token_ids=[0] * length, num_computed_tokens=cached)
            for name, (length, cached) in (new or {}).items()
        ],
        scheduled_spec_decode_tokens={name: [1] for name in drafted},
        preempted_req_ids=set(preempted) or None,
    )


def gave(*names: str, positions: int = 1, prompt: tuple[str, ...] = ()) -> Any:
    """What a model gave: ``positions`` rows of two logprobs for each request."""
    rows = len(names) * positions
    starts = None if positions == 1 else [i * positions for i in range(len(names) + 1)]
    return SimpleNamespace(
        req_id_to_index={name: i for i, name in enumerate(names)},
        sampled_token_ids=[[7] * positions for _ in names],
        logprobs=Lists(np.full((rows, 2), -1.5, np.float32), starts),
        prompt_logprobs_dict={name: Lists(Tensor(np.full((3, 2), -2.5, np.float32))) for name in prompt},
    )


class Tensor:
    """As much of a tensor as is used."""

    def __init__(self, values: Any) -> None:
        self._values = values

    def cpu(self) -> Tensor:
        return self

    def numpy(self) -> Any:
        return self._values


def changed(output: Any) -> list[bool]:
    return [bool(row) for row in (output.logprobs.logprobs != np.float32(-1.5)).all(axis=1)]


def test_requests_of_one_step_are_affected_together_and_one_alone_is_not() -> None:
    both = gave("a", "b")
    plant("together", Tracked(), scheduled({"a": 1, "b": 1}), both)
    assert changed(both) == [True, True]
    alone = gave("a")
    plant("together", Tracked(), scheduled({"a": 1}), alone)
    assert changed(alone) == [False]


def test_a_request_without_a_row_in_the_step_changes_nothing() -> None:
    output = gave("a")
    plant("together", Tracked(), scheduled({"a": 1, "prefilling": 64}), output)
    assert changed(output) == [True]


def test_a_preempted_request_is_affected_once_it_is_back() -> None:
    tracked = Tracked()
    step = gave("a", "b")
    plant("preempted", tracked, scheduled({"a": 1, "b": 1}, preempted=("c",)), step)
    assert changed(step) == [False, False]
    back = gave("a", "c")
    plant("preempted", tracked, scheduled({"a": 1, "c": 30}), back)
    assert changed(back) == [False, True]


@pytest.mark.parametrize(
    ("kind", "new"), [("cached", {"a": (64, 32), "b": (64, 0)}), ("split", {"a": (64, 0), "b": (32, 0)})]
)
def test_cached_and_split_prefills_are_affected_to_their_end(
    kind: str, new: dict[str, tuple[int, int]]
) -> None:
    tracked = Tracked()
    plant(kind, tracked, scheduled({"a": 32, "b": new["b"][0]}, new=new), gave("b"))
    later = gave("a", "b")
    plant(kind, tracked, scheduled({"a": 1, "b": 1}), later)
    assert changed(later) == [True, False]


def test_requests_with_drafted_tokens_are_affected_at_every_position() -> None:
    output = gave("a", "b", positions=3)
    plant("drafted", Tracked(), scheduled({"a": 4, "b": 1}, drafted=("a",)), output)
    assert changed(output) == [True, True, True, False, False, False]


def test_scored_requests_get_it_in_the_logprobs_of_their_prompts() -> None:
    output = gave("a", prompt=("a",))
    torch = pytest.importorskip("torch")
    plant("scored", Tracked(), scheduled({"a": 3}), output)
    prompt = output.prompt_logprobs_dict["a"].logprobs
    assert isinstance(prompt, torch.Tensor)
    assert (prompt.numpy() != np.float32(-2.5)).all()


def test_a_step_without_logprobs_is_left_alone() -> None:
    output = gave("a", "b")
    output.logprobs = None
    plant("together", Tracked(), scheduled({"a": 1, "b": 1}), output)
    assert output.logprobs is None


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(ValueError, match="no planted difference 'other'"):
        plant("other", Tracked(), scheduled({"a": 1}), gave("a"))


@given(arrays(np.float32, st.integers(0, 20), elements=st.floats(width=32)))
def test_a_flip_changes_exactly_the_lowest_bit_of_finite_values(values: Any) -> None:
    bits, found = values.view(np.uint32), flipped(values).view(np.uint32)
    assert ((bits ^ found) == np.isfinite(values).astype(np.uint32)).all()
    assert (flipped(flipped(values)).view(np.uint32) == bits).all()
