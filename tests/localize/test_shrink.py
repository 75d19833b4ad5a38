"""The smallest pair that still differs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bi_harness.localize.shrink import Budget, Pair, pair_of, shrink
from bi_harness.workload.checkplan import ArmPlan, together
from bi_harness.workload.requests import Limits, Member, Request


def request(length: int, name: int = 0, **more: Any) -> Request:
    return Request(tuple(range(name, name + length)), more.pop("steps", 8), 0.0, None, 2, **more)


def pair(neighbours: int, place: int = 0, length: int = 64) -> Pair:
    company = [request(length, 1000 * (i + 1)) for i in range(neighbours)]
    subject = request(length)
    company.insert(place, subject)
    count = len(company)
    return Pair(subject, tuple(company), place, arrivals=(0,) * count, aborts=(None,) * count)


def asking(rule: Callable[[Pair], bool], step: int = 3) -> tuple[Callable[[Pair], int | None], list[Pair]]:
    asked: list[Pair] = []

    def differs(candidate: Pair) -> int | None:
        asked.append(candidate)
        if not rule(candidate) or candidate.subject.max_tokens <= step:
            return None
        return step

    return differs, asked


@given(st.integers(1, 40), st.integers(0, 40), st.data())
def test_only_the_neighbours_that_it_takes_are_left(count: int, place: int, data: st.DataObject) -> None:
    whole = pair(count, min(place, count))
    first = [r.prompt[0] for i, r in enumerate(whole.company) if i != whole.place]
    needed = data.draw(st.sets(st.sampled_from(first), min_size=1, max_size=3))
    differs, _ = asking(lambda p: needed <= {r.prompt[0] for r in p.company})
    found, step = shrink(whole, differs, 3, Budget(10_000))
    assert {r.prompt[0] for i, r in enumerate(found.company) if i != found.place} == needed
    assert found.company[found.place] == found.subject
    assert (step, found.subject.max_tokens, len(found.subject.prompt)) == (3, 4, 1)
    assert all(len(r.prompt) == 1 and r.max_tokens <= 4 for r in found.company)


@given(st.integers(1, 33), st.integers(1, 200))
def test_a_number_of_rows_is_found(neighbours: int, tokens: int) -> None:
    whole = pair(neighbours)
    if sum(len(r.prompt) for r in whole.company) < tokens:
        return
    differs, _ = asking(lambda p: sum(len(r.prompt) for r in p.company) >= tokens)
    found, _ = shrink(whole, differs, 3, Budget(10_000))
    assert tokens <= sum(len(r.prompt) for r in found.company) < 2 * tokens + 64


@given(st.integers(1, 90), st.integers(2, 200))
def test_prompts_end_at_the_edge(length: int, tokens: int) -> None:
    differs, asked = asking(lambda p: len(p.company) > 1 and sum(len(r.prompt) for r in p.company) >= tokens)
    whole = pair(1, length=max(length, tokens))
    found, _ = shrink(whole, differs, 3, Budget(10_000))
    assert sum(len(r.prompt) for r in found.company) == tokens
    assert len(asked) < 40


@given(st.integers(0, 60), st.integers(2, 33))
def test_the_budget_is_kept_and_what_is_left_differs(tries: int, neighbours: int) -> None:
    differs, asked = asking(lambda p: len(p.company) > 1)
    budget = Budget(tries)
    found, _ = shrink(pair(neighbours), differs, 3, budget)
    assert len(asked) == budget.used <= tries
    assert differs(found) == 3


def test_the_same_pair_is_always_made_of_it() -> None:
    runs = [shrink(pair(17, 5), asking(lambda p: len(p.company) >= 4)[0], 3, Budget(48))[0] for _ in range(2)]
    assert runs[0] == runs[1]
    assert len(runs[0].company) == 4


def test_nothing_is_begun_when_it_is_late() -> None:
    differs, asked = asking(lambda p: True)
    found, _ = shrink(pair(5), differs, 3, Budget(100, lambda: True))
    assert (found, asked) == (pair(5), [])


def test_a_request_that_differs_without_neighbours_needs_none() -> None:
    found, _ = shrink(pair(9), asking(lambda p: True)[0], 3, Budget(48))
    assert found.neighbours == []


def test_a_later_step_is_told() -> None:
    def differs(candidate: Pair) -> int | None:
        return (
            len(candidate.company) % 4 if candidate.subject.max_tokens > len(candidate.company) % 4 else None
        )

    found, step = shrink(pair(10), differs, 3, Budget(100))
    assert differs(found) == step


def test_what_ran_before_goes_where_it_is_not_needed() -> None:
    burst = ((request(4, 7), 0, None),)
    whole = Pair(
        **{**{f: getattr(pair(2), f) for f in pair(2).__dataclass_fields__}, "before": (burst, burst)}
    )
    needs_one, _ = asking(lambda p: len(p.before) >= 1)
    assert len(shrink(whole, needs_one, 3, Budget(50))[0].before) == 1
    needs_none, _ = asking(lambda p: True)
    assert shrink(whole, needs_none, 3, Budget(50))[0].before == ()


def test_what_is_scored_is_as_long_as_it_was_generated() -> None:
    scored = request(20, score=8, steps=1)
    whole = Pair(request(12), (scored, request(5, 100)), 0, arrivals=(0, 0), aborts=(None, None))
    found, _ = shrink(whole, lambda p: 0, 0, Budget(50))
    assert found.company == (scored,)
    assert found.subject == request(12)


def test_a_pair_is_taken_from_the_burst_that_has_the_subject() -> None:
    subjects = [request(5 + i, 100 * i) for i in range(6)]
    arm = together("threes", subjects, 3)
    found = pair_of(arm, 4, subjects[4])
    assert found.company == tuple(subjects[3:])
    assert found.place == 1
    assert [len(b) for b in found.before] == [3]
    requests, bursts, submitted = found.bursts()
    assert requests == subjects
    assert bursts == [[Member(0), Member(1), Member(2)], [Member(3), Member(4), Member(5)]]
    assert submitted == 4


def test_a_row_of_several_sequences_is_known_by_its_number() -> None:
    many = request(5, 100, n=3)
    arm = ArmPlan("n", (request(4), many), ((Member(1), Member(0)),), (2,), 2, Limits(step_tokens=8))
    found = pair_of(arm, 0, request(5, 100))
    assert (found.place, found.sequence, found.limits) == (0, 1, Limits(step_tokens=8))


def test_arrivals_decide_the_order_of_submission() -> None:
    arm = ArmPlan(
        "late",
        (request(4), request(5, 9), request(6, 50)),
        ((Member(0, 3), Member(1, 1, 7), Member(2)),),
        (0,),
        3,
    )
    found = pair_of(arm, 0, request(4))
    assert found.bursts()[2] == 2
    assert found.with_neighbours([2]).bursts()[1] == [[Member(0, 3), Member(1)]]


def test_a_subject_that_is_in_no_burst_is_refused() -> None:
    with pytest.raises(ValueError, match="no burst"):
        pair_of(ArmPlan("empty", (request(4),), (), (0,), 1), 0, request(4))
