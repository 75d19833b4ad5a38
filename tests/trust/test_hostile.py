"""Names that somebody chose to do harm: through every writer, in every field, and in a real browser."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.trust import hostile, payloads
from benchmarks.trust.browser import Browser, browser, why_none
from benchmarks.trust.fullest import fullest
from bi_harness.certificate.statement import Statement
from bi_harness.report.console import print_result
from bi_harness.report.html import render_html
from bi_harness.runner.engines import safe_name

SHORT = [text for text in payloads.ALL if text is not payloads.LONG]


def mixed() -> Statement:
    return fullest("", names=itertools.cycle(SHORT))


def test_the_fullest_certificate_has_a_name_in_every_text() -> None:
    statement = fullest("needle")
    data = statement.model_dump(mode="json", by_alias=True)
    found = str(data)
    assert found.count("needle") > 300
    assert {check.status for check in statement.predicate.bi_harness.checks} == {
        *("pass", "fail", "inconclusive", "error", "skip", "waived")
    }
    for field in ("run_id", "why", "started", "device", "scope", "effective", "provenance", "power", "axes"):
        assert "needle" in str(data["predicate"]["bi_harness"][field]), field


@pytest.mark.parametrize("payload", payloads.MARKUP[::2])
def test_markdown(payload: str) -> None:
    assert hostile.markdown_harm(fullest(payload)) == []


@pytest.mark.parametrize("payload", [*payloads.TERMINAL, payloads.LONG])
def test_terminals(payload: str) -> None:
    if payload is not payloads.LONG:
        assert hostile.terminal_harm(lambda console: print_result(fullest(payload), console)) == []
    assert hostile.terminal_harm(lambda console: hostile.show_progress(console, payload)) == []
    assert hostile.error_harm(payload) == []


def test_a_terminal_check_that_can_fail() -> None:
    assert hostile.terminal_harm(lambda console: console.file.write("\x1b]0;title\x07")) != []
    assert hostile.terminal_harm(lambda console: console.print("[link=http://x]x[/link]")) != []


def test_junit() -> None:
    for payload in (
        "]]>",
        "\ufffe\uffff",
        "\x00\x07\x7f",
        "<!DOCTYPE x [<!ENTITY e SYSTEM 'file:///x'>]>&e;",
    ):
        assert hostile._junit_harm(fullest(payload)) == []


@pytest.mark.parametrize(
    "payload", [payloads.PATHS[0], payloads.TERMINAL[0], payloads.SCRIPTS[0], payloads.LONG]
)
def test_report_of_a_run_in_which_everything_is_called_so(payload: str) -> None:
    assert hostile.reported(payload) == []


@pytest.mark.parametrize("payload", payloads.ALL)
def test_a_name_stays_in_its_folder(payload: str) -> None:
    assert hostile.path_harm(payload) == []


def test_names_that_begin_alike_are_folders_of_their_own() -> None:
    names = {safe_name("x" * 250 + end) for end in ("/eager", "/compile", "")}
    assert len(names) == 3
    assert max(map(len, names)) == 200
    assert safe_name("x" * 200) == "x" * 200


@pytest.fixture(scope="module")
def eyes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    if why := why_none():
        pytest.skip(why)
    with browser(tmp_path_factory.mktemp("browser")) as found:
        yield found


@pytest.mark.browser
def test_no_script_runs_in_the_page(eyes: Browser) -> None:
    for verdict in ("CERTIFIED", "NOT_CERTIFIED"):
        statement = fullest("", verdict=verdict, names=itertools.cycle(SHORT))
        for seen in hostile.in_browser(eyes, statement, control=False).values():
            assert hostile._harmless(seen), seen


@pytest.mark.browser
def test_the_browser_sees_a_script_that_runs_and_the_policy_stops_it(eyes: Browser) -> None:
    seen = hostile.in_browser(eyes, fullest(payloads.SCRIPTS[0]), control=True)
    assert seen["unescaped, without its policy"].fired
    assert not seen["unescaped"].fired
    assert seen["unescaped"].violations


@pytest.mark.browser
def test_a_request_is_seen(eyes: Browser) -> None:
    seen = eyes.open("<!doctype html><title>x</title><img src='http://127.0.0.1:9/x.png'>")
    assert seen.requests == ("http://127.0.0.1:9/x.png",)
    assert "<img>" in seen.strange


def test_the_page_has_a_policy_that_lets_nothing_load() -> None:
    policy = hostile.POLICY.search(render_html(mixed()))
    assert policy is not None
    assert "default-src 'none'" in policy.group()
    assert "script" not in policy.group()


def test_what_is_written_is_in_the_run_folder_alone() -> None:
    assert not Path(hostile.OWNED).exists()
