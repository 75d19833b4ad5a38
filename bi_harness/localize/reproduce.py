"""The failure once more: a pair of the check's own plan that differs on an engine started for it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

from bi_harness.certificate.localized import Localization, Sent
from bi_harness.engine.config import EngineConfig
from bi_harness.localize.rerun import Clock, Difference, Rerun, Watchable, Watched
from bi_harness.localize.shrink import Budget, Pair, pair_of, shrink
from bi_harness.workload.checkplan import CheckPlan

MAX_TRIES = 64
"""Pairs that are run to find the smallest one."""


@dataclass(frozen=True, slots=True)
class Case:
    """What failed.

    Attributes:
        cell, check: which.
        plan: what the check sends.
        subject: of the plan's subjects, the first that differed.
        arm: index of the plan's arm in which it did.
        compiled: whether the cell runs with torch.compile or CUDA graphs, so that hooks see no modules.
        restarted: whether the arms ran in another process than the subjects alone.
    """

    cell: str
    check: str
    plan: CheckPlan
    subject: int
    arm: int
    compiled: bool
    restarted: bool = False


@dataclass(frozen=True, slots=True)
class Up:
    """Engines that are up: one that runs subjects alone, and one that runs the arms; in most checks the same.

    ``effective`` is what the arms' engine says of itself.
    """

    alone: Watchable
    arm: Watchable
    effective: Mapping[str, Any]


Start = Callable[[Callable[[EngineConfig], EngineConfig]], AbstractContextManager[Up]]
"""Starts the check's engines, changed so, and ends them."""


class Starts:
    """Starts engines, and counts them.

    Args:
        start: see there.
        clock: of the whole.
        timeout_s: of each of an engine's answers.
    """

    def __init__(self, start: Start, clock: Clock, timeout_s: float) -> None:
        self._start, self.clock, self._timeout_s = start, clock, timeout_s
        self.count = 0

    @contextmanager
    def __call__(
        self, change: Callable[[EngineConfig], EngineConfig], *, counts: bool = False
    ) -> Iterator[tuple[Rerun, Mapping[str, Any]]]:
        """One more, and what it says of itself; ``counts``: whether its start takes of the limit of time."""
        self.count += 1
        with ExitStack() as stack:
            with nullcontext() if counts else self.clock.stopped():
                up = stack.enter_context(self._start(change))
            yield Rerun(up.alone, up.arm, self._timeout_s, self.clock.late), up.effective


@dataclass(frozen=True, slots=True)
class Reproduced:
    """A pair that differs.

    Attributes:
        pair: the smallest that is known to.
        planned: as the check sends it.
        subject, arm: of the check's.
        difference: where.
        once: whether it is only an engine's first requests that differ.
        first: an engine's first requests, which differed, where they were watched.
    """

    pair: Pair
    planned: Pair
    subject: int
    arm: int
    difference: Difference
    once: bool = False
    first: Watched | None = None


def reproduce(case: Case, rerun: Rerun, *, hooks: bool) -> Reproduced | None:
    """The failing pair: the request alone and in the burst that it failed in; else in the whole arm; else any
    request of the arm, or of the check's other arms.

    Args:
        case: what failed.
        rerun: on an engine that has served no request yet.
        hooks: whether its first requests are watched, where the check is about them.
    """
    plan = case.plan
    arm = rerun.scored(plan.arms[case.arm], plan.subjects) if not plan.arms_first else plan.arms[case.arm]
    pair = pair_of(arm, case.subject, plan.subjects[case.subject])

    def made(pair: Pair, found: Difference, subject: int = case.subject) -> Reproduced:
        return Reproduced(pair, pair, subject, case.arm, found)

    if plan.arms_first:
        watched = rerun.watched(pair, {"kind": "digests"}, arm_first=True) if hooks else None
        found = watched.difference if watched is not None else rerun.difference(pair, arm_first=True)
        if found is not None:
            # What does not come of being first can be looked at as often as is needed.
            again = rerun.difference(pair)
            whole = made(pair, again or found)
            return replace(whole, once=again is None, first=watched)
    if pair.before and (found := rerun.difference(replace(pair, before=()))) is not None:
        return made(replace(pair, before=()), found)
    if (found := rerun.difference(pair)) is not None:
        return made(pair, found)
    for index in sorted(range(len(plan.arms)), key=lambda i: i != case.arm):
        arm = rerun.scored(plan.arms[index], plan.subjects)
        if (other := rerun.whole_arm(arm, plan.subjects)) is not None:
            pair = pair_of(arm, other, plan.subjects[other])
            if (found := rerun.difference(pair)) is not None:
                return replace(made(pair, found, other), arm=index)
    return None


def smallest(
    found: Reproduced,
    rerun: Rerun,
    budget: Budget,
    seen: Callable[[Pair, bool], None] = lambda pair, yes: None,
) -> Reproduced:
    """The smallest pair that differs in the same way: in logprobs, or in the sampled token alone.

    Args:
        found: one that differs.
        rerun: on the engine on which it does.
        budget: of pairs.
        seen: is told of each pair that was run, and whether it differs so.
    """
    if found.once:
        return found

    def differs(pair: Pair) -> int | None:
        difference = rerun.difference(pair)
        same = difference is not None and difference.sampled == found.difference.sampled
        seen(pair, same)
        return difference.step if difference is not None and same else None

    pair, step = shrink(found.pair, differs, found.difference.step, budget)
    rerun.difference(pair)  # for the seconds that it takes
    return replace(found, pair=pair, difference=replace(found.difference, step=step))


def not_reproduced(case: Case, late: bool, *, eager: bool | None) -> Localization:
    """The rerun does not differ: why that may be."""
    if late:
        why = "the request that failed does not differ again, and the time was up before all others had run"
    elif case.restarted:
        why = "on one engine the request does not differ: what differs may be two processes"
    else:
        how = "with torch.compile or CUDA graphs" if case.compiled else "eager"
        why = f"the same requests on another engine, {how}, do not differ"
    return Localization(cell=case.cell, check=case.check, outcome="not_reproduced", eager=eager, reason=why)


def sent(pair: Pair) -> Sent:
    """How large a pair is."""
    return Sent(
        neighbours=len(pair.neighbours),
        prompt_tokens=len(pair.subject.prompt),
        neighbour_tokens=sum(len(pair.company[i].prompt) for i in pair.neighbours),
        steps=pair.subject.max_tokens,
        bursts_before=len(pair.before),
    )
