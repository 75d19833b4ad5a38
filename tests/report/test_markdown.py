from __future__ import annotations

import re

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from bi_harness.certificate.statement import Statement
from bi_harness.report.markdown import MAX_BYTES, code, escape, render_markdown

from . import samples
from .pages import Page
from .strategies import statements

OWN_MARKUP = ("<br>", "<details><summary>", "</summary>", "</details>")


def rest(text: str) -> str:
    """The text without fenced commands (whose content is literal) and without the writer's own markup."""
    text = re.sub(r"^(`{3,})shell\n.*?\n\1$", "", text, flags=re.DOTALL | re.MULTILINE)
    for own in OWN_MARKUP:
        text = text.replace(own, "")
    return text


@pytest.mark.parametrize("name", samples.ALL)
def test_no_raw_markup_gets_through(name: str) -> None:
    text = render_markdown(samples.ALL[name]())
    assert "<" not in rest(text)
    assert "\x1b" not in text
    assert len(text.encode()) < MAX_BYTES


def test_tables_keep_their_width() -> None:
    for make in samples.ALL.values():
        width = None
        for line in render_markdown(make()).splitlines():
            if not line.startswith("|"):
                width = None
                continue
            bars = len(re.findall(r"(?<!\\)\|", line))
            assert width in (None, bars), line
            width = bars


def test_it_tells_the_verdict_the_failure_and_the_command() -> None:
    text = render_markdown(samples.failing_h200())
    assert text.startswith("## ❌ NOT CERTIFIED: h200")
    assert "0xbf9e0651 became 0xbf9e0654 (3 ULP)" in text
    assert "```shell\nbi-harness run --device h200 --model qwen3-1.7b" in text
    assert "| online-flash-only | 4 |" in text
    assert "vllm.version | 0.25.1" in text


def test_a_partial_run_says_that_it_is_one() -> None:
    text = render_markdown(samples.mixed())
    assert "> ⚠️ The run was interrupted before its end." in text
    assert "> ⚠️ Filtered run" in text


def test_a_huge_run_is_cut_with_a_note() -> None:
    reason = "<&|`*" * 400
    many = tuple(
        samples.check(f"d/{'m' * 200}{i}/B/tp1-dp1/eager/s{i % 40}", "c" * 200, "fail", reason=reason)
        for i in range(3_000)
    )
    text = render_markdown(samples.statement("NOT_CERTIFIED", many))
    assert len(text.encode()) < MAX_BYTES
    assert "more are in certificate.html and certificate.json" in text
    assert "more rows" in text


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("a|b `c` *d* _e_ f_g", r"a\|b \`c\` \*d\* \_e\_ f_g"),
        ("<b>&", "&lt;b&gt;&amp;"),
        ("- item", r"\- item"),
        ("# title", r"\# title"),
        ("1. item", r"1\. item"),
        ("0.25.1", "0.25.1"),
        ("2026-01-14", "2026-01-14"),
        ("[x](https://e.example)", r"\[x\](h&#8203;ttps://e.example)"),
    ],
)
def test_escape(value: str, shown: str) -> None:
    assert escape(value) == shown


def test_code_is_used_only_for_what_cannot_break_out() -> None:
    assert code("bs1_vs_bsN") == "`bs1_vs_bsN`"
    assert code("a`b") == r"a\`b"
    assert code("a|b") == r"a\|b"


@given(st.text())
def test_escaped_text_is_one_line_without_tags(value: str) -> None:
    shown = escape(value)
    assert "\n" not in shown
    assert "<" not in shown
    assert not re.search(r"(?<!\\)(?:\\\\)*[|`]", shown) or all(
        (len(found[1]) % 2) for found in re.finditer(r"(\\*)[|`]", shown)
    )


def as_a_viewer_shows_it(text: str) -> Page:
    """Rendered the most trusting way there is: raw HTML allowed, addresses linked."""
    return Page(MarkdownIt("commonmark", {"html": True, "linkify": False}).enable("table").render(text))


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(statement=statements())
def test_a_trusting_viewer_shows_no_element_but_ours(statement: Statement) -> None:
    page = as_a_viewer_shows_it(render_markdown(statement))
    blocks = {"h2", "h3", "h4", "p", "blockquote", "pre", "table", "thead", "tbody", "tr", "th", "td"}
    own = blocks | {"br", "strong", "em", "code", "details", "summary"}
    assert {tag for tag, _ in page.elements} <= own


def test_a_viewer_shows_names_and_commands_as_they_are() -> None:
    page = as_a_viewer_shows_it(render_markdown(samples.mixed()))
    assert "batch_invariance" in page.words
    assert "--layers 2 --seed 1 -k needle" in page.words
    assert "0.25.1" in page.words
    assert "\\" not in page.words


def test_facts_are_tables_that_are_cut_with_a_note() -> None:
    text = render_markdown(samples.startup_cpu())
    assert "### What engines said of themselves" in text
    assert "| ❌ warm: kernels_built | 16 | 0 | 16 |" in text
    assert "| cold: start | 40.0 s | — | — |" in text
    assert "| ❌ last | 9 | 8 | — |" in text
    assert "more facts in certificate.json._" in text
    assert "What engines said" not in render_markdown(samples.certified_cpu())
