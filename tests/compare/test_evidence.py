"""From arms to evidence, and from evidence to a status: a pass only where every needed fact holds."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bi_harness.certificate.records import Evidence, PlantedControl
from bi_harness.compare.bits import TOKENS_DIFFER
from bi_harness.compare.digest import digest
from bi_harness.compare.evidence import Arm, conclude, gather
from bi_harness.compare.observations import Observations
from tests.compare.made import (
    any_pair,
    changed,
    diverged,
    divergence,
    evidence,
    observations,
    reached,
    with_bits,
    with_token,
)

LENGTHS = [11, 12, 13]


def arm(made: Observations, batch_size: int) -> Arm:
    return Arm(made, reached(batch_size, prompts=made.requests))


def test_gather_sums_up_equal_arms() -> None:
    made = observations()
    found = gather(arm(made, 1), [arm(changed(made), 2), arm(changed(made), 3)], LENGTHS)
    assert (found.prompts, found.steps, found.values) == (3, 24, 72)
    assert (found.differing_prompts, found.differing_steps, found.differing_values) == (0, 0, 0)
    assert found.first_divergence is None
    assert [b.batch_size for b in found.batches] == [1, 2, 3]
    assert found.reference_digest == digest([made])
    assert found.digest == digest([made, made])
    assert found.upper95 == pytest.approx(1 - 0.05 ** (1 / 24))


def test_gather_describes_the_first_divergence_of_the_first_arm_that_has_one() -> None:
    made = observations()
    lower = np.nextafter(made.logprobs[2, 1, 2], np.float32(-np.inf))
    second = with_bits(made, (2, 1, 2), int(lower.view(np.uint32)))
    third = with_bits(made, (0, 0, 0), 0xFF800000)
    found = gather(arm(made, 1), [arm(changed(made), 2), arm(second, 3), arm(third, 4)], LENGTHS)
    assert (found.differing_prompts, found.differing_steps, found.differing_values) == (2, 2, 2)
    first = found.first_divergence
    assert first is not None
    assert (first.prompt, first.prompt_tokens, first.batch_size, first.step, first.rank) == (2, 13, 3, 1, 2)
    assert first.reference_token == first.observed_token == made.ids[2, 1, 2]
    assert first.reference_bits == f"0x{int(made.logprobs[2, 1, 2].view(np.uint32)):08x}"
    assert first.observed_bits == f"0x{int(lower.view(np.uint32)):08x}"
    assert (first.reference_logprob, first.observed_logprob) == (made.logprobs[2, 1, 2], lower)
    assert first.ulp == 1


def test_a_prompt_that_differs_in_several_arms_counts_once() -> None:
    made = observations()
    other = with_bits(made, (1, 0, 0), 0)
    found = gather(arm(made, 1), [arm(other, 2), arm(other, 3)], LENGTHS)
    assert (found.differing_prompts, found.differing_steps, found.differing_values) == (1, 2, 2)


def test_a_logprob_that_is_not_finite_travels_as_bits() -> None:
    made = observations()
    first = gather(arm(made, 1), [arm(with_bits(made, (0, 0, 0), 0x7FC00000), 2)], LENGTHS).first_divergence
    assert first is not None
    assert (first.observed_logprob, first.observed_bits) == (None, "0x7fc00000")


def test_another_token_is_shown_with_both_and_without_a_distance() -> None:
    made = observations()
    first = gather(arm(made, 1), [arm(with_token(made, 1, 2, 4321), 2)], LENGTHS).first_divergence
    assert first is not None
    assert (first.reference_token, first.observed_token, first.ulp) == (made.ids[1, 2, 0], 4321, 0)


@pytest.mark.parametrize("end", [0, 3])
def test_an_early_end_is_described_as_one(end: int) -> None:
    made, shorter = observations(), observations(lengths=[4, end, 4])
    for reference, observed in ((made, shorter), (shorter, made)):
        found = gather(arm(reference, 1), [arm(observed, 2)], LENGTHS)
        assert found.first_divergence is not None
        assert (found.first_divergence.step, found.first_divergence.rank) == (end, TOKENS_DIFFER)
        assert 0 < found.upper95 <= 1
        assert conclude(found, diverged(3, prompts=3), control_min_fraction=0.5)[0] == "fail"


def test_gather_refuses_an_arm_of_other_requests() -> None:
    with pytest.raises(ValueError, match="shapes differ"):
        gather(arm(observations(3), 1), [arm(observations(2), 2)], LENGTHS)


def test_without_a_batched_arm_nothing_was_compared() -> None:
    found = gather(arm(observations(), 1), [], LENGTHS)
    assert (found.prompts, found.upper95) == (0, 1.0)
    assert conclude(found, diverged(8), control_min_fraction=0.5) == ("inconclusive", "nothing was compared")


@given(any_pair())
def test_any_difference_in_bits_ends_in_a_failure(pair: tuple[Observations, Observations]) -> None:
    reference, observed = pair
    found = gather(arm(reference, 1), [arm(observed, 2)], [5] * reference.requests)
    status, reason = conclude(found, diverged(found.prompts), control_min_fraction=0.5)
    if found.digest != found.reference_digest and found.first_divergence is None:
        pytest.fail("the digests differ and no divergence was found")
    assert (status == "fail") == (found.first_divergence is not None)
    assert reason or status == "pass"


def test_a_clean_treatment_with_a_control_that_diverges_passes() -> None:
    assert conclude(evidence(), diverged(8), control_min_fraction=0.5) == ("pass", "")


@pytest.mark.parametrize(
    ("treatment", "control", "reason"),
    [
        ({"prompts": 0}, 8, "nothing was compared"),
        ({"steps": 0}, 8, "nothing was compared"),
        ({"values": 0}, 8, "nothing was compared"),
        ({"batches": ()}, 8, "no arm ran"),
        ({"batches": (reached(1),)}, 8, "no arm had a batch of more than one request"),
        ({"batches": (reached(1), reached(1))}, 8, "no arm had a batch of more than one request"),
        ({"batches": (reached(2), reached(8))}, 8, "the reference arm ran 2 requests together"),
        ({"batches": (reached(1, 3), reached(8))}, 8, "the reference arm ran 3 requests together"),
        ({"batches": (reached(1, 0), reached(8))}, 8, "the reference arm ran 0 requests together"),
        ({"batches": (reached(1), reached(2), reached(8, 7))}, 8, "the batch of 8 never formed: at most 7"),
        ({"batches": (reached(1), reached(2, 0), reached(8))}, 8, "the batch of 2 never formed: at most 0"),
        ({}, None, "did not run"),
        ({}, 0, "diverged in 0 of 8 prompts, fewer than the 4"),
        ({}, 3, "diverged in 3 of 8 prompts, fewer than the 4"),
    ],
)
def test_each_reason_for_inconclusive(treatment: dict, control: int | None, reason: str) -> None:
    found = evidence(**treatment)
    other = None if control is None else diverged(control)
    status, said = conclude(found, other, control_min_fraction=0.5)
    assert status == "inconclusive"
    assert reason in said


def test_a_control_of_other_prompts_proves_nothing() -> None:
    status, reason = conclude(evidence(), diverged(7, prompts=7), control_min_fraction=0.5)
    assert (status, reason) == ("inconclusive", "the control ran 7 prompts, not the 8 of the check")


@pytest.mark.parametrize(
    ("prompts", "fraction", "needed"), [(8, 0.5, 4), (33, 0.5, 17), (8, 1.0, 8), (8, 1e-9, 1), (1, 0.5, 1)]
)
def test_the_control_must_diverge_in_the_fraction_rounded_up(
    prompts: int, fraction: float, needed: int
) -> None:
    treatment = evidence(prompts=prompts)
    for differing in range(prompts + 1):
        status, _ = conclude(treatment, diverged(differing, prompts=prompts), control_min_fraction=fraction)
        assert (status == "pass") == (differing >= needed)


@pytest.mark.parametrize(
    "change",
    [
        {"differing_prompts": 1},
        {"differing_steps": 1},
        {"differing_values": 1},
        {"first_divergence": divergence()},
    ],
)
@pytest.mark.parametrize(
    "weak",
    [{}, {"batches": (reached(1), reached(8, 2))}, {"batches": ()}, {"prompts": 0, "steps": 0, "values": 0}],
)
@pytest.mark.parametrize("control", [None, 0, 8])
def test_any_difference_is_a_failure_even_where_equality_would_prove_nothing(
    change: dict, weak: dict, control: int | None
) -> None:
    other = None if control is None else diverged(control)
    status, reason = conclude(evidence(**weak, **change), other, control_min_fraction=0.5)
    assert status == "fail"
    assert "differ" in reason


counts = st.integers(0, 3)
batches = st.lists(st.builds(reached, st.integers(1, 3), counts), max_size=4).map(tuple)
any_evidence = st.builds(
    evidence,
    prompts=counts,
    steps=counts,
    values=counts,
    differing_prompts=st.sampled_from([0, 0, 1, 3]),
    differing_steps=st.sampled_from([0, 0, 0, 1]),
    differing_values=st.sampled_from([0, 0, 0, 1]),
    first_divergence=st.sampled_from([None, None, None, divergence()]),
    batches=st.one_of(batches, st.just((reached(1), reached(2), reached(3)))),
)


@given(any_evidence, st.none() | any_evidence, st.floats(1e-6, 1))
def test_a_pass_needs_every_fact(treatment: Evidence, control: Evidence | None, fraction: float) -> None:
    status, reason = conclude(treatment, control, control_min_fraction=fraction)
    facts = [
        not treatment.differing_prompts,
        not treatment.differing_steps,
        not treatment.differing_values,
        treatment.first_divergence is None,
        treatment.prompts > 0 and treatment.steps > 0 and treatment.values > 0,
        len(treatment.batches) > 1,
        all(b.batch_size == b.max_requests == 1 for b in treatment.batches[:1]),
        any(b.batch_size > 1 for b in treatment.batches[1:]),
        all(b.max_requests >= b.batch_size for b in treatment.batches),
        control is not None
        and control.prompts == treatment.prompts
        and control.differing_prompts >= max(1, fraction * control.prompts),
    ]
    assert (status == "pass") == all(facts)
    assert (status == "fail") == (not all(facts[:4]))
    assert bool(reason) == (status != "pass")


def planted(differing: int, **changes: Any) -> PlantedControl:
    return PlantedControl(requests="together", evidence=diverged(differing, **changes))


def test_a_planted_difference_stands_for_a_control_that_agrees() -> None:
    for own in (0, 3):
        control = diverged(own)
        assert conclude(evidence(), control, control_min_fraction=0.5)[0] == "inconclusive"
        found = conclude(evidence(), control, control_min_fraction=0.5, planted=planted(8))
        assert found == ("pass", "")


def test_a_planted_difference_must_be_seen_in_as_many_prompts_as_the_controls_own() -> None:
    assert conclude(evidence(), diverged(0), control_min_fraction=0.5, planted=planted(4))[0] == "pass"
    status, reason = conclude(evidence(), diverged(0), control_min_fraction=0.5, planted=planted(3))
    assert status == "inconclusive"
    assert "diverged in 0 of 8" in reason
    assert reason.endswith("a difference planted in it was seen in 3 of 8")


@pytest.mark.parametrize(
    ("control", "seen", "says"),
    [
        (None, planted(8), "the control (invariance off) did not run"),
        (diverged(0, prompts=7), planted(8), "the control ran 7 prompts"),
        (diverged(0), planted(7, prompts=7), "the planted control ran 7 prompts"),
    ],
)
def test_a_planted_difference_is_no_control_by_itself(
    control: Evidence | None, seen: PlantedControl, says: str
) -> None:
    status, reason = conclude(evidence(), control, control_min_fraction=0.5, planted=seen)
    assert status == "inconclusive"
    assert says in reason


def test_a_difference_is_a_failure_whatever_was_planted() -> None:
    status, _ = conclude(diverged(1), diverged(0), control_min_fraction=0.5, planted=planted(8))
    assert status == "fail"
