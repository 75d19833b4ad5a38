"""``test-engine.json``, as Buildkite's documentation describes it."""

from __future__ import annotations

import json
import uuid
from typing import Any

from hypothesis import HealthCheck, given, settings

from bi_harness.certificate.build import build
from bi_harness.certificate.events import EngineReady, RunStarted
from bi_harness.certificate.statement import EffectiveArm, Statement
from bi_harness.report.testengine import NAME, RESULTS, render_test_engine
from tests.certificate.journals import CELL, UNIT, result, sound

from . import samples
from .strategies import statements


def cases(files: dict[str, bytes]) -> list[dict[str, Any]]:
    return [case for data in files.values() for case in json.loads(data)]


def check_form(case: dict[str, Any]) -> None:
    """Field by field, of the page "Importing JSON"."""
    assert set(case) <= {
        *("id", "scope", "name", "location", "file_name", "result", "failure_reason", "failure_expanded"),
        *("history", "tags"),
    }
    uuid.UUID(case["id"])
    assert case["name"]
    assert case["result"] in ("passed", "failed", "skipped")
    assert ("failure_reason" in case) == (case["result"] == "failed")
    for expanded in case.get("failure_expanded", ()):
        assert set(expanded) == {"expanded", "backtrace"}
        assert all(isinstance(line, str) for lines in expanded.values() for line in lines)
    assert all(isinstance(value, str) and value for value in case.get("tags", {}).values())
    history = case["history"]
    assert set(history) == {"section", "start_at", "end_at", "duration", "children"}
    assert history["duration"] >= 0
    for span in history["children"]:
        assert span["section"] == "annotation"  # One of http, sql, sleep and annotation.
        assert set(span["detail"]) == {"content"}
        assert span["duration"] >= 0


def test_results_and_times() -> None:
    events = sound(result("fail"))
    statement = build(events, "0" * 64)
    [case] = cases(render_test_engine(statement, events))
    check_form(case)
    assert (case["scope"], case["name"], case["result"]) == (CELL, "alone", "failed")
    assert case["location"] == case["file_name"] == "suites/core"
    assert case["failure_reason"] == "because fail"
    assert any("bi-harness run" in line for line in case["failure_expanded"][0]["expanded"])
    assert case["history"]["duration"] == 1.5
    assert case["history"]["end_at"] == case["history"]["start_at"] + 1.5
    assert case["tags"]["status"] == "fail"


def test_engine_starts_are_spans_of_the_check_that_waited_for_them() -> None:
    events = sound(result(duration_s=30.0))
    start = next(event for event in events if isinstance(event, RunStarted)).time
    assert start.endswith("00.000Z")

    def ready(unit: str, second: int) -> EngineReady:
        arm = EffectiveArm(unit=unit, arm="control", config={}, start_s=4.0, engine="lora")
        return EngineReady(time=start.replace("00.000Z", f"{second:02d}.000Z"), arm=arm, provenance={})

    more = [
        *events,
        ready(UNIT, 10),
        ready(f"{UNIT}/else", 11),
        ready(UNIT.replace("tiny", "tin"), 12),
        ready(UNIT, 50),
    ]
    [case] = cases(render_test_engine(build(events, "0" * 64), more))
    [span] = case["history"]["children"]
    assert (span["start_at"], span["end_at"], span["duration"]) == (6.0, 10.0, 4.0)
    assert span["detail"]["content"] == f"lora engine started: control of {UNIT}"


def test_only_a_pass_is_passed() -> None:
    assert [status for status, told in RESULTS.items() if told == "passed"] == ["pass"]
    assert {RESULTS["fail"], RESULTS["error"], RESULTS["inconclusive"]} == {"failed"}


def test_a_run_that_was_cut_off_does_not_look_green() -> None:
    statement = samples.statement("INCONCLUSIVE", (samples.check(f"{UNIT}/core", "a"),), interrupted=True)
    assert "failed" in [case["result"] for case in cases(render_test_engine(statement, ()))]


def test_large_runs_are_several_files() -> None:
    checks = tuple(samples.check(f"{UNIT}/core", f"c{i}") for i in range(7))
    files = render_test_engine(samples.statement("CERTIFIED", checks), (), most=3)
    assert list(files) == [NAME, "test-engine-2.json", "test-engine-3.json"]
    assert [len(json.loads(data)) for data in files.values()] == [3, 3, 1]
    assert len({case["id"] for case in cases(files)}) == 7
    assert render_test_engine(samples.statement("CERTIFIED", ()), ()) == {NAME: b"[]\n"}


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(statement=statements())
def test_whatever_the_certificate_holds(statement: Statement) -> None:
    found = cases(render_test_engine(statement, ()))
    assert len(found) >= len(statement.predicate.bi_harness.checks)
    for case in found:
        check_form(case)
    assert render_test_engine(statement, ()) == render_test_engine(statement, ())
