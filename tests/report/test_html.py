from __future__ import annotations

import re

import pytest

from bi_harness.report.html import render_html

from . import samples
from .pages import Page, check_harmless


@pytest.mark.parametrize("name", samples.ALL)
def test_the_page_is_one_harmless_file(name: str) -> None:
    html = render_html(samples.ALL[name]())
    page = Page(html)
    check_harmless(page)
    policy = next(
        meta["content"] for meta in page.of("meta") if meta.get("http-equiv") == "Content-Security-Policy"
    )
    assert policy is not None
    assert policy.startswith("default-src 'none'; style-src 'unsafe-inline'")
    style = re.search(r"<style>(.*?)</style>", html, re.DOTALL)
    assert style is not None
    assert "url(" not in style[1]
    assert "@import" not in style[1]


@pytest.mark.parametrize("name", samples.ALL)
def test_the_page_has_landmarks_and_scoped_headers(name: str) -> None:
    page = Page(render_html(samples.ALL[name]()))
    assert [len(page.of(tag)) for tag in ("main", "nav", "h1")] == [1, 1, 1]
    assert all(header.get("scope") for header in page.of("th"))
    anchors = {attributes["id"] for _, attributes in page.elements if "id" in attributes}
    for _, attributes in page.elements:
        href = attributes.get("href") or ""
        if href.startswith("#"):
            assert href[1:] in anchors
        assert attributes.get("aria-labelledby", "h-matrix") in {*anchors, "h-matrix"}


def test_a_certified_run_says_so_and_what_it_rests_on() -> None:
    words = Page(render_html(samples.certified_cpu())).words
    assert "✓ CERTIFIED Every check passed" in words
    for fact in (
        "AMD EPYC 9654",
        "0.32.0",
        "profile smoke",
        "synthetic, 4 layers only",
        "2026-01-14 09:15:00 UTC",
    ):
        assert fact in words
    assert "Synthetic weights" in words
    assert "NOT CERTIFIED or INCONCLUSIVE" in words  # only in "how to read this"
    assert words.count("NOT CERTIFIED") == 1


def test_a_failure_is_told_with_its_bits_and_its_command() -> None:
    html = render_html(samples.failing_h200())
    words = Page(html).words
    assert "✗ NOT CERTIFIED 18 checks found differing bits." in words
    assert "0xbf9e0651" in words
    assert "0xbf9e0654" in words
    assert "2 of 32 bits differ (bits 2, 0; 0 is the least significant)" in words
    assert "<b>1</b>" in html
    assert (
        "bi-harness run --device h200 --model qwen3-1.7b --suite batch_invariance --backend FLASH_ATTN"
        " --mode eager --profile nightly --weights synthetic --seed 20260114 -k needle" in words
    )
    assert "Prompt11 (1,733 tokens)" in words


def test_the_matrix_names_every_check_with_its_status() -> None:
    page = Page(render_html(samples.mixed()))
    assert "! error needle" in page.words
    assert "≈ waived bs1_vs_bsN" in page.words
    assert "– skip eagle-dp-eager-below-sm90" in page.words
    assert "not planned" in page.words


def test_a_partial_run_says_that_it_is_one() -> None:
    words = Page(render_html(samples.mixed())).words
    assert "The run was interrupted before its end." in words
    assert "Filtered run" in words
    assert "only model=qwen3-1.7b, suite=batch_invariance,eagle_dp" in words
    assert "never finished" in words


def test_skips_are_grouped_by_rule_with_the_reason() -> None:
    words = Page(render_html(samples.mixed())).words
    assert "eagle-dp-eager-below-sm90 (1 cell) EAGLE with DP runs eager below SM90." in words
    assert "eagle_bs1_vs_bsN, eagle_acceptance" in words


def test_the_configuration_shows_once_what_all_engines_share() -> None:
    words = Page(render_html(samples.failing_h200())).words
    assert words.count("max_num_batched_tokens") == 1
    assert "batch_invariant arms differ" in words


def test_a_verdict_that_does_not_follow_is_called_a_contradiction() -> None:
    forged = samples.statement("CERTIFIED", (samples.check("a", "b", "fail"),))
    words = Page(render_html(forged)).words
    assert "Contradiction: the verdict is CERTIFIED, but of the checks 1 fail." in words
    assert "Contradiction: the verdict is CERTIFIED, but no check passed." in words


def test_only_a_log_below_logs_is_a_link() -> None:
    def hrefs(log: str) -> list[str]:
        page = Page(
            render_html(samples.statement("NOT_CERTIFIED", (samples.check("a", "b", "error", log=log),)))
        )
        return [href for link in page.of("a") if (href := link["href"]) and not href.startswith("#")]

    assert hrefs("logs/unit/engine.log") == ["logs/unit/engine.log"]
    for log in ("javascript:alert(1)", "logs/../x", "/etc/passwd", "//host/x", "logs/a b", "logs/x\n"):
        assert hrefs(log) == []


def test_a_million_failures_do_not_make_a_page_that_nobody_can_open() -> None:
    many = tuple(samples.check(f"d/m/B/tp1-dp1/eager/s{i}", "c", "error") for i in range(600))
    words = Page(render_html(samples.statement("NOT_CERTIFIED", many))).words
    assert "100 more are in certificate.json." in words


def test_text_is_shown_not_run_by_the_template() -> None:
    page = render_html(samples.statement("INCONCLUSIVE", (), why="{{ 7*7 }} {% raw %}"))
    assert "{{ 7*7 }} {% raw %}" in page


def test_facts_are_a_table_with_what_had_to_be_and_what_the_control_has() -> None:
    html = render_html(samples.startup_cpu())
    words = Page(html).words
    # Cells follow each other without a blank: name, source, found, expected, control.
    assert "warm: kernels_built not as expectedbi-harness16016" in words
    assert "warm: num_aot_compilesexception x [until] | y10 or 116" in words
    assert "cold: start40.0 s——" in words, "what is told has neither"
    # Of those that are cut, the wrong one stays.
    assert "last not as expected98—" in words
    assert "181 more are in certificate.json." in words
    assert html.count("<details open>\n<summary>What engines said") == 2


def test_a_certificate_without_facts_has_no_such_table() -> None:
    assert "What engines said" not in render_html(samples.certified_cpu())
