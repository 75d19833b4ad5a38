"""Running a check's arms on one engine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Protocol

import numpy as np

from bi_harness.certificate.records import BatchReached, Needed
from bi_harness.compare.evidence import Arm
from bi_harness.compare.observations import Observations
from bi_harness.engine.client import Burst
from bi_harness.engine.protocol import StepSummary
from bi_harness.workload.checkplan import ArmPlan, CheckPlan, together
from bi_harness.workload.requests import Limits, Member, Request


class Generates(Protocol):
    """What runs bursts: an engine's client, or a server's."""

    def generate(
        self,
        requests: Sequence[Request],
        bursts: Sequence[Sequence[int | Member]],
        *,
        timeout_s: float,
        progress: Callable[[int, int], None] = ...,
        limits: Limits | None = ...,
    ) -> Burst:
        """See ``EngineClient.generate``."""


class References:
    """What requests gave alone on one engine: run once, and used by every check that has them as subjects."""

    def __init__(self) -> None:
        self._alone: dict[Request, tuple[Observations, StepSummary]] = {}

    def missing(self, subjects: Sequence[Request]) -> ArmPlan | None:
        """The arm that is still to be run: each request that is not known yet, alone. ``None`` for none.

        Raises:
            ValueError: a subject has several sequences, which would not run alone.
        """
        if any(request.n != 1 for request in subjects):
            raise ValueError("a subject has one sequence; those of a request with n > 1 are rows of an arm")
        unknown = [r for r in dict.fromkeys(subjects) if r not in self._alone]
        return together("alone", unknown, 1) if unknown else None

    def add(self, plan: ArmPlan, arm: Arm, steps: Sequence[StepSummary]) -> None:
        """Take what the arm gave."""
        for index, (request, summary) in enumerate(zip(plan.requests, steps, strict=True)):
            self._alone[request] = (rows(arm.observations, [index], request.observed), summary)

    def arm(self, subjects: Sequence[Request]) -> Arm:
        """The reference arm of these subjects; a request that is there twice has the same row twice.

        Raises:
            KeyError: when one of them was not run.
        """
        known = [self._alone[request] for request in subjects]
        width = max(request.observed for request in subjects)
        parts = [observations.widened(width) for observations, _ in known]
        observations = Observations(
            np.concatenate([o.tokens for o in parts]),
            np.concatenate([o.lengths for o in parts]),
            np.concatenate([o.ids for o in parts]),
            np.concatenate([o.logprobs for o in parts]),
        )
        return Arm(
            observations,
            BatchReached(
                batch_size=1,
                prompts=len(subjects),
                steps=sum(summary.steps for _, summary in known),
                # The largest and not the smallest, as for batches: here company is what must not be.
                max_requests=max(summary.max_requests for _, summary in known),
                max_tokens=max(summary.max_tokens for _, summary in known),
                name="alone",
            ),
        )


def run_arm(
    engine: Generates,
    plan: ArmPlan,
    *,
    timeout_s: float,
    progress: Callable[[int, int], None] = lambda done, of: None,
) -> tuple[Arm, tuple[StepSummary, ...]]:
    """Run one arm, and say what the scheduler made of it: the subjects' observations, and each burst's steps.

    Raises:
        EngineError: see ``EngineClient.generate``.
    """
    burst = engine.generate(
        plan.requests, plan.bursts, timeout_s=timeout_s, progress=progress, limits=plan.limits
    )
    of_row = [request for request in plan.requests for _ in range(request.n)]
    width = max(of_row[row].observed for row in plan.subjects)
    arm = Arm(rows(burst.observations, plan.subjects, width), batch_reached(plan, burst.steps))
    return arm, burst.steps


def rows(observations: Observations, chosen: Sequence[int], steps: int) -> Observations:
    """The observations of some requests, in that order, with room for ``steps`` steps."""
    index = list(chosen)
    o = observations
    return Observations(o.tokens[index], o.lengths[index], o.ids[index], o.logprobs[index]).widened(steps)


def scored(plan: ArmPlan, subjects: Sequence[Request], alone: Observations) -> ArmPlan:
    """``plan`` with its subjects' prompts continued by what they generated alone, to be scored by a prefill.

    Args:
        plan: an arm whose requests are the subjects alone.
        subjects: of the check.
        alone: what they gave, in the order of ``subjects``.

    Raises:
        ValueError: when there are others among the requests, or a subject did not generate all its tokens.
    """
    if len(plan.requests) != len(plan.subjects):
        raise ValueError(f"{plan.name}: an arm that scores has no neighbours")
    requests = list(plan.requests)
    for place, (subject, row) in enumerate(zip(subjects, plan.subjects, strict=True)):
        length = int(alone.lengths[place])
        if length != subject.max_tokens:
            raise ValueError(f"{plan.name}: a subject generated {length} of {subject.max_tokens} tokens")
        made = tuple(int(token) for token in alone.tokens[place, :length])
        requests[row] = replace(
            subject, prompt=subject.prompt + made, score=length, max_tokens=1, temperature=0.0, seed=None
        )
    return replace(plan, requests=tuple(requests))


def batch_reached(plan: ArmPlan, steps: Sequence[StepSummary]) -> BatchReached:
    """What the arm's bursts reached, from the scheduler's steps of each.

    Raises:
        ValueError: when there is not one summary for each burst.
    """
    peaks = [
        s.max_requests
        for burst, s in zip(plan.bursts, steps, strict=True)
        if sum(plan.requests[member.request].n for member in burst) >= plan.batch_size
    ]
    return BatchReached(
        batch_size=plan.batch_size,
        prompts=len(plan.subjects),
        steps=sum(s.steps for s in steps),
        # No whole burst at all (fewer requests than the batch size) means that the size was never reached.
        max_requests=min(peaks, default=0),
        max_tokens=max((s.max_tokens for s in steps), default=0),
        name=plan.name,
    )


def needed(plan: CheckPlan, steps: Sequence[StepSummary]) -> tuple[Needed, ...]:
    """How often what the check needs happened, over all the steps of its arms."""

    def reached(name: str) -> int:
        return sum(int(getattr(s, name)) for s in steps)

    return (
        *(Needed(name=name, needed=times, reached=reached(name)) for name, times in plan.needs),
        *(Needed(name=name, needed=0, reached=reached(name), at_most=0) for name in plan.never),
    )
