"""The gate: what is missing is not met, and nothing is taken at its word."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bi_harness.certificate.build import build
from bi_harness.certificate.events import CheckStarted, Event, PlannedChecks, UnitStarted
from bi_harness.certificate.files import CERTIFICATE
from bi_harness.certificate.gate import GateResult, RequirementSeen
from bi_harness.certificate.records import CheckResult, Status
from bi_harness.certificate.statement import EndpointScope, Power
from bi_harness.certificate.verify import Examined, Finding, Folder, examine
from bi_harness.cli.examined import recompute
from bi_harness.errors import UsageError
from bi_harness.exits import ExitCode
from bi_harness.matrix.execution import SAME_AS_DEFAULT
from bi_harness.spec.policy import Policy
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
from tests.certificate.policies import NEEDS, certificate, held, policy
from tests.certificate.test_any_journal import journals

SCOPE = started().scope
POWER = Power(
    suite="core",
    faults=10,
    caught=9,
    clean_runs=5,
    false_alarms=0,
    device="cpu",
    vllm="0.32.0",
    measured="2026-01-01T00:00:00Z",
    current=True,
)


def reasons(found: GateResult) -> str:
    return "\n".join([*found.problems, *(why for one in found.requirements for why in one.why)])


def test_a_certificate_meets_what_it_is_of() -> None:
    found = held(policy(), certificate())
    assert found.passed, reasons(found)
    assert found.exit_code == ExitCode.CERTIFIED
    (requirement,) = found.requirements
    assert (requirement.id, requirement.state) == ("cpu/tiny/*/*/eager/core", "met")
    assert requirement.met_by == ("a",)


def of_release(events: list[Event], vllm: dict[str, Any] | str) -> list[Event]:
    """The run on another vLLM: a version, or all that its engines say of it."""
    said = {"version": vllm} if isinstance(vllm, str) else vllm
    return [
        event.model_copy(update={"provenance": {**event.provenance, "vllm": said}})
        if event.type == "engine_ready"
        else event
        for event in events
    ]


def test_nothing_meets_nothing() -> None:
    found = held(policy())
    assert not found.passed
    assert found.exit_code == ExitCode.NOT_CERTIFIED
    (requirement,) = found.requirements
    assert requirement.state == "unmet"
    assert "no certificate that counts is of it" in requirement.why[0]
    assert requirement.would_meet == (
        "bi-harness run --device cpu --model tiny --suite core --mode eager --profile smoke "
        "(with vLLM >=0.30,<1)"
    )


@pytest.mark.parametrize(
    "needs",
    [
        {"devices": "h200"},
        {"models": "big"},
        {"suites": "online"},
        {"modes": "compile"},
        {"backends": "FLASH_ATTN"},
        {"parallel": "tp2-dp1"},
        {"checks": ["alone", "spread"]},
    ],
    ids=str,
)
def test_each_axis_is_asked_for(needs: dict[str, Any]) -> None:
    found = held(policy(NEEDS, {**NEEDS, **needs}), certificate())
    assert [r.state for r in found.requirements] == ["met", "unmet"]
    assert found.exit_code == ExitCode.NOT_CERTIFIED
    fitting = {"backends": "CPU_ATTN", "parallel": "tp1-dp1", "checks": ["alone"]}
    assert held(policy({**NEEDS, **fitting}), certificate()).passed


def test_every_combination_is_asked_for() -> None:
    needs = {"devices": ["cpu", "h200"], "models": ["tiny", "b"], "suites": "core", "modes": ["eager"]}
    found = held(policy(needs), certificate())
    assert [(r.id, r.state) for r in found.requirements] == [
        ("cpu/tiny/*/*/eager/core", "met"),
        ("cpu/b/*/*/eager/core", "unmet"),
        ("h200/tiny/*/*/eager/core", "unmet"),
        ("h200/b/*/*/eager/core", "unmet"),
    ]


def test_of_two_that_disagree_the_failing_one_decides() -> None:
    green, red = certificate(place="green"), certificate(sound(result("fail")), place="red")
    for order in ((green, red), (red, green)):
        found = held(policy(), *order)
        (requirement,) = found.requirements
        assert requirement.state == "failed"
        assert found.exit_code == ExitCode.NOT_CERTIFIED
        assert "red: alone failed" in requirement.why[0]
        assert "whatever green says" in requirement.would_meet
    newer = certificate(place="newer", time="2026-01-14T23:00:00.000Z")
    assert not held(policy(), red, newer).passed, "a newer pass undoes no failure"


def test_a_failure_counts_whatever_else_speaks_against_its_certificate() -> None:
    """Unsigned, dirty, of made weights: it can certify nothing, and still shows that bits differ."""
    scope = SCOPE.model_copy(update={"weights": "synthetic"})
    red = certificate(sound(result("fail")), place="red", scope=scope, provenance=started().provenance)
    found = held(policy(), certificate(), red)
    assert [r.state for r in found.requirements] == ["failed"]


def test_what_says_nothing_either_way() -> None:
    """Too old, another vLLM, a planted fault: no pass, and no failure either."""
    red = sound(result("fail"))
    old = certificate(red, place="old")
    found = held(policy(max_age_days=7.0), old, later=timedelta(days=30))
    assert [r.state for r in found.requirements] == ["unmet"]
    assert "31.0 days old, and at most 7 are allowed" in found.certificates[0].why[0]
    assert [r.state for r in held(policy(vllm=">=0.33"), old).requirements] == ["unmet"]
    planted = [
        e.model_copy(update={"arm": e.arm.model_copy(update={"config": {"planted_fault": "atomics"}})})
        if e.type == "engine_ready"
        else e
        for e in red
    ]
    assert held(policy(), certificate(), certificate(planted, place="selftest")).passed
    assert not held(policy(), certificate(planted, place="selftest")).passed


def test_another_vllm_is_not_asked_for() -> None:
    assert held(policy(vllm="==0.32.*"), certificate()).passed
    assert not held(policy(vllm="==0.33.*"), certificate()).passed
    found = held(policy(vllm=""), certificate(of_release(sound(), {})))
    assert "it does not say which vLLM ran" in reasons(found)


def test_age_of_a_run_is_the_age_of_its_checks() -> None:
    asked = policy(max_age_days=2.0)
    assert held(asked, certificate(), later=timedelta(days=1)).passed
    assert not held(asked, certificate(), later=timedelta(days=2)).passed
    found = held(policy(), certificate(), later=timedelta(days=-2))
    assert "in the future" in reasons(found)


AGAINST: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "a dirty harness": (
        {"provenance": {**started().provenance, "harness": {"dirty": True}}},
        {"allow_dirty": True},
        "dirty",
    ),
    "a harness of which nothing is known": (
        {"provenance": started().provenance},
        {"allow_dirty": True},
        "neither git nor a wheel",
    ),
    "made weights": (
        {"scope": SCOPE.model_copy(update={"weights": "synthetic"})},
        {"allow_synthetic": True},
        "synthetic",
    ),
    "fewer layers": (
        {"scope": SCOPE.model_copy(update={"layers": 2})},
        {"allow_synthetic": True},
        "cut to 2 layers",
    ),
    "an endpoint": (
        {"scope": SCOPE.model_copy(update={"endpoint": EndpointScope(url="http://h/v1")})},
        {"allow_endpoint": True},
        "nobody verified",
    ),
    "a smaller profile": ({}, {"profile": "smoke"}, "nightly is asked for"),
    "no journal": ({}, {"require_journal": False}, "journal is not beside it"),
    "few steps": ({}, {"min_steps": 16}, "16 steps were compared"),
    "no self-test": ({}, {"min_selftest_score": None}, "has no self-test"),
}
STRICT: dict[str, dict[str, Any]] = {
    "a smaller profile": {"profile": "nightly"},
    "no journal": {"require_journal": True},
    "few steps": {"min_steps": 17},
    "no self-test": {"min_selftest_score": 0.5},
}


@pytest.mark.parametrize("name", AGAINST)
def test_what_is_not_allowed_does_not_count(name: str) -> None:
    start, allowing, message = AGAINST[name]
    one = certificate(**start)
    found = held(policy(**STRICT.get(name, {})), one)
    assert [r.state for r in found.requirements] == ["unmet"]
    assert message in reasons(found)
    assert held(policy(**allowing), one).passed


@pytest.mark.parametrize(
    ("power", "message"),
    [
        (POWER, ""),
        (POWER.model_copy(update={"caught": 8}), "caught 8 of 10"),
        (POWER.model_copy(update={"current": False}), "earlier state"),
        (POWER.model_copy(update={"false_alarms": 1}), "1 false alarms"),
        (POWER.model_copy(update={"clean_runs": 0}), "0 clean runs"),
        (POWER.model_copy(update={"faults": 0, "caught": 0}), "no self-test"),
        (POWER.model_copy(update={"suite": "other"}), "no self-test"),
    ],
)
def test_the_power_of_the_suite(power: Power, message: str) -> None:
    found = held(policy(min_selftest_score=0.9), certificate(power=(power,)))
    assert found.passed is not bool(message)
    assert message in reasons(found)


def test_part_of_a_suite_is_not_the_suite() -> None:
    part = certificate(scope=SCOPE.model_copy(update={"filters": {"k": "alone"}}))
    assert "a part of the suite's checks" in reasons(held(policy(), part))
    assert held(policy({**NEEDS, "checks": ["alone"]}), part).passed


def test_skips_are_excused_at_most_and_never_a_pass() -> None:
    other = skipped(cell=f"{UNIT.replace('tp1', 'tp2')}/core")
    mixed = certificate([started(planned(), other), *sound()[1:]], plan=(planned(), other))
    assert "skipped by the rule heads" in reasons(held(policy(), mixed))
    assert held(policy(allow_skips=True), mixed).passed
    assert held(policy({**NEEDS, "parallel": "tp1-dp1"}), mixed).passed
    alone = policy({**NEEDS, "parallel": "tp2-dp1"}, allow_skips=True)
    assert not held(alone, mixed).passed, "all of it was skipped: nobody knows anything"


def test_inconclusive_evidence_alone_is_inconclusive() -> None:
    for events in (
        sound(result("inconclusive")),
        sound(result("error")),
        [*sound()[:-1], end(interrupted=True)],
        [*sound()[:-2], ended("crashed", message="died"), end()],
    ):
        found = held(policy(), certificate(events))
        assert [r.state for r in found.requirements] == ["inconclusive"], reasons(found)
        assert found.exit_code == ExitCode.INCONCLUSIVE
        # Something else that is missing makes it a plain no.
        missing = {**NEEDS, "models": "big"}
        assert held(policy(NEEDS, missing), certificate(events)).exit_code == ExitCode.NOT_CERTIFIED
        assert held(policy(), certificate(events), certificate(place="b")).passed
    dirty = certificate(sound(result("error")), provenance=started().provenance)
    assert held(policy(), dirty).exit_code == ExitCode.NOT_CERTIFIED


def test_a_certificate_that_is_not_certified_as_a_whole_meets_nothing() -> None:
    """Its failure is elsewhere; but no part of it was certified."""
    cell = f"{UNIT}/other"
    both = sound(result(), result("fail", cell=cell), plan=(planned(), planned(cell=cell)))
    found = held(policy(), certificate(both, plan=(planned(), planned(cell=cell))))
    assert [r.state for r in found.requirements] == ["unmet"]
    assert "NOT_CERTIFIED" in reasons(found)


def test_one_that_is_not_genuine_blocks_whatever_the_rest() -> None:
    tampered = Examined(
        "bad",
        None,
        "",
        (Finding(level="problem", where="certificate.json", what="was changed"),),
        (),
        (),
        False,
    )
    found = held(policy(), certificate(), tampered)
    assert [r.state for r in found.requirements] == ["met"]
    assert not found.passed
    assert found.exit_code == ExitCode.NOT_CERTIFIED
    assert "bad: not genuine: certificate.json: was changed" in found.problems


def test_a_verdict_is_not_taken_at_its_word() -> None:
    """Nor are statuses: what is not CERTIFIED as its own checks have it does not get as far as the gate."""
    honest = build(sound(result("fail")), JOURNAL).to_json()
    forged = honest.replace('"verdict": "NOT_CERTIFIED"', '"verdict": "CERTIFIED"').replace(
        '"result": "FAILED"', '"result": "PASSED"'
    )
    found = examine(Folder("x", {CERTIFICATE: forged.encode()}, whole=False), [], recompute())
    assert not held(policy(), found).passed
    assert held(policy(), found).problems


def test_keys_that_are_asked_for() -> None:
    asked = policy(keys=["release.pub"])
    one = certificate()
    assert "none of the policy's keys signed it" in reasons(held(asked, one))
    assert held(asked, replace(one, signed_by=("ab" * 32,))).passed


def test_waived_checks() -> None:
    """Read by their status alone, so that a waiver is let through only where the policy says so."""
    one = certificate()
    assert one.statement is not None
    told = one.statement.predicate.bi_harness
    waived = told.model_copy(update={"checks": (told.checks[0], result("waived", "spread"))})
    predicate = one.statement.predicate.model_copy(update={"bi_harness": waived})
    held_waived = replace(one, statement=one.statement.model_copy(update={"predicate": predicate}))
    found = held(policy(), held_waived)
    assert [r.state for r in found.requirements] == ["failed"]
    assert "was waived, which the policy does not allow" in reasons(found)
    found = held(policy(allow_waivers=True), held_waived)
    assert "does not say until when" in reasons(found), "a waiver without an end is none"


def test_required_equality_across_sizes() -> None:
    other = f"{UNIT.replace('dp1', 'dp2')}/core"
    big = result(cell=other).model_copy(
        update={"evidence": result().evidence.model_copy(update={"digest": "sha256:" + "ef" * 32})}  # type: ignore[union-attr]
    )
    plan = (planned(), planned(cell=other))
    found = held(policy(), certificate(sound(result(), big, plan=plan), plan=plan))
    assert [r.state for r in found.requirements] == ["failed"]
    assert "has other bits on" in reasons(found)


def test_cells_that_are_no_cells() -> None:
    for cell in ("", "a/b", CELL.replace("tp1-dp1", "tpx"), CELL.replace("cpu/", "h200/")):
        plan = (planned(cell=cell),)
        found = held(policy(), certificate(sound(result(cell=cell), plan=plan), plan=plan))
        assert [r.state for r in found.requirements] == ["unmet"]


def test_an_empty_policy_is_none() -> None:
    empty = Policy.model_construct(requires=(), vllm="", schema_="bi-harness/policy/1")
    assert not held(empty, certificate()).passed


@given(st.lists(journals(), max_size=3))
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_it_opens_only_for_a_certified_run_and_no_failing_one(runs: list[list[Event]]) -> None:
    seen = []
    for events in runs:
        try:
            statement = build(events, JOURNAL)
        except UsageError:
            continue
        folder = Folder("x", {CERTIFICATE: statement.to_json().encode()}, whole=False)
        seen.append(examine(folder, [], recompute()))
    found = held(policy(allow_dirty=True, allow_skips=True), *seen)
    if found.passed:
        told = [one.statement.predicate.bi_harness for one in seen if one.statement is not None]
        mine = [[c for c in t.checks if c.cell == CELL] for t in told]
        assert any(
            t.verdict == "CERTIFIED" and any(c.status == "pass" for c in checks)
            for t, checks in zip(told, mine, strict=True)
        )
        assert not any(c.status in ("fail", "waived") for checks in mine for c in checks)
        assert all(one.genuine for one in seen)


@given(st.lists(journals(), max_size=3), st.integers(0, 3), st.sampled_from(["0.32.0", "0.32.1rc1", "main"]))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_failing_certificate_in_any_place_fails_the_requirement(
    runs: list[list[Event]], place: int, vllm: str
) -> None:
    seen = []
    for events in runs:
        try:
            statement = build(events, JOURNAL)
        except UsageError:
            continue
        folder = Folder("x", {CERTIFICATE: statement.to_json().encode()}, whole=False)
        seen.append(examine(folder, [], recompute()))
    seen.insert(place, certificate(of_release(sound(result("fail")), vllm), place="red"))
    found = held(policy(allow_dirty=True, allow_skips=True, allow_waivers=True), *seen)
    assert [r.state for r in found.requirements] == ["failed"]
    assert found.exit_code == ExitCode.NOT_CERTIFIED


DEFAULT_UNIT = "cpu/tiny/CPU_ATTN/tp1-dp1/default"
COMPILE_UNIT = "cpu/tiny/CPU_ATTN/tp1-dp1/compile"
COMPILE_NEEDS = {**NEEDS, "modes": "compile"}


def left_to_default(*checks: str, unit: str = COMPILE_UNIT, rule: str = SAME_AS_DEFAULT) -> PlannedChecks:
    """A cell that was skipped, since default is the same there."""
    return planned(
        *checks,
        cell=f"{unit}/core",
        unit=unit,
        rule=rule,
        reason="default is compile here.",
        source="vLLM x.py",
    )


def in_default(status: Status = "pass", check: str = "alone", **changes: Any) -> CheckResult:
    return result(status, check, f"{DEFAULT_UNIT}/core", **changes)


def with_default(*results: CheckResult, left: tuple[PlannedChecks, ...] = ()) -> list[Event]:
    """A run of a default cell; ``left`` are cells that were left to it."""
    cell = f"{DEFAULT_UNIT}/core"
    plan = (
        planned(*(one.check for one in results), cell=cell, unit=DEFAULT_UNIT),
        *(left or (left_to_default(*(one.check for one in results)),)),
    )
    body: list[Event] = [
        UnitStarted(time=TIME, unit=DEFAULT_UNIT),
        ready("treatment", DEFAULT_UNIT),
        ready("control", DEFAULT_UNIT),
    ]
    for one in results:
        body += [CheckStarted(time=TIME, cell=cell, check=one.check), finished(one)]
    return [started(*plan), *body, ended(unit=DEFAULT_UNIT), end()]


def requirement(events: list[Event], needs: dict[str, Any] = COMPILE_NEEDS, **more: Any) -> RequirementSeen:
    (found,) = held(policy(needs, **more), certificate(events)).requirements
    return found


def test_default_cell_meets_a_requirement_for_the_mode_that_was_left_to_it() -> None:
    events = with_default(in_default())
    found = requirement(events)
    assert (found.state, found.met_by) == ("met", ("a",)), found.why
    assert requirement(events, {**NEEDS, "modes": "default"}).state == "met"
    # No skip of a rule: the checks did run.
    assert requirement(events, allow_skips=False).state == "met"
    # Another mode did not.
    assert requirement(events).id == "cpu/tiny/*/*/compile/core"
    assert requirement(events, {**NEEDS, "modes": "eager"}).state == "unmet"


def test_failing_default_cell_fails_the_requirement_for_the_mode_that_was_left_to_it() -> None:
    found = requirement(with_default(in_default("fail")))
    assert found.state == "failed"
    assert f"alone failed on {DEFAULT_UNIT}/core" in found.why[0]


@pytest.mark.parametrize("status", ["error", "inconclusive"])
def test_default_cell_without_an_answer_leaves_the_requirement_inconclusive(status: Status) -> None:
    assert requirement(with_default(in_default(status))).state == "inconclusive"


def test_steps_of_the_default_cell_count() -> None:
    events = with_default(in_default())
    assert requirement(events, min_steps=16).state == "met"
    found = requirement(events, min_steps=17)
    assert (found.state, "16 steps were compared, and 17 are asked for" in found.why[0]) == ("unmet", True)


def test_mode_that_was_left_to_a_cell_that_is_not_there_is_not_met() -> None:
    elsewhere = left_to_default("alone", unit=COMPILE_UNIT.replace("tp1", "tp2"))
    found = requirement(with_default(in_default(), left=(elsewhere,)), allow_skips=False)
    assert found.state == "unmet"
    assert "skipped by the rule same-as-default" in found.why[0]
    # A skip that is allowed is no pass.
    found = requirement(with_default(in_default(), left=(elsewhere,)), allow_skips=True)
    assert (found.state, "no check of it passed" in found.why[0]) == ("unmet", True)


def test_check_that_the_default_cell_lacks_is_not_met() -> None:
    events = with_default(in_default(), left=(left_to_default("alone", "spread"),))
    found = requirement(events)
    assert found.state == "unmet"
    assert "spread was skipped by the rule same-as-default" in found.why[0]
    assert requirement(events, {**COMPILE_NEEDS, "checks": ["alone"]}).state == "met"


def test_cell_that_another_rule_skipped_is_not_met_by_default() -> None:
    events = with_default(in_default(), left=(left_to_default("alone", rule="eager-only"),))
    found = requirement(events, allow_skips=True)
    assert (found.state, "no check of it passed" in found.why[0]) == ("unmet", True)


@given(st.text(max_size=30))
def test_no_cell_id_breaks_the_look_for_the_default_cell(cell: str) -> None:
    strange = planned("alone", cell=cell, unit=cell, rule=SAME_AS_DEFAULT, reason="x", source="y")
    events = with_default(in_default(), left=(left_to_default("alone"), strange))
    assert requirement(events).state == "met"
