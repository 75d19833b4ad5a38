"""From a failed check to a localization: reproduce, shrink, watch, and say where it begins."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any

from bi_harness.certificate.localized import (
    MAX_MODULES,
    MAX_RAN,
    Cost,
    Localization,
    ModuleState,
    OptionTried,
    Sent,
    State,
)
from bi_harness.engine.config import EngineConfig
from bi_harness.errors import EngineError, HarnessError
from bi_harness.localize.culprit import ROOT, SAMPLER, Found, differing, first_culprit, rows_of
from bi_harness.localize.measure import difference
from bi_harness.localize.options import VARIANTS, Variant, eager, worth_trying
from bi_harness.localize.rerun import Clock, Rerun, Watchable, Watched
from bi_harness.localize.seen import Seen
from bi_harness.localize.shrink import Budget, Pair, pair_of, shrink
from bi_harness.workload.checkplan import CheckPlan

MAX_TRIES = 48
"""Pairs that are run to find the smallest one."""

MAX_VALUES = 1 << 20
"""Values of the culprit's that are looked at bit by bit."""


@dataclass(frozen=True, slots=True)
class Case:
    """What failed.

    Attributes:
        cell, check: which.
        plan: what the check sends.
        subject: of the plan's subjects, the first that differed.
        arm: index of the plan's arm in which it did.
        compiled: whether the cell runs compiled.
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


@dataclass(frozen=True, slots=True)
class _Reproduced:
    """A pair that differs: of which subject and arm, and at which step."""

    pair: Pair
    subject: int
    arm: int
    step: int
    first: Watched | None = None


def localize(case: Case, start: Start, *, budget_s: float, timeout_s: float) -> Localization:
    """Find where the check's failure begins. What an engine fails to do is told in the result.

    Args:
        case: what failed.
        start: see there.
        budget_s: after which nothing new is begun.
        timeout_s: of each of an engine's answers.
    """
    clock = Clock(budget_s)
    counted = _Counted(start)
    try:
        with counted(eager) as up:
            rerun = Rerun(up.alone, up.arm, timeout_s, clock.late)
            found = _reproduce(case, rerun)
            if found is not None:
                return _look(case, rerun, found, clock, counted)
        told = Localization(
            cell=case.cell,
            check=case.check,
            outcome="not_reproduced",
            eager=False,
            reason=_why_not(case, clock.late()),
        )
        if case.compiled:
            told = _bisect(case, told, counted, clock, timeout_s)
    except HarnessError as error:
        told = Localization(
            cell=case.cell,
            check=case.check,
            outcome="failed",
            reason=f"{type(error).__name__}: {error}"[:2000],
        )
    return told.model_copy(update={"cost": Cost(seconds=round(clock.spent, 3), starts=counted.starts)})


class _Counted:
    def __init__(self, start: Start) -> None:
        self._start, self.starts = start, 0

    def __call__(self, change: Callable[[EngineConfig], EngineConfig]) -> AbstractContextManager[Up]:
        self.starts += 1
        return self._start(change)


def _why_not(case: Case, late: bool) -> str:
    if late:
        return "the request that failed does not differ again, and the time was up before all others had run"
    if case.restarted:
        return "on one engine the request does not differ: what differs may be two processes"
    return "the same requests on another engine, eager, do not differ"


def _reproduce(case: Case, rerun: Rerun) -> _Reproduced | None:
    """The failing pair: the request alone and in the burst that it failed in; else in the whole arm; else any
    request of the arm."""
    plan = case.plan
    arm = rerun.scored(plan.arms[case.arm], plan.subjects) if not plan.arms_first else plan.arms[case.arm]
    pair = pair_of(arm, case.subject, plan.subjects[case.subject])
    if plan.arms_first:
        # What only an engine's first requests do can be seen once.
        first = rerun.watched(pair, {"kind": "digests"}, arm_first=True)
        if first.differs is not None:
            return _Reproduced(pair, case.subject, case.arm, first.differs, first)
    if pair.before and (step := rerun.differs(replace(pair, before=()))) is not None:
        return _Reproduced(replace(pair, before=()), case.subject, case.arm, step)
    if (step := rerun.differs(pair)) is not None:
        return _Reproduced(pair, case.subject, case.arm, step)
    other = rerun.whole_arm(arm, plan.subjects)
    if other is None:
        return None
    pair = pair_of(arm, other[0], plan.subjects[other[0]])
    if (step := rerun.differs(pair)) is None:
        return None
    return _Reproduced(pair, other[0], case.arm, step)


def _look(case: Case, rerun: Rerun, found: _Reproduced, clock: Clock, counted: _Counted) -> Localization:
    planned = sent(found.pair)
    budget = Budget(MAX_TRIES, clock.late)
    pair, step, watched = found.pair, found.step, found.first
    if watched is None:
        pair, step = shrink(pair, rerun.differs, step, budget)
        again = rerun.differs(pair)
        plain = rerun.seconds
        step = step if again is None else again
        watched = rerun.watched(pair, {"kind": "digests"})
        if watched.differs is None and pair != found.pair:
            # What depends on leftovers of the run before may need more company than the smallest.
            larger = rerun.watched(found.pair, {"kind": "digests"})
            if larger.differs is not None:
                pair, step, watched = found.pair, larger.differs, larger
    else:
        plain = 0.0
    common: dict[str, Any] = {
        "cell": case.cell,
        "check": case.check,
        "eager": True,
        "request": found.subject,
        "arm": case.plan.arms[found.arm].name,
        "planned": planned,
        "smallest": sent(pair),
        "step": step,
    }
    rank, culprit = _over_ranks(watched)
    alone, batch = watched.alone[rank], watched.batch[rank]

    def cost() -> Cost:
        return Cost(
            seconds=round(clock.spent, 3),
            starts=counted.starts,
            tries=budget.used,
            plain_s=round(plain, 3),
            watched_s=round(watched.seconds, 3),
            **_memory(alone, batch),
        )

    common["rank"] = alone.rank
    if watched.differs is None:
        why = "with hooks on its modules the pair does not differ: the difference comes and goes"
        return Localization(**common, outcome="failed", reason=why, cost=cost())
    if not culprit.compared:
        why = "no module was called with rows of the request: " + (
            _problems(alone, batch) or "none were seen"
        )
        return Localization(**common, outcome="failed", reason=why, cost=cost())
    modules = states(alone, batch, culprit)
    reason = _problems(alone, batch)
    if culprit.kind == "nothing":
        where = "no module: after the last one, between the sampler's logits and the reported logprobs"
        return Localization(
            **common, outcome="elsewhere", where=where, reason=reason, modules=modules, cost=cost()
        )
    common["position"] = culprit.position
    common["step"] = max(0, culprit.position - len(pair.subject.prompt) + 1)
    if culprit.kind == "inputs":
        where = _between(culprit)
        return Localization(
            **common, outcome="elsewhere", where=where, reason=reason, modules=modules, cost=cost()
        )
    inside = not culprit.name.startswith(SAMPLER)
    told = Localization(
        **common,
        class_name=culprit.class_,
        outcome="module" if inside else "elsewhere",
        module=culprit.name if inside else "",
        where=_at(culprit),
        reason=reason,
        modules=modules,
        cost=cost(),
    )
    if found.first is not None:
        return told.model_copy(update={"reason": "; ".join(t for t in (reason, _ONCE) if t)})
    return told.model_copy(update={**_closer(rerun, pair, culprit, alone, batch, reason), "cost": cost()})


_ONCE = "only an engine's first requests differ, so its bits and operators could not be looked at again"


def _closer(
    rerun: Rerun, pair: Pair, culprit: Found, alone: Seen, batch: Seen, reason: str
) -> dict[str, Any]:
    """The culprit's bits, and what its call runs: two more runs of the pair."""
    place = (culprit.name, culprit.call)
    call, row = rows_of(batch, place)[culprit.position]
    width = sum(_width(t.shape) for t in (*call.given, *call.made))
    positions = call.positions[row : row + max(1, min(4096, MAX_VALUES // max(1, width)))]
    order = {"suspect": culprit.name, "call": culprit.call}
    found: dict[str, Any] = {}
    try:
        values = rerun.watched(pair, {**order, "kind": "values", "positions": list(positions)})
        mine, theirs = (_of_rank(seen, alone.rank) for seen in (values.alone, values.batch))
        inputs, outputs = difference(rows_of(mine, place), rows_of(theirs, place), culprit.position)
        found = {"inputs": inputs, "outputs": outputs}
        if not any(t.differing_values for t in outputs):
            reason = "; ".join(t for t in (reason, "when its bits were looked at, they did not differ") if t)
        trace = rerun.watched(pair, {**order, "kind": "trace", "positions": [culprit.position]})
        for name, seen in (("ran_alone", trace.alone), ("ran_batch", trace.batch)):
            ran = rows_of(_of_rank(seen, alone.rank), place).get(culprit.position)
            found[name] = summed_up(ran[0].ran) if ran is not None else ()
    except EngineError as error:
        # What was found stands; it is less than it could be, and says so.
        reason = "; ".join(t for t in (reason, f"then the engine failed: {error}"[:1000]) if t)
    return {**found, "reason": reason}


def _width(shape: tuple[int, ...]) -> int:
    width = 1
    for size in shape[1:]:
        width *= size
    return width


def _of_rank(seen: tuple[Seen, ...], rank: int) -> Seen:
    return next(s for s in seen if s.rank == rank)


def summed_up(ran: tuple[str, ...]) -> tuple[str, ...]:
    """Lines that follow each other and are equal, as one; at most ``MAX_RAN``."""
    lines: list[tuple[str, int]] = []
    for line in ran:
        if lines and lines[-1][0] == line:
            lines[-1] = (line, lines[-1][1] + 1)
        else:
            lines.append((line, 1))
    told = [line[:400] if times == 1 else f"{line[:400]} (x {times})" for line, times in lines]
    return (*told[:MAX_RAN], *([f"and {len(told) - MAX_RAN} more"] if len(told) > MAX_RAN else []))


def _over_ranks(watched: Watched) -> tuple[int, Found]:
    """The index of the rank on which the difference begins earliest, and what was found there."""
    both = [first_culprit(a, b) for a, b in zip(watched.alone, watched.batch, strict=True)]
    order = {"module": 0, "inputs": 1, "nothing": 2}
    place = min(
        range(len(both)), key=lambda i: (both[i].kind == "nothing", both[i].position, order[both[i].kind])
    )
    return place, both[place]


def states(alone: Seen, batch: Seen, culprit: Found) -> tuple[ModuleState, ...]:
    """What became of every module."""
    called, other = differing(alone, batch)

    def state(name: str) -> State:
        if culprit.kind == "module" and name == culprit.name:
            return "culprit"
        return "differs" if name in other else "equal" if name in called else "unseen"

    named = list(alone.modules.items())
    if len(named) > MAX_MODULES:
        # Those that did something come first; the culprit is never left out.
        named = [item for item in named if state(item[0]) != "unseen"]
        culprits = [item for item in named[MAX_MODULES:] if item[0] == culprit.name]
        named = named[: MAX_MODULES - len(culprits)] + culprits
    return tuple(ModuleState(name=name, class_name=cls, state=state(name)) for name, cls in named)


def _between(culprit: Found) -> str:
    if culprit.name == ROOT or not culprit.before:
        return (
            f"before the first module: {culprit.name} is given something else at position {culprit.position}"
        )
    return (
        f"between modules: at position {culprit.position} {culprit.name} is given something else, and "
        f"all that ended before it, {culprit.before} last, gave the same"
    )


def _at(culprit: Found) -> str:
    if culprit.name == ROOT:
        return "in the model's own forward, outside of its modules"
    if culprit.name.startswith(SAMPLER):
        return (
            f"no module of the model: the logits are equal, and what vLLM's sampler makes of them differs "
            f"({culprit.class_})"
        )
    again = f" in call {culprit.call + 1} of the step" if culprit.call else ""
    first = f"first at position {culprit.position}{again}"
    return f"{culprit.name} ({culprit.class_}): equal inputs, another output, {first}"


def _problems(*seen: Seen) -> str:
    told = [f"{text} ({times} times)" for s in seen for text, times in s.problems.items()]
    if any(s.truncated for s in seen):
        told.append("there were more digests than are kept; the last steps were not compared")
    return "; ".join(dict.fromkeys(told))[:1000]


def _memory(alone: Seen, batch: Seen) -> dict[str, Any]:
    peaks = [m["device_peak"] for s in (alone, batch) if "device_peak" in (m := s.memory.get("after", {}))]
    return {
        "rss_before": int(alone.memory.get("before", {}).get("rss", 0)),
        "rss_after": int(batch.memory.get("after", {}).get("rss", 0)),
        "kept": int(alone.memory.get("kept", 0)) + int(batch.memory.get("kept", 0)),
        "device_peak": max(peaks) if peaks else None,
    }


def sent(pair: Pair) -> Sent:
    """How large a pair is."""
    return Sent(
        neighbours=len(pair.neighbours),
        prompt_tokens=len(pair.subject.prompt),
        neighbour_tokens=sum(len(pair.company[i].prompt) for i in pair.neighbours),
        steps=pair.subject.max_tokens,
        bursts_before=len(pair.before),
    )


def _bisect(case: Case, told: Localization, start: Start, clock: Clock, timeout_s: float) -> Localization:
    """Which option of the compiled engine must change for the difference to go away."""
    first, effective = _try(case, VARIANTS[0], start, clock, timeout_s)
    tried = [first]
    if first.differs:
        tried += [_try(case, v, start, clock, timeout_s)[0] for v in worth_trying(effective)]
    gone = [option for option in tried[1:] if option.differs is False]
    if first.differs is None:
        reason = f"eager, the same requests do not differ; compiled, they could not be run: {first.note}"
    elif not first.differs:
        reason = "the same requests on other engines differ neither eager nor compiled"
    elif gone:
        reason = f"it differs compiled and not eager; {'; '.join(f'{o.name}: gone' for o in gone)}"
    else:
        reason = "it differs compiled and not eager, with every option that was tried"
    return told.model_copy(update={"reason": reason, "options": tuple(tried)})


def _try(
    case: Case, variant: Variant, start: Start, clock: Clock, timeout_s: float
) -> tuple[OptionTried, Mapping[str, Any]]:
    if clock.late():
        return OptionTried(name=variant.name, differs=None, note="there was no time left"), {}
    try:
        with start(variant.change) as up:
            found = _reproduce(case, Rerun(up.alone, up.arm, timeout_s, clock.late))
            differs = found is not None
            note = "" if differs else variant.note
            return OptionTried(name=variant.name, differs=differs, note=note), up.effective
    except HarnessError as error:
        return OptionTried(name=variant.name, differs=None, note=f"{error}"[:500]), {}
