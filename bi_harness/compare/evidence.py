"""From compared arms to the certificate's evidence, and from evidence to a status. Pure decisions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bi_harness.certificate.records import (
    BatchReached,
    Divergence,
    Evidence,
    Needed,
    PlantedControl,
    Status,
)
from bi_harness.compare.bits import TOKENS_DIFFER, Comparison, Place, compare
from bi_harness.compare.digest import digest
from bi_harness.compare.observations import Observations
from bi_harness.compare.power import upper_bound_95
from bi_harness.compare.ulp import ulp_distance


@dataclass(frozen=True, slots=True)
class Arm:
    """The same requests at one batch size.

    Attributes:
        observations: in request order.
        batch: what the scheduler did.
    """

    observations: Observations
    batch: BatchReached


def gather(
    reference: Arm,
    batched: Sequence[Arm],
    prompt_tokens: Sequence[int],
    needed: Sequence[Needed] = (),
) -> Evidence:
    """Compare every batched arm with the reference, and sum up.

    Args:
        reference: each request alone.
        batched: the same requests in batches.
        prompt_tokens: the prompts' lengths, for the report.
        needed: what else had to happen.

    Raises:
        ValueError: when an arm is not of the same requests.
    """
    comparisons = [compare(reference.observations, arm.observations) for arm in batched]
    differing = np.zeros(reference.observations.requests, np.bool_)
    for comparison in comparisons:
        differing |= comparison.differing_requests
    steps = sum(c.steps for c in comparisons)
    differing_steps = sum(c.differing_steps for c in comparisons)
    return Evidence(
        prompts=reference.observations.requests if batched else 0,
        steps=steps,
        values=sum(c.values for c in comparisons),
        differing_prompts=int(differing.sum()),
        differing_steps=differing_steps,
        differing_values=sum(c.differing_values for c in comparisons),
        first_divergence=_first(reference, batched, comparisons, prompt_tokens),
        max_ulp=max((c.max_ulp for c in comparisons), default=0),
        max_abs=max((c.max_abs for c in comparisons), default=0.0),
        digest=digest(arm.observations for arm in batched),
        reference_digest=digest([reference.observations]),
        # A request that ends early differs in a step that its shorter side never made.
        upper95=upper_bound_95(min(differing_steps, steps), steps),
        batches=(reference.batch, *(arm.batch for arm in batched)),
        needed=tuple(needed),
    )


def _first(
    reference: Arm, batched: Sequence[Arm], comparisons: Sequence[Comparison], prompt_tokens: Sequence[int]
) -> Divergence | None:
    for index, (arm, comparison) in enumerate(zip(batched, comparisons, strict=True), start=1):
        if comparison.first is not None:
            return _describe(reference, arm, index, comparison.first, prompt_tokens)
    return None


def _describe(reference: Arm, arm: Arm, index: int, place: Place, prompt_tokens: Sequence[int]) -> Divergence:
    column = max(place.rank, 0)
    # A request that ended early has no step there on one side; the padding (-1, 0.0) stands for it.
    step = min(place.step, reference.observations.tokens.shape[1] - 1)
    where = (place.request, step, column)
    a, b = reference.observations, arm.observations
    x, y = a.logprobs[where], b.logprobs[where]
    same = place.rank != TOKENS_DIFFER and a.ids[where] == b.ids[where]
    return Divergence(
        prompt=place.request,
        prompt_tokens=prompt_tokens[place.request],
        batch_size=arm.batch.batch_size,
        arm=index,
        step=place.step,
        rank=place.rank,
        reference_token=int(a.ids[where]),
        observed_token=int(b.ids[where]),
        reference_bits=_bits(x),
        observed_bits=_bits(y),
        reference_logprob=_finite(x),
        observed_logprob=_finite(y),
        ulp=int(ulp_distance(np.asarray([x]), np.asarray([y]))[0]) if same else 0,
    )


def _bits(value: np.float32) -> str:
    return f"0x{int(value.view(np.uint32)):08x}"


def _finite(value: np.float32) -> float | None:
    return float(value) if math.isfinite(value) else None


def conclude(
    treatment: Evidence,
    control: Evidence | None,
    *,
    control_min_fraction: float,
    planted: PlantedControl | None = None,
) -> tuple[Status, str]:
    """The status that evidence bears, and why in one sentence.

    A difference is a failure whatever else is the case. Equality is a pass only when something was
    compared, every batch really formed, and the same workload diverges with invariance off, by itself or with
    a planted difference.

    Args:
        treatment: with invariance on.
        control: the same workload with invariance off; ``None`` when it did not run.
        control_min_fraction: the share of prompts, in (0, 1], that must diverge in the control.
        planted: the control with a planted difference; ``None`` where it did not run.

    Returns:
        ``("pass", "")``, or ``fail`` / ``inconclusive`` with the reason.
    """
    if reason := differs(treatment):
        return "fail", reason
    if reason := weakness(treatment) or control_weakness(treatment, control, control_min_fraction, planted):
        return "inconclusive", reason
    return "pass", ""


def differs(evidence: Evidence) -> str:
    """One sentence on what differs; empty when nothing does."""
    e = evidence
    if not (e.differing_prompts or e.differing_steps or e.differing_values or e.first_divergence):
        return ""
    sizes = "/".join(dict.fromkeys(str(b.batch_size) for b in e.batches[1:]))
    return (
        f"{e.differing_prompts} of {e.prompts} prompts differ between batch size 1 and {sizes}: "
        f"{e.differing_values} of {e.values} logprobs, by up to {e.max_ulp} ULP"
    )


def weakness(evidence: Evidence) -> str:
    """Why equality in this evidence would prove nothing; empty when it would."""
    if not (evidence.prompts and evidence.steps and evidence.values):
        return "nothing was compared"
    if not evidence.batches:
        return "no arm ran"
    reference, *batched = evidence.batches
    if reference.batch_size != 1 or reference.max_requests != 1:
        return f"the reference arm ran {reference.max_requests} requests together, not one"
    if not any(b.batch_size > 1 for b in batched):
        return "no arm had a batch of more than one request"
    for batch in batched:
        if batch.max_requests < batch.batch_size:
            return (
                f"the batch of {batch.batch_size} never formed: "
                f"at most {batch.max_requests} requests ran together"
            )
    for need in evidence.needed:
        if need.reached < need.needed:
            return f"{need.name}: {need.reached}, and the check shows something only from {need.needed} on"
        if need.at_most is not None and need.reached > need.at_most:
            return f"{need.name}: {need.reached}, and the check shows something only up to {need.at_most}"
    return ""


def control_weakness(
    treatment: Evidence,
    control: Evidence | None,
    min_fraction: float,
    planted: PlantedControl | None = None,
) -> str:
    """Why the control does not show that the workload can diverge; empty when it does.

    A planted difference must be seen in as many prompts as the control's own.
    """
    if control is None:
        return "the control (invariance off) did not run"
    if control.prompts != treatment.prompts:
        return f"the control ran {control.prompts} prompts, not the {treatment.prompts} of the check"
    # At least one, whatever the fraction: a control in which nothing diverges never has power.
    needed = max(1, math.ceil(min_fraction * control.prompts))
    if control.differing_prompts >= needed:
        return ""
    own = (
        f"the control (invariance off) diverged in {control.differing_prompts} of {control.prompts} "
        f"prompts, fewer than the {needed} that a pass needs"
    )
    if planted is None:
        return f"{own}: the workload has no power here"
    seen = planted.evidence
    if seen.prompts != treatment.prompts:
        return f"the planted control ran {seen.prompts} prompts, not the {treatment.prompts} of the check"
    if seen.differing_prompts < needed:
        return f"{own}, and a difference planted in it was seen in {seen.differing_prompts} of {seen.prompts}"
    return ""
