"""What waivers do: only a failure is waived, until its day, and nothing waived reads as a pass."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bi_harness.certificate.build import build
from bi_harness.certificate.records import CheckResult, Status, Waiver
from bi_harness.certificate.statement import HarnessResult, Statement, WaiverUse
from bi_harness.certificate.verdict import exit_code, predicate_result, verdict, why_hollow
from bi_harness.certificate.waivers import apply, contradiction, day_of, expired, names
from bi_harness.exits import ExitCode
from bi_harness.matrix.collector import no_collection
from tests.certificate.journals import (
    CELL,
    JOURNAL,
    TIME,
    UNIT,
    evidence,
    planned,
    ready,
    result,
    skipped,
    sound,
    waiver,
)
from tests.certificate.test_build import checks

OTHER = f"{UNIT}/more"
NEXT_DAY = "2026-01-15T00:00:00.000Z"


def built(
    *results: CheckResult, waivers: Sequence[Waiver], time: str = TIME, cut: int | None = None, **changes: Any
) -> Statement:
    """The certificate of a run of these results with these waivers, and what must hold of any."""
    plan = changes.pop("plan", ())
    events = sound(*results, plan=plan)
    first = events[0].model_copy(update={"waivers": tuple(waivers), "time": time, **changes})
    statement = build([first, *events[1:cut]], JOURNAL)
    ours = statement.predicate.bi_harness
    assert contradiction(ours.checks, ours.waivers, ours.started) == ""
    text = statement.to_json()
    assert Statement.model_validate_json(text).to_json() == text
    return statement


def ours(*results: CheckResult, waivers: Sequence[Waiver], **changes: Any) -> HarnessResult:
    return built(*results, waivers=waivers, **changes).predicate.bi_harness


def states(found: HarnessResult) -> list[str]:
    return [use.state for use in found.waivers]


def test_a_waived_failure_and_nothing_else_wrong() -> None:
    given = waiver("sampling")
    failed = result("fail", "sampling")
    statement = built(result(), failed, waivers=[given])
    found = statement.predicate.bi_harness
    assert (statement.predicate.result, found.verdict) == ("WARNED", "CERTIFIED")
    assert found.why == (
        "1 of 2 checks passed, and the control of each diverged with invariance off; "
        "1 check waived: not passed"
    )
    assert statement.predicate.passedTests == (f"{CELL}::alone",)
    assert statement.predicate.warnedTests == (f"{CELL}::sampling",)
    assert statement.predicate.failedTests == ()
    assert (found.totals.passed, found.totals.failed, found.totals.waived) == (1, 0, 1)
    waived = checks(statement)[f"{CELL}::sampling"]
    assert waived == failed.model_copy(update={"status": "waived", "waiver": given})
    assert found.waivers == (WaiverUse(waiver=given, state="in_force", checks=(f"{CELL}::sampling",)),)
    assert exit_code(found.verdict, interrupted=False) is ExitCode.CERTIFIED


@pytest.mark.parametrize("status", [s for s in get_args(Status) if s not in ("fail", "waived")])
def test_nothing_but_a_failure_is_waived(status: Status) -> None:
    one = result(status, "other", rule=None)
    with_it, without = ours(result(), one, waivers=[waiver("other")]), ours(result(), one, waivers=[])
    assert with_it.checks == without.checks
    assert with_it.totals == without.totals
    if status == "pass":
        assert (with_it.verdict, states(with_it)) == ("NOT_CERTIFIED", ["stale"])
    else:
        assert (with_it.verdict, with_it.why) == (without.verdict, without.why)
        assert (with_it.verdict, states(with_it)) == ("INCONCLUSIVE", ["no_answer"])


def test_a_stale_waiver_fails_the_run_and_says_whose() -> None:
    found = ours(result(), waivers=[waiver(cell="cpu/*")])
    assert found.verdict == "NOT_CERTIFIED"
    assert found.why == (
        "the waiver of alone on cpu/* (owner: A. Reviewer) is stale, since it passed on "
        f"{CELL}: take it out, or make it narrower"
    )


def test_a_pattern_that_names_a_pass_beside_a_failure_is_too_wide() -> None:
    plan = (planned(), planned(cell=OTHER))
    told = [result(), result("fail", cell=OTHER)]
    wide = ours(*told, waivers=[waiver(cell=f"{UNIT}/*")], plan=plan)
    assert (wide.verdict, states(wide)) == ("NOT_CERTIFIED", ["stale"])
    assert wide.waivers[0].checks == (f"{CELL}::alone", f"{OTHER}::alone")
    narrow = ours(*told, waivers=[waiver(cell=OTHER)], plan=plan)
    assert (narrow.verdict, states(narrow)) == ("CERTIFIED", ["in_force"])


def test_it_holds_to_the_end_of_its_day_in_utc() -> None:
    told = [result(), result("fail", "sampling")]
    given = [waiver("sampling", expires="2026-01-14")]
    for time, holds in (
        ("2026-01-14T23:59:59.999Z", True),
        ("2026-01-15T00:00:00.000Z", False),
        ("2026-01-14T23:59:59.999-01:00", False),
        ("2026-01-15T00:30:00.000+02:00", True),
        ("2026-01-14T12:00:00", False),  # of no zone: the day is not known
        ("yesterday", False),
        ("", False),
    ):
        found = ours(*told, waivers=given, time=time)
        assert (found.verdict == "CERTIFIED") is holds, time
        assert states(found) == ["in_force" if holds else "expired"], time


def test_an_expired_one_leaves_the_failure_and_says_so() -> None:
    statement = built(result(), result("fail", "sampling"), waivers=[waiver("sampling")], time=NEXT_DAY)
    found = statement.predicate.bi_harness
    failed = checks(statement)[f"{CELL}::sampling"]
    assert (failed.status, failed.waiver) == ("fail", None)
    assert failed.reason == (
        "because fail; its waiver expired on 2026-01-14 (owner: A. Reviewer, https://example.org/issues/7)"
    )
    assert (found.verdict, statement.predicate.result) == ("NOT_CERTIFIED", "FAILED")
    assert found.why == (
        "1 of 2 checks failed: bits depend on the batch; the waiver of sampling on "
        f"{CELL} (owner: A. Reviewer) expired on 2026-01-14: take it out, or decide on it anew"
    )
    assert statement.predicate.failedTests == (f"{CELL}::sampling",)


def test_an_expired_one_fails_a_run_that_does_not_need_it_either() -> None:
    found = ours(result(), waivers=[waiver()], time=NEXT_DAY)
    assert (found.verdict, states(found)) == ("NOT_CERTIFIED", ["expired"])
    assert "expired on 2026-01-14" in found.why
    both = [waiver(), waiver(cell="cpu/*", expires="2027-01-01")]
    renewed = ours(result("fail"), result(check="other"), waivers=both, time=NEXT_DAY)
    assert (renewed.verdict, states(renewed)) == ("NOT_CERTIFIED", ["expired", "in_force"])
    assert renewed.totals.waived == 1


def test_of_two_that_name_one_failure_the_first_that_holds_counts() -> None:
    both = [waiver(owner="First"), waiver(cell="cpu/*", owner="Second")]
    found = ours(result("fail"), result(check="other"), waivers=both)
    assert states(found) == ["in_force", "in_force"]
    assert [c.waiver.owner for c in found.checks if c.waiver is not None] == ["First"]
    assert found.verdict == "CERTIFIED"


def test_what_is_not_in_this_run_is_no_matter() -> None:
    plan = (planned(), skipped())
    given = [waiver(cell="h200/*"), waiver("needle"), waiver(cell=f"{UNIT}/other")]
    for time in (TIME, NEXT_DAY):
        found = ours(waivers=given, plan=plan, time=time)
        assert (found.verdict, states(found)) == ("CERTIFIED", ["not_in_run"] * 3)
        assert {use.checks for use in found.waivers} == {()}


def test_waivers_alone_certify_nothing() -> None:
    found = ours(result("fail"), waivers=[waiver()])
    assert (found.verdict, found.why) == ("INCONCLUSIVE", "nothing passed: 1 check waived: not passed")


@pytest.mark.parametrize(
    "other", [result("fail", "other"), result("error", "other"), result("pass", "other", control=None)]
)
def test_whatever_else_is_wrong_stays_wrong(other: CheckResult) -> None:
    found = ours(result(), result("fail", "sampling"), other, waivers=[waiver("sampling")])
    assert found.verdict == ("NOT_CERTIFIED" if other.status == "fail" else "INCONCLUSIVE")


def test_a_run_that_did_not_end_is_not_certified_by_waivers() -> None:
    for cut in range(1, 8):
        found = ours(result(), result("fail", "sampling"), waivers=[waiver("sampling")], cut=cut)
        assert found.verdict == "INCONCLUSIVE"


def test_a_planted_fault_is_not_certified_by_waivers() -> None:
    events = sound(result(), result("fail", "sampling"))
    arm = ready().arm.model_copy(update={"config": {"planted_fault": "norm-256"}})
    events[2] = ready().model_copy(update={"arm": arm})
    events[0] = events[0].model_copy(update={"waivers": (waiver("sampling"),)})
    found = build(events, JOURNAL)
    assert found.predicate.bi_harness.totals.waived == 1
    assert (found.predicate.result, found.predicate.bi_harness.verdict) == ("FAILED", "INCONCLUSIVE")
    assert "a fault was planted" in found.predicate.bi_harness.why


def test_a_unit_cannot_waive_itself() -> None:
    for shy in (
        result("waived", "shy", evidence=evidence(2)),
        result("waived", "shy", waiver=waiver("shy")),
        result("pass", "shy", waiver=waiver("shy")),
        result("fail", "shy", waiver=waiver("shy")),
    ):
        for waivers in ([], [waiver("shy")]):
            statement = built(result(), shy, waivers=waivers)
            found = checks(statement)[f"{CELL}::shy"]
            assert (found.status, found.waiver) == ("error", None)
            assert "it waived itself" in found.reason
            assert statement.predicate.bi_harness.verdict == "INCONCLUSIVE"


def test_bits_across_data_parallel_sizes_where_a_check_is_waived() -> None:
    """That its batched bits differ follows from the failure; that a request alone has other bits does not."""
    low, high = CELL, CELL.replace("tp1-dp1", "tp1-dp2")
    unit = UNIT.replace("tp1-dp1", "tp1-dp2")
    plan = (planned("alone", "sampling"), planned("alone", "sampling", cell=high, unit=unit))
    one, two = "sha256:" + "11" * 32, "sha256:" + "22" * 32
    given = [waiver("sampling", cell=low), waiver("sampling", cell=high)]

    def of(**high_evidence: str) -> HarnessResult:
        told = [
            *(result(cell=cell) for cell in (low, high)),
            result("fail", "sampling"),
            result("fail", "sampling", high, evidence=evidence(2, **high_evidence)),
        ]
        events = sound(*told, plan=plan)
        ended = events[-2].model_copy(update={"unit": unit})
        first = events[0].model_copy(update={"waivers": tuple(given)})
        return build([first, *events[1:-1], ended, events[-1]], JOURNAL).predicate.bi_harness

    same = of()
    assert same.verdict == "CERTIFIED"
    batched = of(digest=one)
    assert batched.verdict == "CERTIFIED"
    assert [(a.equal, a.required) for a in batched.axes if a.check == "sampling"] == [(False, False)]
    alone = of(digest=one, reference_digest=two)
    assert alone.verdict == "NOT_CERTIFIED"
    assert "across parallel sizes differ" in alone.why


def test_a_verdict_believes_no_waiver_that_is_not_named() -> None:
    nobody = result("waived", "sampling", evidence=evidence(2))
    assert verdict([result(), nobody], complete=True)[0] == "INCONCLUSIVE"
    somebody = nobody.model_copy(update={"waiver": waiver("sampling")})
    assert verdict([result(), somebody], complete=True)[0] == "CERTIFIED"
    assert predicate_result("CERTIFIED", [result(), nobody]) == "WARNED"
    assert predicate_result("NOT_CERTIFIED", [result(), somebody]) == "FAILED"
    assert why_hollow(somebody), "and it is no pass with evidence"


def test_the_first_that_must_go_is_named_and_the_others_counted() -> None:
    given = [waiver(cell="cpu/*"), waiver()]
    assert ours(result(), waivers=given).why.endswith("make it narrower; 1 more must go")


@pytest.mark.parametrize(
    ("pattern", "met"),
    [
        (CELL, True),
        ("cpu/*", True),
        ("*", True),
        ("cpu/tiny/*/eager/core", True),
        ("cpu/tin?/CPU_ATTN/tp[12]-dp1/eager/core", True),
        ("CPU/*", False),
        ("cpu/tiny", False),
        ("tiny", False),
        ("", False),
        ("cpu/tiny/CPU_ATTN/tp1-dp1/eager", False),
    ],
)
def test_patterns(pattern: str, met: bool) -> None:
    assert names(waiver(cell=pattern), CELL, "alone") is met
    assert not names(waiver(cell=pattern), CELL, "alon")


def test_days() -> None:
    assert str(day_of("2026-12-31T23:00:00-05:00")) == "2027-01-01"
    assert day_of("9999-12-31T23:59:59-23:59") is None
    assert expired(waiver(expires="9999-12-31"), None)
    for bad in ("2026-02-30", "2026-1-1", "soon", "20260114", ""):
        with pytest.raises(ValueError, match="expires"):
            waiver(expires=bad)


@given(
    st.lists(
        st.builds(
            waiver,
            st.sampled_from(["alone", "spread"]),
            st.sampled_from(
                ["a/b", "a/c", "a/*", "*", "*c", "a/[bc]", "a/[!b]", "?/b", "[ab]/*", "a", "", "a/b/d"]
            ),
            expires=st.sampled_from(["2026-01-12", "2026-01-13", "2026-01-14", "2026-01-15"]),
            owner=st.sampled_from(["A", "B", "C"]),
        ),
        max_size=8,
    ),
    st.lists(
        st.builds(
            result,
            st.sampled_from(["fail", "pass", "error"]),
            st.sampled_from(["alone", "spread"]),
            st.sampled_from(["a/b", "a/c", "a/b/d", "b/b", "a"]),
        ),
        max_size=8,
        unique_by=lambda r: (r.cell, r.check),
    ),
)
def test_each_failure_has_the_waiver_that_a_search_among_all_finds(
    given_: list[Waiver], results: list[CheckResult]
) -> None:
    planned_ = {(r.cell, r.check) for r in results}
    waived, uses = apply(given_, results, planned_, TIME)
    for before, after in zip(results, waived, strict=True):
        naming = [w for w in given_ if w.check == before.check and fnmatchcase(before.cell, w.cell)]
        holding = [w for w in naming if w.expires >= TIME[:10]]
        if before.status != "fail" or not naming:
            assert after == before
        elif holding:
            assert (after.status, after.waiver) == ("waived", holding[0])
        else:
            last = max(naming, key=lambda w: w.expires)
            assert after.status == "fail"
            assert f"expired on {last.expires} (owner: {last.owner}" in after.reason
    for one, use in zip(given_, uses, strict=True):
        named = [r for r in results if r.check == one.check and fnmatchcase(r.cell, one.cell)]
        assert use.checks == tuple(f"{r.cell}::{r.check}" for r in named)


@pytest.mark.parametrize("pattern", ["{cell}", "{cell}*", "*"])
@pytest.mark.parametrize("checks", [1, pytest.param(5_000, marks=pytest.mark.long)])
def test_many_waivers_of_many_failures_take_linear_time(pattern: str, checks: int) -> None:
    """Each waiver of another failure, of one check or of as many; a pattern for all is looked at once."""
    import time

    def spent(count: int) -> float:
        results = [
            result("fail", f"check{i % checks}", f"cpu/m{i}/CPU_ATTN/tp1-dp1/eager/core")
            for i in range(count)
        ]
        given = [waiver(r.check, pattern.format(cell=r.cell)) for r in results]
        if pattern == "*":
            given = given[:checks]
        planned_ = {(r.cell, r.check) for r in results}
        with no_collection():  # As ``build`` does: how long it takes depends on the whole process.
            began = time.process_time()
            waived, uses = apply(given, results, planned_, TIME)
            assert contradiction(waived, uses, TIME) == ""
            took = time.process_time() - began
        assert all(r.status == "waived" for r in waived)
        return took

    few = spent(1_000)
    assert spent(4_000) < 7 * max(few, 0.1)
