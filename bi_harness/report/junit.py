"""``junit.xml``: the checks as test cases, for the viewers that CI systems have.

JUnit knows three ways not to pass. ``fail`` and ``inconclusive`` are failures (told apart by their type),
since a viewer must not show green for what was not shown; ``skip`` and ``waived`` are skipped: the one state
that no viewer counts as passed and that does not turn a step red which the verdict lets through.
"""

from __future__ import annotations

from typing import Any
from xml.etree import ElementTree

from junitparser import Error, Failure, JUnitXml, Properties, Property, Skipped, TestCase, TestSuite

from bi_harness.certificate.records import CheckResult, Evidence
from bi_harness.certificate.statement import HarnessResult, Statement
from bi_harness.report import facts
from bi_harness.report.execution_view import execution_label
from bi_harness.report.findings import control_sentence, facts_sentence, figures_sentence, where_sentence
from bi_harness.report.reproduce import reproduce_command
from bi_harness.report.text import scalar, xml_text
from bi_harness.report.waivers_view import waiver_sentence

NAME_LIMIT = 500


def render_junit(statement: Statement) -> bytes:
    """The XML, in UTF-8, a suite a cell and a case a check."""
    result = statement.predicate.bi_harness
    document = JUnitXml(name=_name(f"bi-harness {facts.device_id(statement)}"))
    by_cell: dict[str, list[CheckResult]] = {}
    for check in result.checks:
        by_cell.setdefault(check.cell, []).append(check)
    for cell, checks in by_cell.items():
        suite = _suite(statement, cell)
        for check in checks:
            suite.add_testcase(_case(statement, check))
        document.add_testsuite(suite)
    if looks_green(result):
        document.add_testsuite(_verdict_suite(statement))
    document.update_statistics()
    return _bytes(document)


def _bytes(document: JUnitXml) -> bytes:
    # junitparser writes with lxml where that is installed, and spells the same document otherwise: written
    # by the standard library, a journal gives the same bytes on every host.
    root: Any = document._elem
    if not isinstance(root, ElementTree.Element):
        root = ElementTree.fromstring(document.tostring())  # noqa: S314 - our own document
    body: bytes = ElementTree.tostring(root, encoding="utf-8")
    return b"<?xml version='1.0' encoding='utf-8'?>\n" + body + b"\n"


def _name(value: str) -> str:
    return xml_text(value, NAME_LIMIT) or "(unnamed)"


def _suite(statement: Statement, name: str) -> TestSuite:
    result = statement.predicate.bi_harness
    suite = TestSuite(_name(name))
    suite.timestamp = xml_text(result.started, 64)
    suite.add_property("device", _name(facts.device_id(statement)))
    suite.add_property("vllm", _name(facts.vllm_version(statement)))
    suite.add_property("verdict", result.verdict)
    if result.scope.endpoint is not None or facts.warned(statement):
        suite.add_property("verdict_line", xml_text(facts.verdict_line(statement)))
    suite.add_property("run_id", _name(result.run_id))
    suite.add_property("scope", xml_text(facts.scope_label(statement)))
    suite.add_property("weights", xml_text(facts.weights_label(statement)))
    if execution := execution_label(statement):
        suite.add_property("execution", xml_text(execution))
    return suite


def _case(statement: Statement, check: CheckResult) -> TestCase:
    # A negative time is not legal; a check that never started takes none.
    case = TestCase(_name(check.check), classname=_name(check.cell), time=max(0.0, check.duration_s or 0.0))
    properties = Properties()
    for name, value in _properties(check):
        properties.add_property(Property(name, value))
    case.append(properties)
    message = xml_text(check.reason, 1_000)
    if check.status in ("fail", "inconclusive"):
        outcome: Failure | Error | Skipped = Failure(message or check.status, check.status)
    elif check.status == "error":
        outcome = Error(message or "error", "error")
    elif check.status == "waived":
        outcome = Skipped(f"waived: not passed: {message}", "waived")
    elif check.status == "skip":
        rule = xml_text(check.rule or "", 200)
        outcome = Skipped(f"{rule}: {message}" if rule else message, "skip")
    else:
        outcome = Skipped()
    if check.status != "pass":
        if check.status != "skip":
            outcome.text = details(statement, check)
        case.result = [outcome]
    return case


def details(statement: Statement, check: CheckResult) -> str:
    """A check's story, a line each: why, what was compared, where it differs first, how to run it again."""
    lines = [waiver_sentence(check.waiver)] if check.waiver is not None else []
    lines.append(check.reason)
    if check.evidence is not None:
        lines.append(figures_sentence(check.evidence))
        if check.evidence.first_divergence is not None:
            lines.append(where_sentence(check.evidence.first_divergence))
    lines.append(facts_sentence(check))
    if check.control is not None:
        lines.append(control_sentence(check.control, check.planted_control))
    if check.log:
        lines.append(f"Log: {check.log}")
    lines.append(f"Run it again: {reproduce_command(statement, check)}")
    return "\n".join(text for text in (xml_text(line) for line in lines) if text)


def _properties(check: CheckResult) -> list[tuple[str, str]]:
    found = [("status", str(check.status))]
    if check.rule:
        found.append(("rule", xml_text(check.rule, 200)))
    if check.log:
        found.append(("log", xml_text(check.log, 500)))
    if check.waiver is not None:
        found += [
            (f"waiver.{name}", xml_text(getattr(check.waiver, name), 500))
            for name in ("reason", "link", "owner", "expires")
        ]
    found += [(f"fact.{xml_text(fact.name, 200)}", xml_text(fact.found, 500)) for fact in check.facts]
    for prefix, evidence in (
        ("", check.evidence),
        ("control.", check.control),
        ("planted_control.", check.planted_evidence),
    ):
        if evidence is not None:
            found += [(f"{prefix}{name}", value) for name, value in _evidence(evidence)]
    return found


def _evidence(evidence: Evidence) -> list[tuple[str, str]]:
    found = [
        (name, scalar(getattr(evidence, name)))
        for name in (
            "prompts",
            "steps",
            "values",
            "differing_prompts",
            "differing_steps",
            "differing_values",
            "max_ulp",
            "max_abs",
            "upper95",
            "digest",
            "reference_digest",
        )
    ]
    first = evidence.first_divergence
    if first is not None:
        where = (
            f"prompt {scalar(first.prompt)} step {scalar(first.step)} rank {scalar(first.rank)} "
            f"batch_size {scalar(first.batch_size)} {first.reference_bits} {first.observed_bits}"
        )
        found.append(("first_divergence", where))
    return found


def looks_green(result: HarnessResult) -> bool:
    """Whether no case says that the verdict is not CERTIFIED: cut off early, or nothing to show for it."""
    bad = ("fail", "error", "inconclusive")
    return result.verdict != "CERTIFIED" and not any(check.status in bad for check in result.checks)


def _verdict_suite(statement: Statement) -> TestSuite:
    """One failing case, so that a viewer that reads nothing else does not show a green run."""
    result = statement.predicate.bi_harness
    suite = _suite(statement, "bi-harness")
    case = TestCase("verdict", classname="bi-harness", time=0.0)
    why = xml_text(result.why, 1_000) or result.verdict
    # A shard whose part passed is no pass, and no red step either: see its exit code.
    passed = result.shard is not None and result.shard.passed
    case.result = [Skipped(why, "shard") if passed else Failure(why, result.verdict)]
    suite.add_testcase(case)
    return suite
