"""A waived failure reads as one in every report, and a certificate with one never has the looks of a pass."""

from __future__ import annotations

import io
from xml.etree import ElementTree

import pyarrow.parquet as pq
import pytest
from rich.console import Console

from bi_harness.certificate.statement import Statement
from bi_harness.report import facts
from bi_harness.report.console import print_result
from bi_harness.report.html import render_html
from bi_harness.report.junit import render_junit
from bi_harness.report.markdown import render_markdown
from bi_harness.report.parquet import render_parquet

from . import samples
from .pages import Page

LINE = "CERTIFIED, 1 check waived: not passed"
WHOLE = (
    "Waived, not passed, to the end of 2026-03-01 (UTC). Owner: A. Reviewer. "
    "Reason: RMSNorm block size, fixed upstream. (https://example.org/pull/7)"
)


def screen(statement: Statement, width: int = 300) -> str:
    stream = io.StringIO()
    print_result(statement, Console(file=stream, width=width))
    return stream.getvalue()


def test_every_report_says_waived_with_all_that_the_waiver_says_and_the_evidence() -> None:
    statement = samples.waived_h200()
    assert facts.contradictions(statement) == ()
    page = Page(render_html(statement)).words
    markdown = render_markdown(statement).replace("&#8203;", "")
    for text in (page, screen(statement), markdown):
        assert LINE in text
        assert WHOLE in text
        assert "8 of 32 prompts differ between batch size 1 and 32." in text
        assert "0xbf9e0651 became 0xbf9e0654" in text or "0xbf9e0654" in text
        assert "With invariance off, 31 of 32 prompts differ" in text
        assert "1 waiver not in this run" in text
        assert "the first waiver ends on 2026-03-01" in text


def test_nothing_has_the_colours_of_a_pass() -> None:
    statement = samples.waived_h200()
    html = render_html(statement)
    assert f"<h1>{LINE}</h1>" in html
    assert '<div class="verdict v-certified">' not in html
    assert '<span class="seal" aria-hidden="true">≈</span>' in html
    assert render_markdown(statement).startswith(f"## 📝 {LINE}")
    assert "v-certified" in render_html(samples.certified_cpu()), "which others keep"


def test_junit_counts_it_as_skipped_and_tells_why() -> None:
    root = ElementTree.fromstring(render_junit(samples.waived_h200()))
    assert (root.get("tests"), root.get("failures"), root.get("skipped")) == ("2", "0", "1")
    (case,) = [case for case in root.iter("testcase") if case.find("skipped") is not None]
    skipped = case.find("skipped")
    assert skipped is not None
    assert (skipped.get("message") or "").startswith("waived: not passed: 8 of 32 prompts differ")
    assert WHOLE in (skipped.text or "")
    told = {item.get("name"): item.get("value") for item in case.iter("property")}
    assert told["status"] == "waived"
    assert (told["waiver.owner"], told["waiver.expires"]) == ("A. Reviewer", "2026-03-01")
    assert told["waiver.link"] == "https://example.org/pull/7"
    assert told["differing_prompts"] == "8"
    suite = {item.get("name"): item.get("value") for item in root.iter("property")}
    assert suite["verdict_line"] == LINE


def test_parquet_has_it_in_columns() -> None:
    rows = pq.read_table(io.BytesIO(render_parquet(samples.waived_h200()))).to_pylist()
    assert [(row["status"], row["waiver_owner"], row["waiver_expires"]) for row in rows] == [
        ("pass", None, None),
        ("waived", "A. Reviewer", "2026-03-01"),
    ]
    assert rows[1]["waiver_reason"] == "RMSNorm block size, fixed upstream."
    assert rows[1]["waiver_link"] == "https://example.org/pull/7"
    assert rows[1]["differing_prompts"] == 8


def test_generic_readers_see_a_warning() -> None:
    predicate = samples.waived_h200().predicate
    assert predicate.result == "WARNED"
    assert len(predicate.passedTests) == len(predicate.warnedTests) == 1


def test_waivers_that_must_go_are_named_everywhere() -> None:
    statement = samples.stale_h200()
    assert facts.contradictions(statement) == ()
    words = Page(render_html(statement)).words
    for text in (words, screen(statement), render_markdown(statement)):
        assert "stale: something it names passed" in text
        assert "expired" in text
        assert "no answer from what it names" in text
    assert words.count("must go") == 2
    assert render_markdown(statement).count("❌ stale") == 1
    quiet = samples.statement("NOT_CERTIFIED", statement.predicate.bi_harness.checks[:2])
    root = ElementTree.fromstring(render_junit(quiet))
    assert root.get("failures") == "1", "no failing check, and yet not green"


def test_a_report_without_waivers_does_not_speak_of_them() -> None:
    statement = samples.certified_cpu()
    assert 'id="waivers"' not in render_html(statement)
    assert "Waivers" not in render_markdown(statement)
    assert "waivers" not in statement.to_json()
    assert '"waiver"' not in statement.to_json()


@pytest.mark.parametrize(
    ("statement", "said"),
    [
        (
            samples.statement("CERTIFIED", (samples.check("a", "b"), samples.check("a", "c", "waived"))),
            "c on a has a waiver that is not of it, or that the run was not given",
        ),
        (
            samples.statement(
                "CERTIFIED", (samples.check("a", "b"), samples.check("a", "c", "waived", waiver=None))
            ),
            "c on a is waived, but has no waiver",
        ),
        (
            samples.statement("CERTIFIED", (samples.check("a", "b", waiver=samples.waiver("a", "b")),)),
            "b on a is pass, but has a waiver",
        ),
    ],
)
def test_a_waiver_that_is_not_there_is_a_contradiction(statement: Statement, said: str) -> None:
    assert f"Contradiction: {said}." in Page(render_html(statement)).words


def test_a_waived_failure_that_reads_as_passed_is_a_contradiction() -> None:
    statement = samples.waived_h200()
    forged = statement.model_copy(
        update={"predicate": statement.predicate.model_copy(update={"result": "PASSED"})}
    )
    assert "Contradiction: result is PASSED, but the verdict is CERTIFIED." in facts.contradictions(forged)
    gone = statement.predicate.bi_harness.model_copy(update={"started": "2026-03-02T00:00:00Z"})
    late = statement.model_copy(
        update={"predicate": statement.predicate.model_copy(update={"bi_harness": gone})}
    )
    assert "had expired when the run started" in " ".join(facts.contradictions(late))


def test_hostile_waivers_are_text() -> None:
    nasty = samples.waiver(
        samples.HOSTILE, "c", owner=samples.ANSI, reason=samples.HOSTILE, link="javascript:alert(1)"
    )
    checks = (samples.check("a", "b"), samples.check("a", "c", "waived", waiver=nasty))
    statement = samples.statement("CERTIFIED", checks)
    assert "javascript:" not in [link.get("href", "")[:11] for link in Page(render_html(statement)).of("a")]
    assert "<script>" not in render_html(statement)
    assert "\x1b" not in screen(statement)
    assert "<script>" not in render_markdown(statement)
