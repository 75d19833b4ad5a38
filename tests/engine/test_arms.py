"""What an arm's bursts reached."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bi_harness.engine.arms import batch_reached
from bi_harness.engine.protocol import StepSummary
from bi_harness.workload.prompts import split


def step(peak: int, tokens: int = 10) -> StepSummary:
    return StepSummary(steps=5, max_requests=peak, max_tokens=tokens, preemptions=0, split_prefills=0)


def test_the_smallest_peak_of_the_whole_bursts_counts() -> None:
    found = batch_reached(3, split(9, 3), [step(3, 50), step(2, 90), step(3)])
    assert (found.batch_size, found.prompts, found.max_requests) == (3, 9, 2)
    assert (found.steps, found.max_tokens) == (15, 90)


def test_a_short_last_burst_does_not_count() -> None:
    assert batch_reached(3, split(7, 3), [step(3), step(3), step(1)]).max_requests == 3


def test_without_a_whole_burst_the_size_was_never_reached() -> None:
    assert batch_reached(8, split(5, 8), [step(5)]).max_requests == 0
    assert batch_reached(8, [], []).max_requests == 0


def test_every_burst_needs_its_steps() -> None:
    with pytest.raises(ValueError):
        batch_reached(2, split(4, 2), [step(2)])


@given(st.integers(1, 30), st.integers(1, 10), st.data())
def test_it_is_reached_exactly_when_every_whole_burst_reached_it(
    count: int, size: int, data: st.DataObject
) -> None:
    bursts = split(count, size)
    peaks = [data.draw(st.integers(0, len(burst))) for burst in bursts]
    whole = [peak for peak, burst in zip(peaks, bursts, strict=True) if len(burst) == size]
    found = batch_reached(size, bursts, [step(peak) for peak in peaks])
    assert (found.max_requests == size) == (bool(whole) and all(peak == size for peak in whole))
