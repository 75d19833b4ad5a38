"""What a planted fault's run says: caught, missed, or no answer at all."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from bi_harness.certificate.build import build
from bi_harness.certificate.power import (
    FaultResult,
    PowerCheck,
    SelfTest,
    check_selftest,
    failed,
    first_difference,
    in_module,
    localization_score,
    power_of,
    score,
    without_answer,
)
from bi_harness.certificate.records import BatchReached, CheckResult, Needed
from bi_harness.certificate.statement import HarnessResult, Statement
from tests.certificate.journals import (
    DIGEST,
    DIVERGENCE,
    JOURNAL,
    batches,
    end,
    ended,
    evidence,
    nothing_compared,
    planned,
    skipped,
    started,
)
from tests.certificate.selftests import checked, engine, fault_result, missed, ran, tried

FAULT = "norm-256"


def unformed(**changes: Any) -> CheckResult:
    return checked(evidence=evidence(batches=batches((1, 1), (2, 1))), **changes)


@pytest.mark.parametrize("fault", [FAULT, None])
@pytest.mark.parametrize("status", ["pass", "fail", "inconclusive"])
def test_a_run_that_compared_what_it_should_is_an_answer(fault: str | None, status: str) -> None:
    assert without_answer(ran(checked(status), fault=fault), fault) == ""


NO_ANSWER: dict[str, tuple[Statement, str]] = {
    "no fault": (ran(), "the treatment engine of cpu/tiny/CPU_ATTN/tp1-dp1/eager has no fault planted"),
    "another fault": (ran(fault="one-ulp"), f"has one-ulp planted, not {FAULT}"),
    "a fault of which it is a part": (ran(fault=f"{FAULT}-more"), f"has {FAULT}-more planted"),
    "another fault, and a difference": (ran(checked("fail"), fault="one-ulp"), "has one-ulp planted"),
    "one engine of two without it": (ran(engines=[engine(FAULT), engine()]), "has no fault planted"),
    "one engine of two with another": (ran(engines=[engine(FAULT), engine("one-ulp")]), "has one-ulp"),
    "a control that does not have it": (
        ran(engines=[engine(FAULT), engine(arm="control")]),
        "the control engine",
    ),
    "no engine": (ran(checked("error", reason="out of memory"), engines=[]), "no engine started: out of"),
    "no engine and equality": (ran(engines=[]), "no engine started"),
    "no engine and a difference": (ran(checked("fail"), engines=[]), "no engine started"),
    "interrupted": (ran(fault=FAULT, interrupted=True), "it was interrupted"),
    "interrupted with a difference": (ran(checked("fail"), fault=FAULT, interrupted=True), "interrupted"),
    "cut off": (build([started(), engine(FAULT)], JOURNAL), "it was interrupted"),
    "an error": (ran(checked("error", reason="it died"), fault=FAULT), "alone: error: it died"),
    "an error after a comparison": (
        ran(checked("error", reason="it died", evidence=evidence()), fault=FAULT),
        "alone: error: it died",
    ),
    "an error beside a pass": (ran(checked("pass"), checked("error", "b"), fault=FAULT), "b: error"),
    "an error beside a difference": (ran(checked("fail"), checked("error", "b"), fault=FAULT), "b: error"),
    "a check that left no result": (ran(fault=FAULT, checks=("alone", "lost")), "lost: error: "),
    "a check that skipped itself": (ran(checked("skip", reason="shy"), fault=FAULT), "alone: error: "),
    "a check that compared nothing": (
        ran(checked(evidence=None, reason="nothing"), fault=FAULT),
        "alone: inconclusive: nothing",
    ),
    "a pass without evidence": (ran(checked("pass", evidence=None), fault=FAULT), "alone: pass"),
    "no values": (ran(checked(evidence=nothing_compared()), fault=FAULT), "alone: nothing was compared"),
    "a batch that never formed": (ran(unformed(), fault=FAULT), "alone: the batch of 2 never formed"),
    "a pass of a batch that never formed": (ran(unformed(status="pass"), fault=FAULT), "never formed"),
    "what was needed did not happen": (
        ran(
            checked(evidence=evidence(needed=(Needed(name="preemptions", needed=1, reached=0),))), fault=FAULT
        ),
        "alone: preemptions: 0",
    ),
}


@pytest.mark.parametrize(("statement", "why"), NO_ANSWER.values(), ids=NO_ANSWER.keys())
def test_what_is_no_answer(statement: Statement, why: str) -> None:
    assert why in without_answer(statement, FAULT)


def test_a_clean_run_with_a_fault_is_no_answer() -> None:
    for planted in (FAULT, "not-of-the-registry"):
        assert f"has {planted} planted, not none" in without_answer(ran(fault=planted), None)
    assert "has norm-256 planted" in without_answer(ran(engines=[engine(), engine(FAULT)]), None)


def test_a_run_whose_every_cell_is_skipped_is_no_answer() -> None:
    assert without_answer(build([started(skipped()), end()], JOURNAL), None).startswith("no engine started")
    events = [started(skipped()), engine(FAULT), ended(), end()]
    assert without_answer(build(events, JOURNAL), FAULT) == "alone: skip: Too few heads. [PR 1]"


def test_what_a_rule_skips_beside_checks_that_answer_takes_no_answer_away() -> None:
    skipped_too = CheckResult(cell="cpu/x", check="alone", status="skip", rule="heads", reason="Too few.")
    by_itself = skipped_too.model_copy(update={"rule": None})
    for status in ("pass", "fail", "inconclusive"):
        answered = ran(checked(status), fault=FAULT)
        ours = answered.predicate.bi_harness

        def beside(
            check: CheckResult, answered: Statement = answered, ours: HarnessResult = ours
        ) -> Statement:
            more = ours.model_copy(update={"checks": (*ours.checks, check)})
            predicate = answered.predicate.model_copy(update={"bi_harness": more})
            return answered.model_copy(update={"predicate": predicate})

        assert without_answer(beside(skipped_too), FAULT) == ""
        assert "skip" in without_answer(beside(by_itself), FAULT), "no rule says why"


def test_a_run_that_planned_nothing_has_no_answer() -> None:
    said = without_answer(build([started(planned().model_copy(update={"checks": ()})), end()], JOURNAL), None)
    assert said == "no engine started: no check was planned"


def test_engines_alone_are_no_answer() -> None:
    nothing = planned().model_copy(update={"checks": ()})
    assert without_answer(build([started(nothing), engine(FAULT), ended(), end()], JOURNAL), FAULT)


def test_only_differences_are_failures() -> None:
    statement = ran(*(checked(s, s) for s in ("pass", "fail", "inconclusive", "error")), fault=FAULT)
    assert [check.check for check in failed(statement)] == ["fail"]
    assert failed(ran()) == []


def differing(
    arm: int | None, prompt: int, step: int, prompts: tuple[int, ...], check: str = "c"
) -> CheckResult:
    where = DIVERGENCE.model_copy(update={"arm": arm, "prompt": prompt, "step": step})
    return checked("fail", check, evidence=evidence(1, batches=arms(prompts), first_divergence=where))


def arms(prompts: tuple[int, ...]) -> tuple[BatchReached, ...]:
    alone = BatchReached(batch_size=1, prompts=9, steps=9, max_requests=1, max_tokens=9)
    return (alone, *(alone.model_copy(update={"batch_size": 2, "prompts": n}) for n in prompts))


def test_the_first_difference_counts_the_requests_before_it() -> None:
    assert first_difference([differing(1, 0, 7, (4, 4))]) == (1, 7), "the reference arm does not count"
    assert first_difference([differing(2, 3, 0, (5, 4))]) == (9, 0)
    equal = checked("pass", evidence=evidence(batches=arms((5, 4))))
    assert first_difference([equal, checked("error"), differing(1, 2, 1, (4,))]) == (12, 1)
    assert first_difference([differing(1, 2, 1, (4,)), differing(1, 0, 0, (4,))]) == (3, 1)


def test_without_a_difference_there_is_no_first_one() -> None:
    assert first_difference([]) is None
    assert first_difference([checked("error"), checked("pass"), checked("inconclusive")]) is None


def test_a_difference_that_no_place_is_known_of_is_passed_over() -> None:
    nowhere = checked("fail", evidence=evidence(1, batches=arms((4,)), first_divergence=None))
    assert first_difference([nowhere]) is None
    assert first_difference([nowhere, differing(1, 0, 2, (4,))]) == (5, 2)


def test_evidence_of_before_arms_were_told_apart_counts_from_the_first() -> None:
    assert first_difference([differing(None, 3, 1, (4, 4))]) == (4, 1)


@st.composite
def runs(draw: st.DrawFn) -> tuple[list[CheckResult], tuple[int, int] | None]:
    """Checks, and the first difference as found by walking over every request of theirs."""
    checks: list[CheckResult] = []
    expected: tuple[int, int] | None = None
    walked = 0
    for number in range(draw(st.integers(0, 5))):
        kind = draw(st.sampled_from(["equal", "differs", "error"]))
        prompts = tuple(draw(st.lists(st.integers(1, 5), min_size=1, max_size=4)))
        if kind == "error":
            checks.append(checked("error", f"c{number}"))
            continue
        if kind == "equal":
            checks.append(checked("pass", f"c{number}", evidence=evidence(batches=arms(prompts))))
            walked += sum(prompts)
            continue
        arm = draw(st.integers(1, len(prompts)))
        prompt, step = draw(st.integers(0, prompts[arm - 1] - 1)), draw(st.integers(0, 99))
        checks.append(differing(arm, prompt, step, prompts, f"c{number}"))
        for index, count in enumerate(prompts, start=1):
            for request in range(count):
                walked += 1
                if expected is None and (index, request) == (arm, prompt):
                    expected = walked, step
    return checks, expected


@given(runs())
def test_the_first_difference_is_the_first_that_a_walk_meets(
    run: tuple[list[CheckResult], tuple[int, int] | None],
) -> None:
    checks, expected = run
    found = first_difference(checks)
    assert found == expected
    compared = sum(b.prompts for c in checks if c.evidence for b in c.evidence.batches[1:])
    assert found is None or 1 <= found[0] <= compared
    assert (found is None) == (not any(c.status == "fail" for c in checks))
    # What runs after it does not move it.
    assert found is None or first_difference([*checks, *checks]) == found


def test_the_score_is_the_share_that_was_caught() -> None:
    assert score([]) is None
    assert score([missed()]) == 0
    assert score([fault_result(), missed()]) == 0.5
    assert score([fault_result(), missed(error="it died")]) == 0.5, "no answer is no catch"


def test_the_power_that_a_certificate_tells_of() -> None:
    result = tried(fault_result(), missed(), missed("x", error="no"), clean_runs=7, false_alarms=2)
    power = power_of(result, DIGEST)
    assert (power.faults, power.caught, power.clean_runs, power.false_alarms) == (3, 1, 7, 2)
    assert (power.suite, power.device, power.vllm) == ("batch_invariance", "cpu", "0.32.0")
    assert (power.measured, power.current) == (result.finished, True)
    assert not power_of(result, "sha256:" + "00" * 32).current


def test_a_selftest_goes_to_json_and_back() -> None:
    result = tried(fault_result(), missed(error="[red]x"), unsound=("clean-01: it was interrupted",))
    assert SelfTest.model_validate_json(result.to_json()) == result
    data = json.loads(result.to_json())
    assert data["schema"] == "bi-harness/selftest/1"
    design = {"id", "class", "caught", "checks", "first_request", "first_step", "module", "localized"}
    assert design <= set(data["faults"][0])
    assert (data["score"], data["false_alarms"], data["faults"][1]["module"]) == (0.5, 0, None)


@pytest.mark.parametrize(
    "change",
    [
        {"schema": "bi-harness/selftest/2"},
        {"score": 1.5},
        {"score": float("nan")},
        {"clean_runs": -1},
        {"suite_digest": "abc"},
        {"faults": [{"id": "x"}]},
        {"surprise": 1},
    ],
)
def test_what_is_no_selftest_is_refused(change: dict[str, Any]) -> None:
    good = tried(fault_result()).model_dump(by_alias=True)
    assert SelfTest.model_validate(good)
    with pytest.raises(ValidationError):
        SelfTest.model_validate({**good, **change})
    with pytest.raises(ValidationError):
        FaultResult.model_validate({**good["faults"][0], "first_request": -1})


@pytest.mark.parametrize(
    ("pattern", "module", "right"),
    [
        ("lm_head", "lm_head", True),
        ("lm_head", "model.lm_head", False),
        ("model.layers.*.self_attn.attn", "model.layers.3.self_attn.attn", True),
        ("model.layers.*.mlp.experts", "model.layers.0.mlp.experts.router", True),
        ("model.layers.*.{self_attn,mlp}.*_proj", "model.layers.0.mlp.down_proj", True),
        ("model.layers.*.{self_attn,mlp}.*_proj", "model.layers.0.self_attn.qkv_proj", True),
        ("model.layers.*.{self_attn,mlp}.*_proj", "model.layers.0.self_attn.attn", False),
        ("model.layers.*.{self_attn.o_proj,mlp.down_proj}", "model.layers.1.mlp.down_proj", True),
        ("model.layers.1.mlp.down_proj", "model.layers.11.mlp.down_proj", False),
        ("model.layers.*.input_layernorm", "", False),
        ("model.{norm,layers.*.{a_norm,b_norm}}", "model.layers.2.b_norm", True),
        ("model.{norm,layers.*.{a_norm,b_norm}}", "model.norm", True),
        ("model.{norm,layers.*.{a_norm,b_norm}}", "model.layers.2.c_norm", False),
    ],
)
def test_a_module_is_in_a_faults_pattern(pattern: str, module: str, right: bool) -> None:
    assert in_module(pattern, module) is right


def test_faults_are_scored_by_the_module_that_was_named() -> None:
    def traced(module: str | None, localized: str | None) -> FaultResult:
        return FaultResult.model_validate(
            {
                "id": "x",
                "class": "x",
                "source": "",
                "model": "tiny",
                "caught": True,
                "checks": ("a",),
                "first_request": 1,
                "first_step": 0,
                "module": module,
                "localized": localized,
            }
        )

    assert localization_score([traced("lm_head", "lm_head"), traced("lm_head", "model.norm")]) == 0.5
    assert localization_score([traced("lm_head", ""), traced("lm_head", "lm_head")]) == 0.5
    # What sits in no module, and what was not looked into, is no part of it.
    assert localization_score([traced(None, ""), traced("lm_head", None)]) is None
    assert traced(None, "").localized_right
    assert not traced(None, "lm_head").localized_right
    assert not traced("lm_head", None).localized_right


DIGEST_NOW = tried().suite_digest


def check(recorded: SelfTest | None, faults: Sequence[str] = ("norm-256", "one-ulp")) -> PowerCheck:
    return check_selftest("core", recorded, digest_now=DIGEST_NOW, faults=faults, clean_runs=20)


COMPLETE = tried(fault_result(), fault_result("one-ulp"))


def test_a_complete_current_selftest_has_no_problems() -> None:
    found = check(COMPLETE)
    assert (found.state, found.problems, found.untried) == ("current", (), ())
    assert (found.faults, found.caught, found.score) == (2, 2, 1.0)
    assert (found.clean_runs, found.false_alarms, found.vllm) == (20, 0, "0.32.0")


@pytest.mark.parametrize(
    ("recorded", "state", "problem"),
    [
        (None, "missing", "It has no recorded self-test; its faults are norm-256, one-ulp."),
        (
            COMPLETE.model_copy(update={"suite_digest": f"sha256:{'0' * 64}"}),
            "stale",
            "The suite has changed since its self-test.",
        ),
        (tried(fault_result()), "current", "The self-test does not have the faults one-ulp."),
        (tried(*COMPLETE.faults, fault_result("old")), "current", "The fault old no longer exists."),
        (tried(fault_result(), missed()), "current", "No check caught one-ulp."),
        (
            COMPLETE.model_copy(update={"unsound": ("clean-02: it died",)}),
            "current",
            "A clean run gave no answer: clean-02: it died.",
        ),
        (
            COMPLETE.model_copy(update={"clean_runs": 19}),
            "current",
            "It has 19 clean runs; 20 are required.",
        ),
        (
            COMPLETE.model_copy(update={"false_alarms": 1}),
            "current",
            "A check failed without a fault (false alarm).",
        ),
    ],
)
def test_a_selftest_that_does_not_hold_has_a_problem(
    recorded: SelfTest | None, state: str, problem: str
) -> None:
    found = check(recorded)
    assert (found.state, found.problems) == (state, (problem,))


def test_a_suite_without_faults_has_a_problem() -> None:
    for recorded in (None, COMPLETE):
        assert check(recorded, ()).problems == ("No planted fault is for this suite.",)
