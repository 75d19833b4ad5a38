"""What an arm's bursts reached."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bi_harness.certificate.records import BatchReached
from bi_harness.compare.evidence import Arm
from bi_harness.compare.observations import Observations
from bi_harness.engine.arms import References, batch_reached, needed
from bi_harness.engine.protocol import StepSummary
from bi_harness.workload.checkplan import ArmPlan, CheckPlan, together
from bi_harness.workload.prompts import make_requests

REQUESTS = make_requests(seed=1, count=40, steps=2, top_k=1, vocab_size=99, longest=9)


def plan(count: int, size: int) -> ArmPlan:
    return together("batches", REQUESTS[:count], size)


def step(peak: int, tokens: int = 10) -> StepSummary:
    return StepSummary(steps=5, max_requests=peak, max_tokens=tokens, preemptions=0, split_prefills=0)


def test_the_smallest_peak_of_the_whole_bursts_counts() -> None:
    found = batch_reached(plan(9, 3), [step(3, 50), step(2, 90), step(3)])
    assert (found.batch_size, found.prompts, found.max_requests) == (3, 9, 2)
    assert (found.steps, found.max_tokens) == (15, 90)


def test_a_short_last_burst_does_not_count() -> None:
    assert batch_reached(plan(7, 3), [step(3), step(3), step(1)]).max_requests == 3


def test_without_a_whole_burst_the_size_was_never_reached() -> None:
    assert batch_reached(plan(5, 8), [step(5)]).max_requests == 0
    assert batch_reached(plan(0, 8), []).max_requests == 0


def test_every_burst_needs_its_steps() -> None:
    with pytest.raises(ValueError):
        batch_reached(plan(4, 2), [step(2)])


@given(st.integers(1, 30), st.integers(1, 10), st.data())
def test_it_is_reached_exactly_when_every_whole_burst_reached_it(
    count: int, size: int, data: st.DataObject
) -> None:
    bursts = plan(count, size).bursts
    peaks = [data.draw(st.integers(0, len(burst))) for burst in bursts]
    whole = [peak for peak, burst in zip(peaks, bursts, strict=True) if len(burst) == size]
    found = batch_reached(plan(count, size), [step(peak) for peak in peaks])
    assert (found.max_requests == size) == (bool(whole) and all(peak == size for peak in whole))


def alone(values: Sequence[int], peak: int = 1) -> tuple[Arm, list[StepSummary]]:
    """What an arm of requests alone gives: row i holds values[i] everywhere."""
    tokens = np.repeat(np.asarray(values, np.int32)[:, None], 2, axis=1)
    ids = np.repeat(tokens[:, :, None], 2, axis=2)
    seen = Observations(tokens, np.full(len(values), 2, np.int32), ids, ids.astype(np.float32))
    batch = BatchReached(batch_size=1, prompts=len(values), steps=0, max_requests=peak, max_tokens=0)
    return Arm(seen, batch), [step(peak)] * len(values)


def test_a_reference_is_run_once_and_serves_every_check() -> None:
    references = References()
    first = references.missing(REQUESTS[:3])
    assert first is not None
    assert [m.request for burst in first.bursts for m in burst] == [0, 1, 2]
    assert first.batch_size == 1
    references.add(first, *alone([10, 11, 12]))
    assert references.missing(REQUESTS[1:3]) is None
    second = references.missing(REQUESTS[2:5])
    assert second is not None
    assert second.requests == REQUESTS[3:5]
    references.add(second, *alone([13, 14]))
    arm = references.arm([REQUESTS[4], REQUESTS[0], REQUESTS[4]])
    assert arm.observations.tokens[:, 0].tolist() == [14, 10, 14]
    assert (arm.batch.batch_size, arm.batch.prompts, arm.batch.max_requests) == (1, 3, 1)


def test_a_request_that_is_there_twice_is_run_once() -> None:
    missing = References().missing(REQUESTS[:2] * 3)
    assert missing is not None
    assert missing.requests == REQUESTS[:2]


def test_company_of_one_reference_shows_in_every_arm_that_has_it() -> None:
    references = References()
    for part, peak in ((REQUESTS[:2], 1), (REQUESTS[2:3], 2)):
        missing = references.missing(part)
        assert missing is not None
        references.add(missing, *alone([7] * len(part), peak))
    assert references.arm(REQUESTS[:2]).batch.max_requests == 1
    assert references.arm(REQUESTS[:3]).batch.max_requests == 2


def test_a_reference_that_was_not_run_is_not_made_up() -> None:
    with pytest.raises(KeyError):
        References().arm(REQUESTS[:1])


def test_what_a_check_needs_is_summed_over_its_arms() -> None:
    check = CheckPlan(REQUESTS[:2], (plan(2, 2),), needs=(("mixed_steps", 3), ("aborted", 1)))
    steps = [StepSummary(9, 2, 9, 0, 0, mixed_steps=n) for n in (1, 2)]
    assert [(n.name, n.needed, n.reached) for n in needed(check, steps)] == [
        ("mixed_steps", 3, 3),
        ("aborted", 1, 0),
    ]
