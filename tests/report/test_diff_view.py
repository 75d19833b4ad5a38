"""Differences and series as text: what matters first, in both formats, and a file's text stays text."""

from __future__ import annotations

import io

import pytest
from hypothesis import HealthCheck, given, settings
from rich.console import Console

from bi_harness.certificate.diff import compare_certificates
from bi_harness.certificate.series import series_of
from bi_harness.certificate.statement import Statement
from bi_harness.errors import UsageError
from bi_harness.report.diff_view import View, difference_view, headline, print_view, render_view, series_view

from . import samples
from .strategies import statements


def screen(view: View, width: int = 200, encoding: str = "utf-8") -> str:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding=encoding)
    print_view(view, Console(file=stream, width=width, force_terminal=False))
    stream.flush()
    return raw.getvalue().decode(encoding)


def view(before: Statement, after: Statement) -> View:
    return difference_view(compare_certificates(before, after, ("a.json", "b.json")))


def harmless(text: str) -> None:
    assert "\x1b" not in text
    assert "\x07" not in text
    assert "\u202e" not in text
    assert not any(ord(letter) < 32 and letter != "\n" for letter in text)


def test_the_same_twice() -> None:
    same = view(samples.mixed(), samples.mixed())
    assert same.sections == ()
    assert same.headline == "Nothing differs."
    assert "Nothing differs." in screen(same)


def test_a_regression_is_the_first_thing() -> None:
    unit = "h200/qwen3-1.7b/FLASH_ATTN/tp1-dp1/compile/batch_invariance"
    before = samples.statement(
        "NOT_CERTIFIED", (samples.check(unit, "needle", "fail"), samples.check(unit, "sampling"))
    )
    after = samples.statement(
        "NOT_CERTIFIED", (samples.check(unit, "needle"), samples.check(unit, "sampling", "fail"))
    )
    shown = view(before, after)
    assert shown.headline == (
        "NOT CERTIFIED in both; checks: 1 regressed, 1 fixed; 2 checks with other bits."
    )
    (checks,) = [section for section in shown.sections if section.title == "Checks"]
    assert [row[:2] for row in checks.rows] == [("regression", "sampling"), ("fixed", "needle")]
    text = screen(shown)
    assert text.index("regression") < text.index("fixed") < text.index("Exact bits")
    markdown = render_view(shown, "Difference")
    assert "| ❌ regression | sampling |" in markdown
    assert "before: a.json; h200, vLLM 0.25.1; 2026-01-14 09:15:00 UTC, 26 min 12 s; NOT CERTIFIED" in text


def test_a_waived_certificate_is_never_called_certified_alone() -> None:
    shown = view(samples.stale_h200(), samples.waived_h200())
    assert "NOT CERTIFIED became CERTIFIED with waived failures" in shown.headline
    both = series_view(series_of([("w", samples.waived_h200())]))
    assert "CERTIFIED with waived failures" in screen(both)
    assert both.headline == "1 check of 2 bad where last known."


def test_only_what_they_rest_on() -> None:
    before = samples.certified_cpu()
    ours = before.predicate.bi_harness.model_copy(update={"device": {"id": "cpu", "cpus": 4}})
    after = before.model_copy(update={"predicate": before.predicate.model_copy(update={"bi_harness": ours})})
    assert headline(compare_certificates(before, after)) == (
        "Verdict, checks and bits are the same; what they rest on differs."
    )


def test_long_lists_are_cut_and_say_so() -> None:
    many = tuple(samples.check(f"d/m/B/tp1-dp1/eager/s{i}", "c", "error") for i in range(250))
    shown = view(samples.empty(), samples.statement("NOT_CERTIFIED", many))
    assert "150 more with --json." in screen(shown)
    assert "150 more with" in render_view(shown, "x")


@pytest.mark.parametrize("width", [20, 80, 300])
@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_hostile_texts_are_text_on_any_terminal(width: int, encoding: str) -> None:
    for pair in ((samples.hostile(), samples.empty()), (samples.failing_h200(), samples.hostile())):
        harmless(screen(view(*pair), width, encoding))
        markdown = render_view(view(*pair), samples.HOSTILE)
        harmless(markdown)
        assert "<script" not in markdown
        assert "<img" not in markdown


@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
@given(statements(), statements())
def test_any_two(before: Statement, after: Statement) -> None:
    shown = view(before, after)
    harmless(screen(shown))
    harmless(render_view(shown, "Difference"))
    try:
        series = series_of([("a\x1b[31m", before), ("b\n", after)])
    except UsageError:
        return
    harmless(screen(series_view(series)))
    harmless(render_view(series_view(series), "Series"))


def test_a_series_tells_since_when_and_what_else_changed() -> None:
    unit = "h200/qwen3-1.7b/FLASH_ATTN/tp1-dp1/compile/batch_invariance"

    def on(day: int, version: str, *checks: object) -> tuple[str, Statement]:
        time = f"2026-01-{day:02}T09:15:00+00:00"
        made = samples.statement(
            "CERTIFIED",
            checks,  # type: ignore[arg-type]
            started=time,
            finished=time,
            provenance=samples.provenance(version),
        )
        return f"run{day}", made

    series = series_of(
        [
            on(1, "0.25.1", samples.check(unit, "needle")),
            on(2, "0.25.1"),
            on(3, "0.26.0", samples.check(unit, "needle", "fail")),
        ]
    )
    shown = series_view(series)
    assert shown.headline == "1 check of 1 bad where last known."
    text = screen(shown, width=300)
    assert "#1 (2026-01-01 09:15:00 UTC, vLLM 0.25.1)" in text
    assert "#3 (2026-01-03 09:15:00 UTC, vLLM 0.26.0) fail; unknown in 1 before it" in text
    assert "+?X" in text
    assert "Between #1 and #3" in text
    assert "provenance.vllm.version" in text
    good = series_view(series_of([on(1, "0.25.1", samples.check(unit, "needle"))]))
    assert good.headline == "None of 1 check is bad where last known."
    assert [section.title for section in good.sections] == ["Certificates"]
