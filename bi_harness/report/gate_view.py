"""What the gate says: Markdown for a release's page, JUnit for a CI system, lines for a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any
from xml.etree import ElementTree

from junitparser import Failure, JUnitXml, TestCase, TestSuite

from bi_harness.certificate.gate import GateResult, RequirementSeen
from bi_harness.report.markdown import code, escape
from bi_harness.report.text import clean, plural, xml_text

_MARKS = {"met": "✅", "failed": "❌", "unmet": "❌", "inconclusive": "❔"}
_WORDS = {"met": "✓ met", "failed": "✗ FAILED", "unmet": "✗ unmet", "inconclusive": "? inconclusive"}


def headline(result: GateResult) -> str:
    """One sentence: open or closed, and why."""
    met = sum(requirement.state == "met" for requirement in result.requirements)
    of = f"{met} of {plural(len(result.requirements), 'requirement')} met"
    if result.passed:
        return f"The gate is open: {of}"
    not_genuine, not_read = len(result.problems) - len(result.unread), len(result.unread)
    more = f", {plural(not_genuine, 'certificate')} not genuine" if not_genuine else ""
    more += f", {plural(not_read, 'place')} not read" if not_read else ""
    return f"The gate is CLOSED: {of}{more}"


def _not_genuine(result: GateResult) -> list[str]:
    return [problem for problem in result.problems if problem not in result.unread]


def gate_lines(result: GateResult) -> Iterator[str]:
    """For a terminal, without colour; control characters are gone."""
    for requirement in result.requirements:
        yield f"{_WORDS[requirement.state]}  {clean(requirement.id, 400)}"
        if requirement.met_by:
            yield f"    by {clean(', '.join(requirement.met_by), 600)}"
        yield from (f"    {clean(why, 600)}" for why in requirement.why)
        if requirement.would_meet:
            yield f"    What would meet it: {clean(requirement.would_meet, 600)}"
    for certificate in result.certificates:
        if not certificate.counts:
            why = clean("; ".join(certificate.why), 900)
            yield f"- {clean(certificate.place, 300)} does not count: {why}"
    for problem in _not_genuine(result):
        yield f"✗ {clean(problem, 900)}"
    for place in result.unread:
        yield f"✗ not read: {clean(place, 900)}"
    yield headline(result)


def gate_markdown(result: GateResult) -> str:
    """The same as a page."""
    lines = [f"## {escape(headline(result))}", ""]
    lines += [f"Policy {code(result.policy or 'unknown')}, judged at {escape(result.now)}.", ""]
    lines += ["| | Requirement | By, or why not |", "| --- | --- | --- |"]
    for requirement in result.requirements:
        told = requirement.met_by or requirement.why
        shown = "<br>".join(escape(one, 600) for one in told)
        if requirement.would_meet:
            shown += f"<br>What would meet it: {escape(requirement.would_meet, 600)}"
        lines.append(f"| {_MARKS[requirement.state]} | {escape(requirement.id, 400)} | {shown} |")
    for title, problems in (("Not genuine", _not_genuine(result)), ("Not read", result.unread)):
        if problems:
            lines += ["", f"### {title}", ""]
            lines += [f"- {escape(problem, 900)}" for problem in problems]
    lines += [
        "",
        "### Certificates",
        "",
        "| | Certificate | Says | vLLM | Counts |",
        "| --- | --- | --- | --- | --- |",
    ]
    for one in result.certificates:
        why = "yes" if one.counts else "; ".join(one.why)
        lines.append(
            f"| {'✅' if one.counts else '➖'} | {escape(one.place, 300)} | {escape(one.verdict or '—')} | "
            f"{escape(one.vllm or '—')} | {escape(why, 900)} |"
        )
    if not result.certificates:
        lines.append("| | none was given | | | |")
    return "\n".join(lines) + "\n"


def gate_junit(result: GateResult) -> bytes:
    """A case for each requirement, one for the certificates being genuine, and one for places that were not
    read where there are any. Whatever closes the gate is a failure."""
    document = JUnitXml(name="bi-harness gate")
    suite = TestSuite("bi-harness gate")
    suite.timestamp = xml_text(result.now, 64)
    for requirement in result.requirements:
        suite.add_testcase(_case(requirement))
    genuine = TestCase("certificates are genuine", classname="gate", time=0.0)
    if not_genuine := _not_genuine(result):
        genuine.result = [_failure("not genuine", not_genuine)]
    elif not result.certificates:
        genuine.result = [Failure("no certificate was given", "missing")]
    suite.add_testcase(genuine)
    if result.unread:
        read = TestCase("every place was read", classname="gate", time=0.0)
        read.result = [_failure("not read", result.unread)]
        suite.add_testcase(read)
    document.add_testsuite(suite)
    document.update_statistics()
    rendered: Any = document.tostring()
    root = ElementTree.fromstring(rendered)  # noqa: S314 - our own document
    body: bytes = ElementTree.tostring(root, encoding="utf-8")
    return b"<?xml version='1.0' encoding='utf-8'?>\n" + body + b"\n"


def _failure(kind: str, problems: Sequence[str]) -> Failure:
    failure = Failure(xml_text(problems[0], 1_000), kind)
    failure.text = xml_text("\n".join(problems))
    return failure


def _case(requirement: RequirementSeen) -> TestCase:
    case = TestCase(xml_text(requirement.id, 500) or "(unnamed)", classname="gate.requirement", time=0.0)
    if requirement.state != "met":
        first = requirement.why[0] if requirement.why else requirement.state
        failure = Failure(xml_text(first, 1_000), requirement.state)
        failure.text = xml_text(
            "\n".join([*requirement.why, f"What would meet it: {requirement.would_meet}"])
        )
        case.result = [failure]
    return case
