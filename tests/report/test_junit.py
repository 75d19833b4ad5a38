from __future__ import annotations

from xml.etree import ElementTree

import pytest

from bi_harness.report.junit import render_junit

from . import samples


def parsed(name: str) -> ElementTree.Element:
    return ElementTree.fromstring(render_junit(samples.ALL[name]()))


@pytest.mark.parametrize("name", samples.ALL)
def test_it_is_xml_with_a_case_a_check(name: str) -> None:
    root = parsed(name)
    planned = samples.ALL[name]().predicate.bi_harness.checks
    cases = [case for case in root.iter("testcase") if case.get("classname") != "bi-harness"]
    assert len(cases) == len(planned)
    assert all(suite.get("timestamp") is not None for suite in root.iter("testsuite"))


def test_statuses_become_the_outcomes_that_viewers_know() -> None:
    root = parsed("mixed")
    assert (root.get("tests"), root.get("failures"), root.get("errors"), root.get("skipped")) == (
        "8",
        "1",
        "2",
        "3",
    )
    failure = root.find(".//failure")
    assert failure is not None
    assert failure.get("type") == "inconclusive"
    messages = [skipped.get("message") or "" for skipped in root.iter("skipped")]
    assert sum(message.startswith("waived: ") for message in messages) == 1
    assert sum(message.startswith("eagle-dp-eager-below-sm90: ") for message in messages) == 2


def test_a_failure_carries_its_evidence() -> None:
    root = parsed("failing_h200")
    case = next(case for case in root.iter("testcase") if case.find("failure") is not None)
    found = {item.get("name"): item.get("value") for item in case.iter("property")}
    assert found["differing_prompts"] == "8"
    assert found["control.differing_prompts"] == "31"
    assert "0xbf9e0651 0xbf9e0654" in (found["first_divergence"] or "")
    failure = case.find("failure")
    assert failure is not None
    assert "Run it again: bi-harness run --device h200" in (failure.text or "")
    assert failure.get("type") == "fail"


def test_times_are_those_of_the_statement() -> None:
    root = parsed("certified_cpu")
    assert {case.get("time") for case in root.iter("testcase")} == {"14.25"}
    assert {suite.get("timestamp") for suite in root.iter("testsuite")} == {"2026-01-14T09:15:00+00:00"}


def test_a_run_that_certifies_nothing_never_looks_green() -> None:
    cut_off = samples.statement("INCONCLUSIVE", (samples.check("a", "b"),), why="The run was cut off.")
    root = ElementTree.fromstring(render_junit(cut_off))
    assert root.get("failures") == "1"
    assert parsed("empty").get("failures") == "1"
    assert parsed("certified_cpu").get("failures") == "0"
