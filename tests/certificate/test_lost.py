"""Nodes that are lost under their units: no verdict is lost with them, and none is given twice."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st

from bi_harness.certificate.attempts import TRIES
from bi_harness.certificate.build import build, remaining
from bi_harness.certificate.essence import essence
from bi_harness.certificate.events import EVENTS, Event, Node, RunResumed, UnitStarted
from bi_harness.certificate.statement import HarnessResult
from bi_harness.certificate.verify import Folder, Recompute, examine
from bi_harness.errors import UsageError
from bi_harness.report.facts import caveats
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

WHY = "its node b was lost: the node has died"


def on(host: str, unit: str = UNIT) -> UnitStarted:
    return UnitStarted(time=TIME, unit=unit, node=Node(id=f"id-{host}", host=host))


def lost() -> Event:
    return ended("lost", message=WHY)


def told(events: list[Event]) -> HarnessResult:
    return build(events, JOURNAL).predicate.bi_harness


def engines() -> list[Event]:
    return [ready(), ready("control")]


def cut(*results: Event) -> list[Event]:
    """Two checks of a unit, whose node was lost after these results."""
    return [started(planned("one", "two"), skipped()), on("b"), *engines(), *results, lost()]


def test_what_has_no_verdict_runs_again_and_the_certificate_says_so() -> None:
    rest = [on("c"), *engines(), finished(result(check="two")), ended(), end()]
    events = [*cut(finished(result(check="one"))), *rest]
    ours = told(events)
    assert ours.verdict == "CERTIFIED"
    (loss,) = ours.lost
    assert (loss.unit, loss.host, loss.reason) == (UNIT, "b", WHY)
    assert [(one.check, one.status, one.reason) for one in loss.reopened] == [("two", "none", WHY)]
    assert ours.resumed == ()


def test_its_essence_is_that_of_an_undisturbed_run() -> None:
    checks = [finished(result(check="one")), finished(result(check="two"))]
    whole = [started(planned("one", "two"), skipped()), *engines(), *checks, ended(), end()]
    events = [*cut(checks[0]), on("c"), *engines(), checks[1], ended(), end()]
    assert essence(build(events, JOURNAL)) == essence(build(whole, JOURNAL))


def test_engines_of_units_that_were_not_lost_stay_as_often_as_they_came() -> None:
    """An engine that a check starts twice says the same twice; another unit's loss takes none of it away."""
    other = UNIT.replace("eager", "compile")
    plan = started(planned("one"), planned("one", cell=f"{other}/core", unit=other))
    before = [plan, on("a"), ready(), on("b", other)]
    after = [ready(), finished(result(check="one")), ended()]
    loss = ended("lost", unit=other, message=WHY)
    assert [arm.arm for arm in told([*before, *after]).effective] == ["treatment"] * 2
    assert [arm.arm for arm in told([*before, loss, *after]).effective] == ["treatment"] * 2


@pytest.mark.parametrize("first", ["pass", "fail", "inconclusive"])
@pytest.mark.parametrize("second", ["pass", "fail", "error"])
def test_a_verdict_from_before_the_loss_is_never_given_again(first: Any, second: Any) -> None:
    events = cut(finished(result(first, "one")))
    with pytest.raises(UsageError, match="two results of one"):
        told([*events, on("c"), finished(result(second, "one"))])


def test_a_failure_that_was_seen_before_the_loss_decides() -> None:
    events = [*cut(finished(result("fail", "one"))), on("c"), finished(result(check="two")), ended(), end()]
    assert told(events).verdict == "NOT_CERTIFIED"


def test_an_error_from_before_the_loss_runs_again_and_stays_on_record() -> None:
    both = [finished(result("error", "one")), finished(result(check="two"))]
    events = [*cut(*both), on("c"), *engines(), finished(result(check="one")), ended(), end()]
    ours = told(events)
    assert ours.verdict == "CERTIFIED"
    assert [(one.check, one.status) for one in ours.lost[0].reopened] == [("one", "error")]


def test_a_unit_that_was_lost_with_all_its_results_is_done() -> None:
    both = [finished(result(check="one")), finished(result(check="two"))]
    assert told([*cut(*both), end()]).verdict == "CERTIFIED"


def test_without_what_was_left_it_is_no_certificate() -> None:
    ours = told([*cut(finished(result(check="one"))), end()])
    assert ours.verdict == "INCONCLUSIVE"
    missing = next(check for check in ours.checks if check.check == "two")
    assert (missing.status, missing.reason) == ("error", WHY)


def test_a_unit_of_this_host_cannot_be_lost() -> None:
    events = [started(planned("one")), UnitStarted(time=TIME, unit=UNIT), lost()]
    with pytest.raises(UsageError, match="ran on no node"):
        told(events)
    with pytest.raises(UsageError, match="ran on no node"):
        told([started(planned("one")), on("b"), lost(), lost()])


def test_it_is_started_only_so_often() -> None:
    events: list[Event] = [started(planned("one"))]
    for _ in range(TRIES):
        events += [on("b"), lost()]
    assert len(told(events).lost) == TRIES
    with pytest.raises(UsageError, match=f"more than {TRIES} times"):
        told([*events, on("b"), lost()])


def test_a_run_that_lost_all_its_nodes_is_resumed() -> None:
    events = cut(finished(result("fail", "one")))
    left = remaining(events)
    assert left.checks == {CELL: ("two",)}
    assert left.reopened[0].reason == WHY
    again = RunResumed(time=TIME, kept=left.kept, left=len(left.reopened), units=left.units)
    ours = told([*events, again, on("c"), finished(result(check="two")), ended(), end()])
    assert (ours.verdict, len(ours.lost), len(ours.resumed)) == ("NOT_CERTIFIED", 1, 1)


def test_a_unit_that_ended_by_itself_is_not_started_again() -> None:
    with pytest.raises(UsageError, match="twice"):
        told([*sound()[:-1], on("c"), ended()])


def test_verify_takes_it_and_reports_tell_it() -> None:
    events = [*cut(finished(result(check="one"))), on("c"), finished(result(check="two")), ended(), end()]
    statement = build(events, JOURNAL)
    folder = Folder("x", {"certificate.json": statement.to_json().encode()}, whole=False)
    seen = examine(folder, (), Recompute(lambda _: statement, {}, "", lambda _: b""), must_be_signed=False)
    assert not seen.problems
    assert any("nodes were lost" in finding.what for finding in seen.findings)
    (line,) = [line for line in caveats(statement) if "lost" in line]
    assert "1 check ran elsewhere" in line
    assert "the node has died" in line


def test_lines_and_certificates_of_runs_on_one_host_are_what_they_were() -> None:
    line = UnitStarted(time=TIME, unit=UNIT).model_dump_json()
    assert json.loads(line) == {"type": "unit_started", "time": TIME, "unit": UNIT}
    assert EVENTS.validate_json(on("b").model_dump_json()) == on("b")
    assert '"lost"' not in build(sound(), JOURNAL).to_json()


@st.composite
def courses(draw: Any) -> list[Event]:
    """A unit of three checks from node to node; now and then something that no runner writes."""
    names = ("one", "two", "three")
    events: list[Event] = [started(planned(*names))]
    for _ in range(draw(st.integers(1, 4))):
        events += draw(st.sampled_from([[on("b")], [on("b")], [UnitStarted(time=TIME, unit=UNIT)], []]))
        events += engines()
        statuses = st.sampled_from(["pass", "pass", "pass", "fail", "error", "inconclusive"])
        events += [
            finished(result(draw(statuses), check))
            for check in draw(st.lists(st.sampled_from(names), max_size=3, unique=True))
        ]
        outcome = draw(st.sampled_from(["lost", "lost", "completed", "crashed", "interrupted"]))
        events.append(ended(outcome, message="" if outcome == "completed" else "why"))
    return [*events, end()]


@settings(max_examples=400, deadline=None)
@given(courses())
def test_no_course_of_losses_gives_what_was_not_shown(events: list[Event]) -> None:
    try:
        ours = told(events)
    except UsageError:
        return
    results = [e.result for e in events if e.type == "check_finished"]
    verdicts = [(r.check, r.status) for r in results if r.status != "error"]
    ends = [e.outcome for e in events if e.type == "unit_finished"]
    event(f"{ours.verdict} after {ends.count('lost')} losses")
    assert len({check for check, _ in verdicts}) == len(verdicts), "one verdict a check"
    assert set(ends[:-1]) <= {"lost"}, "what ended by itself is not started again"
    assert ends.count("lost") == len(ours.lost) <= TRIES
    if any(status == "fail" for _, status in verdicts):
        assert ours.verdict == "NOT_CERTIFIED"
    if ours.verdict == "CERTIFIED":
        assert sorted(verdicts) == [("one", "pass"), ("three", "pass"), ("two", "pass")]
        assert ends[-1] in ("completed", "lost")
