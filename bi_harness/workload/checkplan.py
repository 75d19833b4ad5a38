"""What a check sends: its subjects alone, and the same subjects in company. Pure data.

A *subject* is a request whose observation is compared; a *neighbour* is there to disturb it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from bi_harness.workload.requests import Limits, Member, Planted, Request

Condition = Literal[
    "aborted",
    "accepted_tokens",
    "adapter_steps",
    "cached_tokens",
    "first_bursts",
    "mixed_steps",
    "preemptions",
    "rejected_tokens",
    "split_prefills",
    "spread_bursts",
]
"""Fields of ``StepSummary`` that a check can need."""


@dataclass(frozen=True, slots=True)
class ArmPlan:
    """One way of sending all subjects.

    Attributes:
        name: for a reader.
        requests: subjects and neighbours.
        bursts: each is submitted, and runs to its end, before the next; every request is in one of them.
        subjects: for each subject of the check, its row. A request has ``n`` rows, in the order of
            ``requests``; where all have ``n`` of 1, the row is the index.
        batch_size: requests that must have run together in every whole burst, or the arm shows nothing.
        limits: what the scheduler is held to.
        scored: the subjects' prompts are continued with what they generated alone, and the logprobs of that
            part are observed as one prefill computes them.
    """

    name: str
    requests: tuple[Request, ...]
    bursts: tuple[tuple[Member, ...], ...]
    subjects: tuple[int, ...]
    batch_size: int
    limits: Limits | None = None
    scored: bool = False


@dataclass(frozen=True, slots=True)
class CheckPlan:
    """A check.

    Attributes:
        subjects: each is observed alone first; that is the reference of every arm.
        arms: at least one.
        never: what must not have happened.
        arms_first: the arms run before the subjects alone, where those have not run in an earlier check.
        needs: what must have happened, over all arms, for equality to mean anything: the field of the
            scheduler's summary and how often at least.
        planted: where the control (invariance off) does not diverge by itself, it runs the arms once more
            with a difference planted in these requests.
    """

    subjects: tuple[Request, ...]
    arms: tuple[ArmPlan, ...]
    needs: tuple[tuple[Condition, int], ...] = ()
    never: tuple[Condition, ...] = ()
    arms_first: bool = False
    planted: Planted = "together"

    def with_planted(self) -> CheckPlan:
        """The same with the difference planted in every arm; the subjects alone stay as they are."""
        arms = tuple(
            replace(arm, limits=replace(arm.limits or Limits(), planted=self.planted)) for arm in self.arms
        )
        return replace(self, arms=arms)


def together(
    name: str,
    subjects: Sequence[Request],
    batch_size: int,
    order: Sequence[int] | None = None,
    limits: Limits | None = None,
) -> ArmPlan:
    """All subjects in bursts of ``batch_size``, without neighbours.

    Args:
        order: in which they are submitted; as they are by default.
        limits: what the scheduler is held to.
    """
    places = list(order) if order is not None else list(range(len(subjects)))
    bursts = tuple(
        tuple(Member(index) for index in places[start : start + batch_size])
        for start in range(0, len(places), batch_size)
    )
    return ArmPlan(name, tuple(subjects), bursts, tuple(range(len(subjects))), batch_size, limits)
