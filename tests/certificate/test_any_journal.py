"""Whatever a journal says: CERTIFIED only rests on one sound pass of each check in a run that ended well."""

from __future__ import annotations

from collections import Counter
from typing import Any, get_args

from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from bi_harness.certificate.build import build
from bi_harness.certificate.events import EVENTS, CheckStarted, Event, Node, RunStarted, UnitStarted
from bi_harness.certificate.records import BatchReached, CheckResult, Evidence, Status, Waiver
from bi_harness.certificate.statement import Statement
from bi_harness.certificate.waivers import contradiction
from bi_harness.errors import UsageError
from tests.certificate.journals import (
    DIVERGENCE,
    JOURNAL,
    TIME,
    UNIT,
    end,
    ended,
    evidence,
    finished,
    planned,
    ready,
    result,
    skipped,
    started,
    waiver,
)

CELLS = (f"{UNIT}/core", f"{UNIT}/more")
CHECKS = ("alone", "spread")

small = st.integers(0, 3)
arms = st.lists(
    st.builds(
        BatchReached,
        batch_size=st.integers(1, 3),
        prompts=small,
        steps=small,
        max_requests=small,
        max_tokens=small,
    ),
    max_size=3,
).map(tuple)
broken: st.SearchStrategy[Evidence] = st.fixed_dictionaries(
    {},
    optional={
        "prompts": small,
        "steps": small,
        "values": small,
        "differing_prompts": small,
        "differing_steps": small,
        "differing_values": small,
        "first_divergence": st.sampled_from([None, DIVERGENCE]),
        "batches": arms,
    },
).map(lambda changes: evidence(**changes))
treatments = st.one_of(st.just(evidence()), st.none(), broken)
controls = st.one_of(st.just(evidence(3)), st.none(), broken)


@st.composite
def results(draw: Any) -> CheckResult:
    status = draw(st.one_of(st.just("pass"), st.sampled_from(get_args(Status))))
    changes: dict[str, Any] = {"rule": draw(st.sampled_from([None, "heads"]))}
    if draw(st.booleans()):
        changes |= {"evidence": draw(treatments), "control": draw(controls)}
    return result(status, draw(st.sampled_from(CHECKS)), draw(st.sampled_from(CELLS)), **changes)


outcomes = st.sampled_from(["completed", "completed", "completed", "crashed", "timed_out", "interrupted"])
any_event: st.SearchStrategy[Event] = st.one_of(
    results().map(finished),
    st.sampled_from(["treatment", "control"]).map(ready),
    outcomes.map(ended),
    st.booleans().map(end),
    st.just(started()),
    st.just(UnitStarted(time=TIME, unit=UNIT)),
    st.just(UnitStarted(time=TIME, unit=UNIT, node=Node(id="n", host="h"))),
    st.just(ended("lost")),
    st.just(CheckStarted(time=TIME, cell=CELLS[0], check="alone")),
)


waivers: st.SearchStrategy[Waiver] = st.builds(
    waiver,
    st.sampled_from(CHECKS),
    st.sampled_from([*CELLS, f"{UNIT}/*", "*", "h200/*"]),
    # The last two days hold; the first two do not.
    expires=st.sampled_from(["2026-01-14", "2027-01-01", "2026-01-13", "2020-02-29"]),
)


@st.composite
def journals(draw: Any) -> list[Event]:
    """Near a sound run, so that many are certified; each part of it may be missing, doubled or wrong."""
    given = tuple(draw(st.lists(waivers, max_size=3)) if draw(st.booleans()) else ())
    likely = {(cell, w.check) for w in given for cell in CELLS} if draw(st.booleans()) else set()
    cells = draw(st.lists(st.sampled_from(CELLS), min_size=1, max_size=2, unique=True))
    names = draw(st.lists(st.sampled_from(CHECKS), min_size=1, max_size=2, unique=True))
    plan = [planned(*names, cell=cell) for cell in cells]
    plan += draw(st.lists(st.just(skipped()), max_size=1))
    plan += draw(st.lists(st.sampled_from(plan), max_size=1)) if draw(st.integers(0, 9)) == 0 else []
    told: list[Event] = [
        finished(
            draw(results())
            if draw(st.integers(0, 4)) == 0
            else result("fail" if (cell, name) in likely else "pass", check=name, cell=cell)
        )
        for cell in cells
        for name in names
    ]
    tail: list[Event] = [ended(draw(outcomes)), end(draw(st.integers(0, 5)) == 0)]
    body = [ready("treatment"), ready("control"), *told, *tail]
    for _ in range(draw(st.integers(0, 2))):
        where = draw(st.integers(0, len(body)))
        if body and draw(st.booleans()):
            del body[min(where, len(body) - 1)]
        else:
            body.insert(where, draw(any_event))
    return [started(*plan, waivers=given), *body]


def believable(check: CheckResult) -> bool:
    """Written here anew, from the design: equality of everything, in batches that formed, and a control."""
    e, control = check.evidence, check.control
    if e is None or control is None or not e.batches:
        return False
    reference, *batched = e.batches
    return (
        (e.prompts > 0 and e.steps > 0 and e.values > 0)
        and not (e.differing_prompts or e.differing_steps or e.differing_values)
        and e.first_divergence is None
        and (reference.batch_size, reference.max_requests) == (1, 1)
        and any(arm.batch_size > 1 for arm in batched)
        and all(arm.max_requests >= arm.batch_size for arm in batched)
        and control.differing_prompts > 0
        and control.prompts == e.prompts
    )


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(journals())
def test_certified_rests_on_a_sound_pass_of_every_check(events: list[Event]) -> None:
    try:
        statement = build(events, JOURNAL)
    except UsageError:
        event("refused")
        return
    verdict = statement.predicate.bi_harness.verdict
    event(verdict)
    start = events[0]
    assert isinstance(start, RunStarted)
    told = [e.result for e in events if e.type == "check_finished"]
    waived = {(r.cell, r.check) for r in told if r.status == "fail" and let_be(start, r)}
    assert statement.predicate.result == (
        "FAILED" if verdict != "CERTIFIED" else "WARNED" if waived else "PASSED"
    )
    if any(r.status == "fail" and (r.cell, r.check) not in waived for r in told):
        assert verdict == "NOT_CERTIFIED"
    if verdict == "CERTIFIED":
        to_run = [(p.cell, check) for p in start.plan if p.rule is None for check in p.checks]
        assert Counter(to_run) == Counter((r.cell, r.check) for r in told)
        assert to_run
        passed = [r for r in told if (r.cell, r.check) not in waived]
        assert passed
        assert all(r.status == "pass" and believable(r) for r in passed)
        last = events[-1]
        assert last.type == "run_finished"
        assert not last.interrupted
        ends = [e.outcome for e in events if e.type == "unit_finished"]
        # A unit whose node was lost when it had told everything has an end of another kind.
        assert set(ends[:-1]) <= {"lost"}
        assert ends[-1] in ("completed", "lost")


def let_be(start: RunStarted, failed: CheckResult) -> bool:
    """Written here anew: some waiver names it, and its last day is not over when the run starts."""
    return any(
        w.check == failed.check
        and (w.cell in (failed.cell, "*") or (w.cell == f"{UNIT}/*" and failed.cell.startswith(f"{UNIT}/")))
        and w.expires >= start.time[:10]
        for w in start.waivers
    )


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(journals())
def test_waivers_waive_failures_alone_and_nothing_waived_is_passed(events: list[Event]) -> None:
    start = events[0]
    assert isinstance(start, RunStarted)
    try:
        statement = build(events, JOURNAL)
        plain = build([start.model_copy(update={"waivers": ()}), *events[1:]], JOURNAL)
    except UsageError:
        return
    found, without = statement.predicate.bi_harness, plain.predicate.bi_harness
    assert contradiction(found.checks, found.waivers, found.started) == ""
    for before, after in zip(without.checks, found.checks, strict=True):
        assert (after.evidence, after.control) == (before.evidence, before.control)
        if after.status == "waived":
            assert before.status == "fail"
            assert let_be(start, before)
            assert after.reason == before.reason
        else:
            assert after.status == before.status
            assert not (before.status == "fail" and let_be(start, before))
    waived = {f"{c.cell}::{c.check}" for c in found.checks if c.status == "waived"}
    event(f"{len(waived)} waived, {found.verdict}")
    assert set(statement.predicate.warnedTests) == waived
    assert not waived & {*statement.predicate.passedTests, *statement.predicate.failedTests}
    assert statement.predicate.passedTests == plain.predicate.passedTests
    assert found.totals.passed == without.totals.passed
    assert found.totals.waived == len(waived)
    order = ("CERTIFIED", "INCONCLUSIVE", "NOT_CERTIFIED")
    if not waived:
        assert order.index(found.verdict) >= order.index(without.verdict), "waivers alone make nothing better"
    if waived:
        assert statement.predicate.result != "PASSED"
        assert "waived: not passed" in found.why or found.verdict != "CERTIFIED"
    if any(use.state in ("expired", "stale") for use in found.waivers):
        assert found.verdict == "NOT_CERTIFIED"


@settings(max_examples=150, deadline=None)
@given(journals())
def test_any_certificate_goes_to_json_and_back(events: list[Event]) -> None:
    try:
        statement = build(events, JOURNAL)
    except UsageError:
        return
    text = statement.to_json()
    assert Statement.model_validate_json(text).to_json() == text
    assert build([EVENTS.validate_json(e.model_dump_json()) for e in events], JOURNAL).to_json() == text
