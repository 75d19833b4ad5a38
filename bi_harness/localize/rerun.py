"""Running pairs on real engines: whether a pair differs, where, and what its modules did."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np

from bi_harness.compare.bits import compare
from bi_harness.compare.observations import Observations
from bi_harness.engine.arms import Generates, rows, scored
from bi_harness.engine.client import Burst
from bi_harness.localize.seen import Seen, parse
from bi_harness.localize.shrink import Pair
from bi_harness.workload.checkplan import ArmPlan
from bi_harness.workload.requests import Limits, Member, Request


class Watchable(Generates, Protocol):
    """An engine's client, as far as it is needed here."""

    def forget(self, *, timeout_s: float) -> None:
        """See ``EngineClient.forget``."""

    def watch(self, order: Mapping[str, Any] | None, *, timeout_s: float) -> tuple[dict[str, Any], ...]:
        """See ``EngineClient.watch``."""


@dataclass(frozen=True, slots=True)
class Difference:
    """Where a request's answer first differs.

    Attributes:
        step: of its tokens, from 0.
        sampled: whether it is the sampled token alone: the logprobs of the most likely ones have equal bits.
    """

    step: int
    sampled: bool = False


@dataclass(frozen=True, slots=True)
class Watched:
    """One run of a pair with hooks.

    Attributes:
        alone, batch: what each rank saw.
        difference: ``None`` for none.
        seconds: of generating, both arms.
    """

    alone: tuple[Seen, ...]
    batch: tuple[Seen, ...]
    difference: Difference | None
    seconds: float


class Rerun:
    """Runs pairs.

    Args:
        alone: runs requests alone.
        arm: runs them in company; the same engine in most checks.
        timeout_s: of each call.
        late: whether the time is up.
    """

    def __init__(
        self,
        alone: Watchable,
        arm: Watchable,
        timeout_s: float,
        late: Callable[[], bool] = lambda: False,
    ) -> None:
        self._alone_engine, self._arm_engine, self._timeout_s = alone, arm, timeout_s
        self._late = late
        self._known: dict[Request, tuple[Observations, float]] = {}
        self.generates = 0
        self.seconds = 0.0
        """Of generating, both arms of the last pair."""

    def alone(self, request: Request) -> Observations:
        """What it gives alone; run once.

        Raises:
            EngineError: see ``EngineClient.generate``.
        """
        if request not in self._known:
            burst = self._generate(self._alone_engine, [request], [[Member(0)]], None)
            self._known[request] = (rows(burst.observations, [0], request.observed), burst.generate_s)
        return self._known[request][0]

    def difference(self, pair: Pair, *, arm_first: bool = False) -> Difference | None:
        """Where the subject differs; ``None`` when it does not.

        Args:
            pair: to run; a subject that is scored is scored with what this engine generates.
            arm_first: whether the request runs in company before it runs alone.

        Raises:
            EngineError: see ``EngineClient.generate``.
        """
        if arm_first:
            found, spent = self._company(pair)
        reference = self.alone(pair.subject)
        if not arm_first:
            found, spent = self._company(self._rescored(pair, reference))
        self.seconds = self._known[pair.subject][1] + spent
        return first_difference(reference, found)

    def whole_arm(self, arm: ArmPlan, subjects: Sequence[Request]) -> int | None:
        """Of all subjects of an arm, the first that differs; ``None`` when none does, or none did when the
        time was up: each runs alone for it.

        Raises:
            EngineError: see ``EngineClient.generate``.
        """
        if self._late():
            return None
        self._forget(arm.requests)
        burst = self._generate(self._arm_engine, arm.requests, arm.bursts, arm.limits)
        for index, (subject, row) in enumerate(zip(subjects, arm.subjects, strict=True)):
            if self._late():
                break
            found = rows(burst.observations, [row], subject.observed)
            if first_difference(self.alone(subject), found) is not None:
                return index
        return None

    def watched(self, pair: Pair, order: Mapping[str, Any], *, arm_first: bool = False) -> Watched:
        """Run the pair anew with the subject watched in both arms.

        Args:
            order: see ``engine.watch.watcher.Order``, but for the request.
            arm_first: whether the request runs in company before it runs alone.

        Raises:
            EngineError: see ``EngineClient.generate``, or the answer makes no sense.
        """

        def alone() -> tuple[Burst, tuple[dict[str, Any], ...]]:
            self._watch(self._alone_engine, {**order, "request": "0"})
            burst = self._generate(self._alone_engine, [pair.subject], [[Member(0)]], None)
            return burst, self._watch(self._alone_engine, None)

        def company() -> tuple[Observations, float, tuple[dict[str, Any], ...]]:
            place = pair.bursts()[2]
            self._watch(self._arm_engine, {**order, "request": str(place), "sequence": pair.sequence})
            found, seconds = self._company(pair)
            return found, seconds, self._watch(self._arm_engine, None)

        if arm_first:
            found, seconds, batch = company()
        burst, own = alone()
        if not arm_first:
            found, seconds, batch = company()
        reference = rows(burst.observations, [0], pair.subject.observed)
        return Watched(
            tuple(parse(told) for told in own),
            tuple(parse(told) for told in batch),
            first_difference(reference, found),
            burst.generate_s + seconds,
        )

    def scored(self, arm: ArmPlan, subjects: Sequence[Request]) -> ArmPlan:
        """An arm that scores, with what its subjects generate alone.

        Raises:
            EngineError: see ``EngineClient.generate``.
        """
        if not arm.scored:
            return arm
        parts = [self.alone(subject) for subject in subjects]
        width = max(subject.observed for subject in subjects)
        wide = [part.widened(width) for part in parts]
        together = Observations(
            *(np.concatenate([getattr(o, n) for o in wide]) for n in ("tokens", "lengths", "ids", "logprobs"))
        )
        return scored(arm, subjects, together)

    def _company(self, pair: Pair) -> tuple[Observations, float]:
        requests, bursts, _ = pair.bursts()
        self._forget(requests)
        burst = self._generate(self._arm_engine, requests, bursts, pair.limits)
        row = sum(r.n for r in requests[: len(requests) - len(pair.company) + pair.place]) + pair.sequence
        return rows(burst.observations, [row], pair.subject.observed), burst.generate_s

    def _rescored(self, pair: Pair, alone: Observations) -> Pair:
        among = pair.company[pair.place]
        if not among.score:
            return pair
        made = tuple(int(token) for token in alone.tokens[0, : among.score])
        return pair.with_member(replace(among, prompt=pair.subject.prompt + made))

    def _forget(self, requests: Sequence[Request]) -> None:
        # Earlier tries computed much the same prompts. Under another name they would not be found, but would
        # lie in the blocks beside: a stale block would have the right values, and the difference be gone.
        if any(request.cache for request in requests):
            self._arm_engine.forget(timeout_s=self._timeout_s)

    def _generate(
        self,
        engine: Watchable,
        requests: Sequence[Request],
        bursts: Sequence[Sequence[int | Member]],
        limits: Limits | None,
    ) -> Burst:
        self.generates += 1
        return engine.generate(requests, bursts, timeout_s=self._timeout_s, limits=limits)

    def _watch(self, engine: Watchable, order: Mapping[str, Any] | None) -> tuple[dict[str, Any], ...]:
        return engine.watch(order, timeout_s=self._timeout_s)


def first_difference(reference: Observations, found: Observations) -> Difference | None:
    """Where two answers to a request first differ; ``None`` for equal ones."""
    first = compare(reference, found).first
    if first is None:
        return None
    step = first.step
    if step >= min(reference.lengths[0], found.lengths[0]):
        return Difference(step)
    a, b = ((o.ids[0, step, 1:], o.logprobs[0, step, 1:].view(np.uint32)) for o in (reference, found))
    likely = bool((a[0] >= 0).any()) and np.array_equal(a[0], b[0]) and np.array_equal(a[1], b[1])
    return Difference(step, likely and bool(reference.tokens[0, step] != found.tokens[0, step]))


class Clock:
    """How much of a limit of time is left.

    Args:
        seconds: the limit.
    """

    def __init__(self, seconds: float) -> None:
        self._began, self._limit, self._apart = time.monotonic(), seconds, 0.0

    @property
    def spent(self) -> float:
        """Seconds since it began."""
        return time.monotonic() - self._began

    def late(self) -> bool:
        """Whether the limit is reached."""
        return self.spent - self._apart >= self._limit

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """What happens meanwhile takes nothing of the limit."""
        began = time.monotonic()
        try:
            yield
        finally:
            self._apart += time.monotonic() - began
