"""What an arm's bursts reached, which rows are its subjects', and what a scoring arm sends."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bi_harness.certificate.records import BatchReached
from bi_harness.compare.evidence import Arm
from bi_harness.compare.observations import Observations
from bi_harness.engine.arms import References, batch_reached, needed, rows, run_arm, scored
from bi_harness.engine.client import Burst
from bi_harness.engine.protocol import StepSummary
from bi_harness.workload.checkplan import ArmPlan, CheckPlan, together
from bi_harness.workload.prompts import make_requests
from bi_harness.workload.requests import Limits, Member, Request
from tests.compare.made import observations

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


def sampled(count: int, n: int, steps: int = 2) -> tuple[Request, ...]:
    """Requests of ``n`` sequences each."""
    return tuple(Request((1, 2, i), steps, 0.8, 10 * i, 1, n=n) for i in range(count))


def of_sequences() -> ArmPlan:
    """Two requests of three sequences and two of one, in two bursts; the subjects are sequences."""
    requests = (*sampled(2, 3), *sampled(2, 1))
    bursts = ((Member(2), Member(0)), (Member(3), Member(1)))
    return ArmPlan("sequences", requests, bursts, (5, 0, 7), batch_size=4)


def test_a_request_counts_as_many_as_its_sequences() -> None:
    arm = of_sequences()
    assert batch_reached(arm, [step(4), step(3)]).max_requests == 3
    assert batch_reached(replace(arm, batch_size=5), [step(4), step(4)]).max_requests == 0
    found = batch_reached(arm, [step(4), step(4)])
    assert (found.max_requests, found.prompts, found.name) == (4, 3, "sequences")


@given(st.lists(st.integers(1, 4), min_size=1, max_size=6), st.integers(1, 12))
def test_a_burst_is_whole_when_its_sequences_are_enough(numbers: list[int], size: int) -> None:
    requests = tuple(Request((i,), 2, 0.8, i, 1, n=n) for i, n in enumerate(numbers))
    burst = tuple(Member(i) for i in range(len(requests)))
    reached = batch_reached(ArmPlan("x", requests, (burst,), (0,), size), [step(sum(numbers))])
    assert reached.max_requests == (sum(numbers) if sum(numbers) >= size else 0)


class Stub:
    """Stands for an engine: row i of what it gives holds i everywhere."""

    def __init__(self, peaks: Sequence[int], steps: int = 2) -> None:
        self.peaks, self.steps = peaks, steps
        self.asked: dict[str, Any] = {}

    def generate(
        self,
        requests: Sequence[Request],
        bursts: Sequence[Sequence[Member]],
        *,
        timeout_s: float,
        progress: Callable[[int, int], None],
        limits: Limits | None,
    ) -> Burst:
        self.asked = {"requests": requests, "bursts": bursts, "timeout_s": timeout_s, "limits": limits}
        progress(1, len(bursts))
        count = sum(r.n for r in requests)
        tokens = np.repeat(np.arange(count, dtype=np.int32)[:, None], self.steps, axis=1)
        ids = np.repeat(tokens[:, :, None], 2, axis=2)
        lengths = np.asarray([min(r.observed, self.steps) for r in requests for _ in range(r.n)], np.int32)
        seen = Observations(tokens, lengths, ids, ids.astype(np.float32))
        return Burst(seen, tuple(step(peak) for peak in self.peaks), 0.5)


def ran(engine: Stub, arm: ArmPlan, **options: Any) -> tuple[Arm, tuple[StepSummary, ...]]:
    return run_arm(engine, arm, **{"timeout_s": 9.0, **options})  # type: ignore[arg-type]


def test_an_arm_gives_its_subjects_sequences_in_the_checks_order() -> None:
    found, steps = ran(Stub([4, 4]), of_sequences())
    assert found.observations.tokens[:, 0].tolist() == [5, 0, 7]
    assert found.observations.ids[:, -1, -1].tolist() == [5, 0, 7]
    assert (found.batch.max_requests, found.batch.prompts) == (4, 3)
    assert steps == (step(4), step(4))


def test_an_arm_asks_for_what_its_plan_says() -> None:
    engine, seen = Stub([4, 4]), []
    arm = replace(of_sequences(), limits=Limits(step_tokens=61))
    ran(engine, arm, timeout_s=7.5, progress=lambda done, of: seen.append((done, of)))
    assert engine.asked == {
        "requests": arm.requests,
        "bursts": arm.bursts,
        "timeout_s": 7.5,
        "limits": Limits(step_tokens=61),
    }
    assert seen == [(1, 2)]
    ran(engine, of_sequences())
    assert engine.asked["limits"] is None


def test_an_arm_is_as_wide_as_its_longest_subject_and_not_as_its_neighbours() -> None:
    requests = (*sampled(1, 2, steps=3), *sampled(1, 1, steps=9))
    arm = ArmPlan("x", requests, ((Member(1), Member(0)),), (1,), 3)
    found, _ = ran(Stub([3], steps=9), arm)
    assert found.observations.tokens.tolist() == [[1, 1, 1]]
    wider, _ = ran(Stub([3], steps=9), replace(arm, subjects=(1, 2)))
    assert wider.observations.tokens.shape == (2, 9)
    assert wider.observations.lengths.tolist() == [3, 9]


def test_a_subject_that_is_no_row_is_an_error() -> None:
    with pytest.raises(IndexError):
        ran(Stub([4, 4]), replace(of_sequences(), subjects=(8,)))


@given(st.lists(st.integers(0, 4), max_size=8), st.integers(0, 3))
def test_rows_are_those_that_were_chosen_as_often_as_they_were(chosen: list[int], more: int) -> None:
    made = observations(5, 3, 2, lengths=[3, 1, 0, 2, 3])
    found = rows(made, chosen, 3 + more)
    assert found.tokens.shape == (len(chosen), 3 + more)
    assert found.lengths.tolist() == [int(made.lengths[row]) for row in chosen]
    for place, row in enumerate(chosen):
        assert np.array_equal(found.tokens[place, :3], made.tokens[row])
        assert np.array_equal(found.ids[place, :3], made.ids[row])
        assert found.logprobs[place, :3].tobytes() == made.logprobs[row].tobytes()


def test_rows_are_cut_to_their_own_steps_and_no_further() -> None:
    made = observations(2, 5, 2, lengths=[2, 5])
    assert rows(made, [0], 2).tokens.shape == (1, 2)
    with pytest.raises(ValueError, match="a request has 5 steps"):
        rows(made, [0, 1], 2)
    with pytest.raises(IndexError):
        rows(made, [2], 5)


def test_references_of_different_lengths_stand_side_by_side() -> None:
    short, long = Request((1,), 1, 0.0, None, 1), Request((2,), 3, 0.0, None, 1)
    references = References()
    arm = references.missing([short, long])
    assert arm is not None
    found, steps = ran(Stub([1, 1], steps=3), arm)
    references.add(arm, found, steps)
    both = references.arm([long, short, long]).observations
    assert both.lengths.tolist() == [3, 1, 3]
    assert both.tokens.tolist() == [[1, 1, 1], [0, -1, -1], [1, 1, 1]]
    assert both.ids[1, :, 0].tolist() == [0, -1, -1]
    # Alone, the short one has no room for steps that it does not make.
    assert references.arm([short]).observations.tokens.tolist() == [[0]]


def test_references_of_several_arms_of_different_lengths_stand_side_by_side() -> None:
    references = References()
    for length in (4, 1, 2):
        arm = references.missing([Request((length,), length, 0.0, None, 1)])
        assert arm is not None
        references.add(arm, *ran(Stub([1], steps=length), arm))
    subjects = [Request((length,), length, 0.0, None, 1) for length in (1, 2, 4)]
    assert references.missing(subjects) is None
    assert references.arm(subjects).observations.lengths.tolist() == [1, 2, 4]
    assert references.arm(subjects).observations.tokens.shape == (3, 4)


def test_the_same_prompt_with_other_steps_is_another_reference() -> None:
    references = References()
    arm = references.missing(REQUESTS[:1])
    assert arm is not None
    references.add(arm, *alone([3]))
    assert references.missing([replace(REQUESTS[0], max_tokens=9)]) is not None


def scoring(*places: int) -> ArmPlan:
    """The subjects together, in that order."""
    subjects = [REQUESTS[place] for place in places]
    back = tuple(places.index(place) for place in sorted(places))
    return replace(together("scored", subjects, len(places)), subjects=back, scored=True)


def test_a_scoring_arm_continues_each_prompt_with_what_it_gave_alone() -> None:
    subjects, given_ = REQUESTS[:3], observations(3, 2, 2)
    made = scored(scoring(2, 0, 1), subjects, given_)
    assert made.bursts == scoring(2, 0, 1).bursts
    assert made.subjects == (1, 2, 0)
    for place, subject in enumerate(subjects):
        request = made.requests[made.subjects[place]]
        assert request.prompt == subject.prompt + tuple(given_.tokens[place].tolist())
        assert all(type(token) is int for token in request.prompt)
        assert (request.score, request.observed, request.max_tokens) == (2, 2, 1)


def test_a_scoring_arm_samples_nothing() -> None:
    subject = Request((1, 2), 2, 0.8, 7, 3, top_p=0.9)
    made = scored(together("scored", [subject], 1), [subject], observations(1, 2, 2)).requests[0]
    assert (made.temperature, made.seed, made.top_k_logprobs) == (0.0, None, 3)


def test_a_scoring_arm_has_no_neighbours() -> None:
    arm = replace(together("company", REQUESTS[:3], 3), subjects=(0, 1))
    with pytest.raises(ValueError, match="company: an arm that scores has no neighbours"):
        scored(arm, REQUESTS[:2], observations(2, 2, 2))


@pytest.mark.parametrize("length", [0, 1])
def test_a_subject_that_ended_early_is_not_scored(length: int) -> None:
    with pytest.raises(ValueError, match=f"scored: a subject generated {length} of 2 tokens"):
        scored(scoring(0, 1), REQUESTS[:2], observations(2, 2, 2, lengths=[2, length]))


@pytest.mark.parametrize("count", [1, 3])
def test_a_scoring_arm_of_other_subjects_is_refused(count: int) -> None:
    with pytest.raises(ValueError):
        scored(scoring(0, 1), REQUESTS[:count], observations(3, 2, 2))
