"""The smallest pair that still differs. Pure: what differs is asked of a function that is handed in."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from bi_harness.workload.checkplan import ArmPlan
from bi_harness.workload.requests import Limits, Member, Request


@dataclass(frozen=True, slots=True)
class Pair:
    """A request alone, and the same request in company.

    Attributes:
        subject: the request.
        alone: what is run for it alone, where that is not the subject itself (what is scored was generated).
        company: the burst that it runs in: requests in the order of submission.
        place: the subject's index in ``company``.
        sequence: which of its sequences.
        arrivals, aborts: of each of ``company``, in engine steps (see ``Member``).
        before: bursts that run before it, each with its members.
        limits: what the scheduler is held to.
    """

    subject: Request
    company: tuple[Request, ...]
    place: int
    sequence: int = 0
    arrivals: tuple[int, ...] = ()
    aborts: tuple[int | None, ...] = ()
    before: tuple[tuple[tuple[Request, int, int | None], ...], ...] = ()
    limits: Limits | None = None

    @property
    def neighbours(self) -> list[int]:
        """Indices in ``company`` of all but the subject."""
        return [i for i in range(len(self.company)) if i != self.place]

    def with_neighbours(self, kept: Sequence[int]) -> Pair:
        """With these neighbours alone, in their order."""
        places = sorted({*kept, self.place})
        return replace(
            self,
            company=tuple(self.company[i] for i in places),
            arrivals=tuple(self.arrivals[i] for i in places),
            aborts=tuple(self.aborts[i] for i in places),
            place=places.index(self.place),
        )

    def with_prompts(self, longest: int) -> Pair:
        """With all neighbours' prompts cut to at most ``longest`` tokens."""
        return replace(
            self,
            company=tuple(
                r if i == self.place else replace(r, prompt=r.prompt[:longest])
                for i, r in enumerate(self.company)
            ),
        )

    def with_subject(self, prompt: int) -> Pair:
        """With the subject's own prompt cut to at most ``prompt`` tokens."""
        return self._subject(
            replace(self.subject, prompt=self.subject.prompt[:prompt]),
            replace(self.company[self.place], prompt=self.company[self.place].prompt[:prompt]),
        )

    def with_member(self, subject: Request) -> Pair:
        """With this in the subject's place among the company."""
        return self._subject(self.subject, subject)

    def with_steps(self, steps: int) -> Pair:
        """With at most so many tokens generated, the neighbours' included."""
        if self.company[self.place].score:
            return self  # what is scored was generated: it has as many tokens
        cut = [replace(r, max_tokens=min(r.max_tokens, steps)) for r in self.company]
        subject = replace(self.subject, max_tokens=min(self.subject.max_tokens, steps))
        return replace(self, subject=subject, company=tuple(cut))

    def _subject(self, subject: Request, among: Request) -> Pair:
        company = (*self.company[: self.place], among, *self.company[self.place + 1 :])
        return replace(self, subject=subject, company=company)

    def bursts(self) -> tuple[list[Request], list[list[Member]], int]:
        """The requests, the bursts, and the subject's place in the order of submission."""
        requests: list[Request] = []
        bursts: list[list[Member]] = []
        submitted = 0
        for members in self.before:
            burst = []
            for request, arrival, abort in members:
                burst.append(Member(len(requests), arrival, abort))
                requests.append(request)
            bursts.append(burst)
            submitted += len(members)
        first = len(requests)
        requests += self.company
        bursts.append([Member(first + i, self.arrivals[i], self.aborts[i]) for i in range(len(self.company))])
        order = sorted(range(len(self.company)), key=lambda i: (self.arrivals[i], i))
        return requests, bursts, submitted + order.index(self.place)


def pair_of(arm: ArmPlan, subject: int, alone: Request) -> Pair:
    """The pair in which a subject of an arm is compared.

    Args:
        arm: of a check's plan.
        subject: which of its subjects.
        alone: the subject as it runs alone.

    Raises:
        ValueError: no burst has it.
    """
    row = arm.subjects[subject]
    index = sequence = -1
    seen = 0
    for i, request in enumerate(arm.requests):
        if seen <= row < seen + request.n:
            index, sequence = i, row - seen
        seen += request.n
    for number, burst in enumerate(arm.bursts):
        places = [member.request for member in burst]
        if index in places:
            return Pair(
                subject=alone,
                company=tuple(arm.requests[i] for i in places),
                place=places.index(index),
                sequence=sequence,
                arrivals=tuple(member.arrival for member in burst),
                aborts=tuple(member.abort for member in burst),
                before=tuple(
                    tuple((arm.requests[m.request], m.arrival, m.abort) for m in earlier)
                    for earlier in arm.bursts[:number]
                ),
                limits=arm.limits,
            )
    raise ValueError(f"{arm.name}: no burst has subject {subject}")


class Budget:
    """How much may still be tried.

    Args:
        tries: pairs to run, at most.
        late: whether the time is up.
    """

    def __init__(self, tries: int, late: Callable[[], bool] = lambda: False) -> None:
        self.used = 0
        self._tries, self._late = tries, late

    def left(self) -> bool:
        """Whether one more may be run."""
        return self.used < self._tries and not self._late()


def shrink(pair: Pair, differs: Callable[[Pair], int | None], step: int, budget: Budget) -> tuple[Pair, int]:
    """The smallest pair that was found to differ, and the step at which it does.

    Neighbours go first (delta debugging: halves, then quarters, ...), then steps, then prompts: halves, and
    then the shortest in between. Whatever is kept was seen to differ; within the budget the same pair always
    gives the same result.

    Args:
        pair: that differs.
        differs: runs a pair: the first step that differs, counted from 0; ``None`` when none does.
        step: the pair's own.
        budget: see there.
    """

    def tries(smaller: Pair) -> bool:
        nonlocal pair, step
        if smaller == pair or not budget.left():
            return False
        budget.used += 1
        found = differs(smaller)
        if found is None:
            return False
        pair, step = smaller, found
        return True

    if pair.before and not tries(replace(pair, before=())):
        for kept in _parts(len(pair.before)):
            if not pair.before or not tries(replace(pair, before=pair.before[-kept:])):
                break
    tries(pair.with_steps(step + 1))
    _fewer_neighbours(pair, tries, lambda: pair)
    tries(pair.with_steps(step + 1))
    longest = max((len(pair.company[i].prompt) for i in pair.neighbours), default=0)
    _shorter(longest, lambda length: tries(pair.with_prompts(length)))
    if not pair.company[pair.place].score:
        _shorter(len(pair.subject.prompt), lambda length: tries(pair.with_subject(length)))
    tries(pair.with_steps(step + 1))
    return pair, step


def _shorter(length: int, tries: Callable[[int], bool]) -> None:
    """The shortest length that does: halves, while they do, then the edge between the last two."""
    low = length // 2
    while length > 1 and tries(low):
        length, low = low, low // 2
    while length - low > 1:
        middle = (low + length) // 2
        length, low = (middle, low) if tries(middle) else (length, middle)


def _parts(count: int) -> list[int]:
    parts = []
    while count > 1:
        count //= 2
        parts.append(count)
    return parts


def _fewer_neighbours(pair: Pair, tries: Callable[[Pair], bool], now: Callable[[], Pair]) -> None:
    """Zeller's ddmin over the neighbours."""
    if pair.neighbours and tries(pair.with_neighbours([])):
        return
    parts = 2
    while True:
        current = now()
        neighbours = current.neighbours
        if not neighbours:
            return
        parts = min(parts, len(neighbours))
        size = -(-len(neighbours) // parts)
        chunks = [neighbours[i : i + size] for i in range(0, len(neighbours), size)]
        smaller = [chunk for chunk in chunks if len(chunk) < len(neighbours)]
        rests = [[n for n in neighbours if n not in chunk] for chunk in chunks] if len(chunks) > 2 else []
        if any(tries(current.with_neighbours(kept)) for kept in smaller):
            parts = 2
        elif any(tries(current.with_neighbours(kept)) for kept in rests):
            parts = max(2, parts - 1)
        elif parts >= len(neighbours):
            return
        else:
            parts = min(len(neighbours), parts * 2)
