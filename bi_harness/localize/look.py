"""Looking at a pair that differs through hooks on every module, and telling where it begins."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from bi_harness.certificate.localized import MAX_MODULES, MAX_RAN, Cost, Localization, ModuleState, State
from bi_harness.errors import EngineError
from bi_harness.localize.culprit import (
    ROOT,
    SAMPLER,
    Found,
    alike_from,
    differing,
    first_culprit,
    logits_equal,
    rows_of,
)
from bi_harness.localize.measure import difference
from bi_harness.localize.reproduce import Case, Reproduced, Starts, sent
from bi_harness.localize.rerun import Rerun, Watched
from bi_harness.localize.seen import Seen
from bi_harness.localize.shrink import Pair

MAX_VALUES = 1 << 20
"""Values of the culprit's that are looked at bit by bit."""


@dataclass(frozen=True, slots=True)
class Costs:
    """What came before: engines' starts, pairs that were tried, and seconds of the smallest without hooks."""

    starts: Starts
    tries: int = 0
    plain_s: float = 0.0

    def told(self, watched: Watched | None = None, rank: int = 0) -> Cost:
        """With those of the watched pair."""
        more: dict[str, Any] = {}
        if watched is not None:
            more = _memory(watched.alone[rank], watched.batch[rank])
            more["watched_s"] = round(watched.seconds, 3)
        return Cost(
            seconds=round(self.starts.clock.spent, 3),
            starts=self.starts.count,
            tries=self.tries,
            plain_s=round(self.plain_s, 3),
            **more,
        )


def look(case: Case, rerun: Rerun, found: Reproduced, costs: Costs) -> Localization:
    """Where it begins, on an eager engine."""
    pair, watched = _watch(rerun, found)
    once = watched is found.first
    rank, culprit = _over_ranks(watched)
    alone, batch = watched.alone[rank], watched.batch[rank]
    common: dict[str, Any] = {
        **common_of(case, found, pair),
        "eager": True,
        "rank": alone.rank,
    }

    def told(**more: Any) -> Localization:
        return Localization(**common, **more, cost=costs.told(watched, rank))

    if watched.difference is None:
        return told(
            outcome="failed",
            reason="with hooks on its modules the pair does not differ: the difference comes and goes",
        )
    if not culprit.compared:
        why = _problems(alone, batch) or "none were seen"
        return told(outcome="failed", reason=f"no module was called with rows of the request: {why}")
    common["step"] = step = watched.difference.step
    reason = _problems(alone, batch)
    sampled = logits_equal(alone, batch, len(pair.subject.prompt) - 1 + step)
    if sampled and not culprit.name.startswith(SAMPLER):
        where = (
            f"no module of the model: at step {step} its logits are equal, and what is made of them differs"
        )
        if culprit.kind != "nothing":
            reason = joined(
                reason,
                f"at position {culprit.position} {culprit.name} ({culprit.class_}) differs, too, and nothing "
                "of it is left in those logits",
            )
            culprit = Found("nothing", compared=culprit.compared)
        else:
            where = _AFTER
        return told(outcome="elsewhere", where=where, reason=reason, modules=states(alone, batch, culprit))
    modules = states(alone, batch, culprit)
    if culprit.kind == "nothing":
        return told(outcome="elsewhere", where=_AFTER, reason=reason, modules=modules)
    common["position"] = culprit.position
    common["step"] = max(0, culprit.position - len(pair.subject.prompt) + 1)
    if culprit.kind == "inputs":
        return told(outcome="elsewhere", where=_between(culprit), reason=reason, modules=modules)
    inside = not culprit.name.startswith(SAMPLER)
    one = told(
        class_name=culprit.class_,
        outcome="module" if inside else "elsewhere",
        module=culprit.name if inside else "",
        where=_at(culprit),
        reason=reason,
        modules=modules,
    )
    if once:
        return one.model_copy(update={"reason": joined(reason, _ONCE)})
    closer = _closer(rerun, pair, culprit, alone, batch, reason)
    return one.model_copy(update={**closer, "cost": costs.told(watched, rank)})


def _watch(rerun: Rerun, found: Reproduced) -> tuple[Pair, Watched]:
    """The smallest pair with hooks; one that differs with them, if there is one."""
    if found.once and found.first is not None:
        return found.planned, found.first
    watched = rerun.watched(found.pair, {"kind": "digests"})
    if watched.difference is None and found.pair != found.planned:
        # What depends on leftovers of the run before may need more company than the smallest.
        larger = rerun.watched(found.planned, {"kind": "digests"})
        if larger.difference is not None:
            return found.planned, larger
    if watched.difference is None and found.first is not None:
        return found.planned, found.first
    return found.pair, watched


def common_of(case: Case, found: Reproduced, pair: Pair) -> dict[str, Any]:
    """What every outcome tells of a pair that differs."""
    return {
        "cell": case.cell,
        "check": case.check,
        "request": found.subject,
        "arm": case.plan.arms[found.arm].name,
        "planned": sent(found.planned),
        "smallest": sent(pair),
        "step": found.difference.step,
    }


def joined(*reasons: str) -> str:
    """As one."""
    return "; ".join(reason for reason in reasons if reason)


_AFTER = "no module: after the last one, between the sampler's logits and the reported logprobs"
_ONCE = (
    "with hooks, only an engine's first requests differ: its bits and operators could not be looked at again"
)


def _closer(
    rerun: Rerun, pair: Pair, culprit: Found, alone: Seen, batch: Seen, reason: str
) -> dict[str, Any]:
    """The culprit's bits, and what its call runs: two more runs of the pair."""
    place = (culprit.name, culprit.call)
    call, row = rows_of(batch, place)[culprit.position]
    width = sum(_width(t.shape) for t in (*call.given, *call.made))
    positions = alike_from(rows_of(alone, place), call, row)[: max(1, min(4096, MAX_VALUES // max(1, width)))]
    order = {"suspect": culprit.name, "call": culprit.call}
    found: dict[str, Any] = {}
    try:
        values = rerun.watched(pair, {**order, "kind": "values", "positions": list(positions)})
        mine, theirs = (_of_rank(seen, alone.rank) for seen in (values.alone, values.batch))
        inputs, outputs = difference(rows_of(mine, place), rows_of(theirs, place), culprit.position)
        found = {"inputs": inputs, "outputs": outputs}
        if not any(t.differing_values for t in outputs):
            reason = joined(reason, "when its bits were looked at, they did not differ")
        trace = rerun.watched(pair, {**order, "kind": "trace", "positions": [culprit.position]})
        for name, seen in (("ran_alone", trace.alone), ("ran_batch", trace.batch)):
            ran = rows_of(_of_rank(seen, alone.rank), place).get(culprit.position)
            found[name] = summed_up(ran[0].ran) if ran is not None else ()
    except EngineError as error:
        # What was found stands; it is less than it could be, and says so.
        reason = joined(reason, f"then the engine failed: {error}"[:1000])
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
