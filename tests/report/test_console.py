from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from bi_harness.report.console import print_result

from . import samples


def printed(name: str, width: int = 100, encoding: str = "utf-8", colour: bool = False) -> str:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding=encoding)
    console = Console(
        file=stream, width=width, force_terminal=colour, color_system="truecolor" if colour else None
    )
    print_result(samples.ALL[name](), console, {"certificate.html": Path("/runs/x/certificate.html")})
    stream.flush()
    return raw.getvalue().decode(encoding)


@pytest.mark.parametrize("encoding", ["utf-8", "ascii", "latin-1"])
@pytest.mark.parametrize("width", [20, 80, 300])
@pytest.mark.parametrize("name", samples.ALL)
def test_it_prints_on_any_terminal(name: str, width: int, encoding: str) -> None:
    text = printed(name, width, encoding)
    assert "\x1b" not in text
    assert "/runs/x/certificate.html" in text


def test_only_a_certified_run_prints_the_word() -> None:
    assert "NOT" not in printed("certified_cpu")
    assert "CERTIFIED" in printed("certified_cpu")
    assert printed("failing_h200").count("CERTIFIED") == printed("failing_h200").count("NOT CERTIFIED") == 1
    assert "CERTIFIED" not in printed("mixed")
    assert "CERTIFIED" not in printed("empty")


def test_a_failure_shows_where_the_bits_first_differ_and_how_to_see_it_again() -> None:
    text = printed("failing_h200", width=200)
    assert "First at prompt 11, step 4" in text
    assert "0xbf9e0651 became 0xbf9e0654 (3 ULP)" in text
    assert "--seed 20260114 -k bs1_vs_bsN" in text
    assert "fail bs1_vs_bsN, needle, decode_vs_prefill" in text


def test_colour_comes_from_the_harness_only() -> None:
    text = printed("hostile", colour=True)
    assert "\x1b]" not in text
    assert "[31mred" not in text


def test_rich_markup_in_a_reason_is_text() -> None:
    raw = io.StringIO()
    bad = samples.check("a", "[bold]b[/nope]", "error", reason="[red]x[/red] :boom:")
    print_result(samples.statement("NOT_CERTIFIED", (bad,)), Console(file=raw, width=100))
    assert "[red]x[/red] :boom:" in raw.getvalue()
    assert "[bold]b[/nope]" in raw.getvalue()
