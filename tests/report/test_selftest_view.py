"""The result of a self-test on any terminal."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence

import pytest
from rich.console import Console

from bi_harness.certificate.power import PowerCheck, SelfTest
from bi_harness.report.selftest_view import print_power_check, print_selftest, summary
from tests.certificate.selftests import fault_result, missed, tried

MARKUP = "[red]died[/red] [/nope] :boom: [link=http://x]y[/link]"
SOME = tried(
    fault_result("norm-256", checks=("bs1_vs_bsN", "needle"), first_request=1234, first_step=0),
    missed("one-ulp", module="lm_head"),
    missed("moe-combine", error=f"alone: error: {MARKUP}"),
)


def printed(result: SelfTest, width: int = 120, encoding: str = "utf-8", colour: bool = False) -> str:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding=encoding)
    console = Console(
        file=stream, width=width, force_terminal=colour, color_system="truecolor" if colour else None
    )
    print_selftest(result, console)
    stream.flush()
    return raw.getvalue().decode(encoding)


def row(text: str, fault: str) -> list[str]:
    (line,) = [line for line in text.splitlines() if line.strip().startswith(fault)]
    return re.split(r"\s{2,}", line.strip())


@pytest.mark.parametrize("width", [20, 40, 80, 300])
@pytest.mark.parametrize(
    "result", [SOME, tried(), tried(clean_runs=0, false_alarms=0)], ids=["some", "clean", "nothing"]
)
def test_it_prints_at_any_width(result: SelfTest, width: int) -> None:
    text = printed(result, width)
    assert "\x1b" not in text
    assert ("1 of 3 planted faults caught." in text) == bool(result.faults)


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
@pytest.mark.parametrize("width", [100, 300])
def test_it_prints_on_a_terminal_that_is_not_utf_8(width: int, encoding: str) -> None:
    text = printed(SOME, width, encoding)
    assert "1 of 3 planted faults caught." in text
    assert all(word in text for word in ("bs1_vs_bsN, needle", "missed", "no answer"))


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
@pytest.mark.parametrize(
    ("result", "width"),
    [(SOME, 20), (SOME, 40), (tried(missed(error="x" * 1000)), 100), (tried(unsound=("clean-01: Ж",)), 100)],
    ids=["20", "40", "long error", "Cyrillic"],
)
def test_what_such_a_terminal_cannot_show_is_no_error(result: SelfTest, width: int, encoding: str) -> None:
    assert "No answer from" in printed(result, width, encoding)


def test_each_fault_has_a_row() -> None:
    text = printed(SOME)
    assert row(text, "norm-256") == [
        *("norm-256", "caught", "bs1_vs_bsN, needle", "1,234", "0", "model.layers.*.input_layernorm"),
    ]
    assert row(text, "one-ulp") == ["one-ulp", "missed", "lm_head"]
    assert row(text, "moe-combine") == ["moe-combine", "no answer"]


def test_checks_that_failed_on_a_fault_that_was_not_there_are_not_shown_as_its_catch() -> None:
    stray = missed("one-ulp", checks=("needle",), error="it has no fault planted")
    assert row(printed(tried(stray)), "one-ulp") == ["one-ulp", "no answer"]


def test_only_a_fault_that_was_caught_reads_caught() -> None:
    lines = printed(tried(missed("a"), missed("b", error="x"))).splitlines()
    assert "caught by" in lines[1]
    assert not [
        line for line in lines[2:] if "caught" in line and "0 of 2 planted faults caught." not in line
    ]


@pytest.mark.parametrize("width", [20, 80, 300])
def test_markup_in_an_error_is_text(width: int) -> None:
    assert f"No answer from moe-combine: alone: error: {MARKUP}\n" in printed(SOME, width)
    unsound = tried(unsound=(f"clean-03: {MARKUP}",))
    assert f"No answer from clean-03: {MARKUP}\n" in printed(unsound, width)


def test_markup_anywhere_in_the_table_is_text() -> None:
    hostile = fault_result("[bold]id[/x]", checks=("[red]c", ":boom:"), module="[/]")
    text = printed(tried(hostile), 200)
    for part in ("[bold]id[/x]", "[red]c, :boom:", "[/]"):
        assert part in text


def test_terminal_escapes_in_an_error_do_nothing() -> None:
    evil = "\x1b[31mred\x1b[0m \x1b]0;title\x07 a\rb\nc\x00 \u202e"
    text = printed(tried(missed(error=evil), unsound=(evil,)), 300, colour=True)
    assert "\x1b]" not in text
    assert "[31mred" not in text
    assert not {"\r", "\x00", "\u202e", "\x07"} & set(text)


def test_an_endless_error_is_cut() -> None:
    text = printed(tried(missed(error="x" * 100_000)))
    assert len(text) < 3_000
    assert "more characters" in text


def test_colour_tells_the_three_outcomes_apart() -> None:
    found = {}
    for word, result in (
        ("caught", tried(fault_result())),
        ("missed", tried(missed())),
        ("no answer", tried(missed(error="x"))),
    ):
        text = printed(result, colour=True)
        (found[word],) = set(re.findall(rf"(\x1b\[[0-9;]+m){word}\b(?! by)\s*\x1b", text))
    assert len(set(found.values())) == 3


@pytest.mark.parametrize(
    ("result", "lines"),
    [
        (tried(clean_runs=0), []),
        (tried(fault_result(), clean_runs=0), ["1 of 1 planted fault caught."]),
        (tried(missed(), missed("b"), clean_runs=0), ["0 of 2 planted faults caught."]),
        (tried(clean_runs=20), ["0 false alarms in 20 clean runs."]),
        (tried(clean_runs=1, false_alarms=1), ["1 false alarm in 1 clean run."]),
        (
            tried(clean_runs=0, unsound=("clean-01: it was interrupted",)),
            ["0 false alarms in 0 clean runs.", "No answer from clean-01: it was interrupted"],
        ),
        (
            tried(fault_result(), missed(error="it died"), clean_runs=2, unsound=("clean-03: why",)),
            [
                "1 of 2 planted faults caught.",
                "0 false alarms in 2 clean runs.",
                "No answer from clean-03: why",
                "No answer from one-ulp: it died",
            ],
        ),
    ],
)
def test_the_summary(result: SelfTest, lines: list[str]) -> None:
    assert summary(result) == lines


def test_without_faults_there_is_no_table() -> None:
    assert printed(tried()) == "0 false alarms in 20 clean runs.\n"


CHECKS = (
    PowerCheck(suite="core", state="current", faults=2, caught=2, score=1.0, clean_runs=20, problems=()),
    PowerCheck(suite="ops", state="stale", faults=3, caught=2, clean_runs=5, problems=(f"Died: {MARKUP}",)),
    PowerCheck(suite="late", state="missing", untried=("a", "b"), problems=("One.", "Two.")),
)


def printed_check(checks: Sequence[PowerCheck], width: int = 80, encoding: str = "utf-8") -> str:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding=encoding)
    print_power_check(checks, Console(file=stream, width=width))
    stream.flush()
    return raw.getvalue().decode(encoding)


def test_power_check_lists_suites_problems_and_commands() -> None:
    text = printed_check(CHECKS)
    assert row(text, "core") == ["core", "current", "2 of 2", "0", "0 in 20"]
    assert row(text, "ops ") == ["ops", "stale", "2 of 3", "0", "0 in 5"]
    assert row(text, "late ") == ["late", "missing", "2"]
    lines = text.splitlines()
    assert f"ops: Died: {MARKUP}" in lines
    assert lines[lines.index("late: One.") + 1] == "late: Two."
    assert [line for line in lines if "--record" in line] == [
        "  bi-harness selftest --suite ops --record",
        "  bi-harness selftest --suite late --record",
    ]


@pytest.mark.parametrize("width", [20, 40, 300])
@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_power_check_prints_on_any_terminal(width: int, encoding: str) -> None:
    text = printed_check(CHECKS, width, encoding)
    assert "late: One." in text
    assert "\x1b" not in text


def test_power_check_names_no_command_where_a_selftest_would_not_help() -> None:
    broken = PowerCheck(suite="a", state="unreadable", problems=("test_a.py:1: is not valid Python",))
    text = printed_check([broken, PowerCheck(suite="b", state="missing", problems=("No planted fault.",))])
    assert "a: test_a.py:1: is not valid Python\nb: No planted fault.\n" in text
    assert "hint" not in text


def test_power_check_without_a_problem_says_so() -> None:
    text = printed_check(CHECKS[:1])
    assert "The recorded self-test of 1 suite is complete and current." in text
    assert "--record" not in text
