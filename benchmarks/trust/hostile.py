"""Names that somebody chose to do harm, in every place that a name can have, through every writer.

The HTML page is opened in a real browser, with and without its Content-Security-Policy, since either alone is
to be enough; and a page that escapes nothing is opened as the control: a check that cannot find a script that
runs would find none here either.
"""

from __future__ import annotations

import contextlib
import io
import re
import tempfile
from collections.abc import Callable, Iterator
from itertools import cycle
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from markdown_it import MarkdownIt
from rich.console import Console

from benchmarks.trust import payloads
from benchmarks.trust.browser import Browser, Seen, browser, why_none
from benchmarks.trust.figures import Figure, all_of, as_dict, none_of
from benchmarks.trust.fullest import fullest
from bi_harness.certificate.events import (
    CheckFinished,
    CheckProgress,
    CheckStarted,
    EngineReady,
    Event,
    Node,
    RunStarted,
    UnitFinished,
    UnitStarted,
)
from bi_harness.certificate.statement import Statement
from bi_harness.cli import main as cli
from bi_harness.cli.output import clean
from bi_harness.report import html as page
from bi_harness.report.console import print_result
from bi_harness.report.junit import render_junit
from bi_harness.report.markdown import MAX_BYTES, render_markdown
from bi_harness.report.parquet import render_parquet
from bi_harness.runner.engines import safe_name
from bi_harness.runner.journal import JOURNAL, Journal
from bi_harness.runner.progress import Watcher, watching

OWN_STYLE = re.compile(r"\x1b\[[0-9;]*m|\x1b\[\?25[hl]|\x1b\[[0-9]*[AGK]|\x1b\[2K|\r")
"""What rich writes for colour and for its bar: never an address, a title or a clipboard."""

CONTROL = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\U000e0000-\U000e007f]"
)
POLICY = re.compile(r'<meta http-equiv="Content-Security-Policy"[^>]*>')
MD_ELEMENTS = frozenset(
    (
        "p h1 h2 h3 h4 strong em table thead tbody tr th td br pre code details summary blockquote hr s "
    ).split()
)
MIXED = "all of them"

AT_LEAST_FIRED = 20
"""Payloads that run in a page that escapes nothing: what the browser's check is able to see."""

OWNED = Path("/tmp/bi-trust-owned")
FILES = {"certificate.json", "certificate.html", "certificate.md", "junit.xml", "cells.parquet", JOURNAL}


def texts(payload: str) -> tuple[str, str]:
    """A payload by itself, and in each part of what reads as a cell's id."""
    return payload, f"{payload}/{payload}/{payload}/tp1-dp1/{payload}/{payload}"


def statements() -> Iterator[tuple[str, Statement]]:
    """Certificates that are full of each payload, and one of all of them at once."""
    for payload in payloads.ALL:
        if payload is payloads.LONG:
            continue
        for text in texts(payload):
            yield payload, fullest(text)
    short = [text for text in payloads.ALL if text is not payloads.LONG]
    for verdict in ("CERTIFIED", "NOT_CERTIFIED", "INCONCLUSIVE"):
        yield MIXED, fullest("", verdict=verdict, names=cycle(short))


def unescaped(statement: Statement) -> str:
    """The page as it would be if nothing were escaped."""
    bare = page._environment().overlay(autoescape=False)
    return bare.get_template("certificate.html.j2").render(page._context(statement))


def in_browser(eyes: Browser, statement: Statement, *, control: bool) -> dict[str, Seen]:
    """The page as it is, and without its policy; for a control, the same of a page that escapes nothing."""
    html = page.render_html(statement)
    assert POLICY.search(html)
    found = {
        "as it is": eyes.open(html),
        "without its policy": eyes.open(POLICY.sub("", html, count=1)),
    }
    if not control:
        return found
    bare = unescaped(statement)
    return {
        **found,
        "unescaped": eyes.open(bare),
        "unescaped, without its policy": eyes.open(POLICY.sub("", bare, count=1)),
    }


def markdown_page(statement: Statement) -> str:
    """The Markdown in a viewer that trusts raw HTML and makes links of addresses."""
    viewer = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])
    return str(viewer.render(render_markdown(statement)))


def markdown_harm(statement: Statement) -> list[str]:
    """What of the Markdown is not the writer's own."""
    text = render_markdown(statement)
    tags = {tag.lower() for tag in re.findall(r"<([a-zA-Z][a-zA-Z0-9]*)", markdown_page(statement))}
    found = sorted(tags - MD_ELEMENTS)
    found += ["control character"] if CONTROL.search(text.replace("\u200b", "")) else []
    found += ["too large"] if len(text.encode()) >= MAX_BYTES else []
    # Code, in a line or in a fence, calls nobody.
    prose = re.sub(r"^(`{3,})shell\n.*?\n\1$|`[^`\n]*`", "", text, flags=re.DOTALL | re.MULTILINE)
    found += ["a mention"] if re.search(r"@\w", prose) else []
    # A name must not make a heading, or a line of a verdict, of its own.
    heads = [line for line in text.splitlines() if re.match(r"#{1,6} ", line)]
    ours = "Matrix|Failures|What engines|Skips|Waivers|Operators|Modules|Where"
    known = rf"## (✅|❌|❔|📝) |### ({ours})|#### "
    return found + [f"a heading: {line[:60]}" for line in heads if not re.match(known, line)]


def terminal_harm(write: Callable[[Console], object]) -> list[str]:
    """Control characters that a writer lets through, on a terminal and in a log."""
    found = []
    for terminal in (True, False):
        stream = io.StringIO()
        console = Console(
            file=stream,
            width=100,
            force_terminal=terminal,
            color_system="truecolor" if terminal else None,
            legacy_windows=False,
        )
        write(console)
        text = OWN_STYLE.sub("", stream.getvalue()) if terminal else stream.getvalue()
        found += [
            f"{match.group()!r} ({'terminal' if terminal else 'log'})" for match in CONTROL.finditer(text)
        ]
    return found[:5]


def progress_events(text: str) -> list[Event]:
    """What a run shows as it goes, with a name everywhere."""
    from tests.certificate import journals as made

    result = made.result("error", text, text, reason=text)
    return [
        made.started(made.planned(text, cell=text, unit=text)),
        UnitStarted(time=made.TIME, unit=text, node=Node(id=text, host=text)),
        made.ready(unit=text),
        CheckStarted(time=made.TIME, cell=text, check=text),
        CheckProgress(time=made.TIME, cell=text, check=text, arm=text, done=1, of=2),
        CheckFinished(time=made.TIME, result=result),
        made.ended("crashed", unit=text, message=text),
    ]


def show_progress(console: Console, text: str) -> None:
    """Hand these events to what watches a run."""
    with watching(console) as watch:
        assert isinstance(watch, Watcher)
        for event in progress_events(text):
            watch(event)


def run_folder(folder: Path, text: str) -> None:
    """A finished run in which everything is called ``text``."""
    from tests.certificate import journals as made

    events: list[Event] = []
    for event in made.sound(made.result("fail", text, text, reason=text, log=text)):
        changed: Event = event
        if isinstance(event, RunStarted):
            plan = (made.planned(text, cell=text, unit=text),)
            changed = event.model_copy(
                update={"plan": plan, "run_id": text, "device": {"id": text, "name": text}}
            )
        elif isinstance(event, EngineReady):
            arm = event.arm.model_copy(update={"unit": text, "config": {text: text}})
            changed = event.model_copy(update={"arm": arm})
        elif isinstance(event, UnitStarted | UnitFinished):
            changed = event.model_copy(update={"unit": text})
        events.append(changed)
    with Journal(folder / JOURNAL, new=True) as journal:
        for event in events:
            journal.write(event)


def reported(text: str) -> list[str]:
    """``bi-harness report`` on such a run: what is wrong with its files and with what it prints."""
    with tempfile.TemporaryDirectory() as root:
        folder = Path(root) / "device" / "run"
        folder.mkdir(parents=True)
        run_folder(folder, text)
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = cli.main(["report", str(folder)])
        found = [] if code == 1 else [f"exit code {code}: {err.getvalue()[-300:]}"]
        there = {str(path.relative_to(root)) for path in Path(root).rglob("*") if path.is_file()}
        if there != {f"device/run/{name}" for name in FILES}:
            found.append(f"other files: {sorted(there)}")
        if CONTROL.search(out.getvalue() + err.getvalue()):
            found.append("the terminal gets a control character")
    if OWNED.exists():
        found.append(f"{OWNED} was written")
    return found


def path_harm(text: str) -> list[str]:
    """A name as the name of a file or a folder: one part, inside, of bearable length, and its own."""
    found = []
    name = safe_name(text)
    root = Path("/r/logs")
    inside = Path(str(root / f"{name}.log"))
    if inside.parent != root or name in ("", ".", "..") or name.startswith("."):
        found.append(f"leaves its folder: {name[:80]!r}")
    if len(name.encode()) > 200 or not re.fullmatch(r"[A-Za-z0-9._-]+", name):
        found.append(f"no name for a file: {name[:80]!r}")
    if len(text) > 200 and safe_name(text + "x") == name:
        found.append("two names are one file")
    return found


def error_harm(text: str) -> list[str]:
    """An error's message on the terminal."""
    shown = clean(f"error: {text}")
    return ["a control character"] if CONTROL.search(shown.replace("\u200b", "")) else []


def _harmless(seen: Seen) -> bool:
    return not (seen.fired or seen.requests or seen.violations or seen.strange)


def measure(every: int = 1) -> dict[str, object]:
    """Everything.

    Args:
        every: take one in so many of the certificates, for a quick look.
    """
    chosen = list(statements())[::every]
    harm: list[str] = []

    def count(name: str, cases: list[tuple[str, Callable[[], list[str]]]]) -> Figure:
        bad = 0
        for label, case in cases:
            if found := case():
                bad += 1
                harm.append(f"{name}: {label[:80]!r}: {'; '.join(found)[:300]}")
        return none_of(name, bad, len(cases))

    names = payloads.ALL
    figures = [
        count("Markdown: names that come alive", [(n, lambda s=s: markdown_harm(s)) for n, s in chosen]),  # type: ignore[misc]
        count("JUnit: not valid XML", [(n, lambda s=s: _junit_harm(s)) for n, s in chosen]),  # type: ignore[misc]
        count("Parquet: not written", [(n, lambda s=s: _parquet_harm(s)) for n, s in chosen]),  # type: ignore[misc]
        count(
            "terminal: names that reach it raw",
            [(n, lambda s=s: terminal_harm(lambda c: print_result(s, c))) for n, s in chosen],  # type: ignore[misc]
        ),
        count(
            "progress: names that reach the terminal raw",
            [(n, lambda n=n: terminal_harm(lambda c: show_progress(c, n))) for n in names],  # type: ignore[misc]
        ),
        count("errors: names that reach the terminal raw", [(n, lambda n=n: error_harm(n)) for n in names]),  # type: ignore[misc]
        count("files: names that leave their folder", [(n, lambda n=n: path_harm(n)) for n in names]),  # type: ignore[misc]
        count("report: runs of such names, from the journal", [(n, lambda n=n: reported(n)) for n in names]),  # type: ignore[misc]
    ]
    return as_dict([*figures, *_browser_figures(chosen, harm)], harm=harm[:30])


def _junit_harm(statement: Statement) -> list[str]:
    data = render_junit(statement)
    if b"<!DOCTYPE" in data or b"<!ENTITY" in data:
        return ["has a document type"]
    try:
        ElementTree.fromstring(data)
    except ElementTree.ParseError as error:
        return [str(error)]
    return []


def _parquet_harm(statement: Statement) -> list[str]:
    render_parquet(statement)
    return []


def _browser_figures(chosen: list[tuple[str, Statement]], harm: list[str]) -> list[Figure]:
    if why := why_none():
        return [Figure("HTML in a real browser", why, "a browser", False)]
    scripts = set(payloads.SCRIPTS)
    good = dict.fromkeys(("as it is", "without its policy"), 0)
    fired: set[str] = set()
    tried: set[str] = set()
    held = stopped = markdown = total = 0
    with tempfile.TemporaryDirectory() as folder, browser(Path(folder)) as eyes:
        for label, statement in chosen:
            if label not in scripts and label != MIXED:
                continue
            total += 1
            control = label in scripts and label not in tried
            tried.add(label)
            seen: dict[str, Any] = in_browser(eyes, statement, control=control)
            for name in good:
                good[name] += _harmless(seen[name])
                if not _harmless(seen[name]):
                    harm.append(f"page {name}: {label[:80]!r}: {seen[name]}"[:400])
            if control:
                if seen["unescaped, without its policy"].fired:
                    fired.add(label)
                held += seen["unescaped"].fired == 0
                stopped += bool(seen["unescaped"].violations)
            shown = eyes.open(f"<!doctype html><body>{markdown_page(statement)}")
            markdown += not (shown.fired or shown.requests)
        version = eyes.version
    return [
        all_of(f"HTML in Chromium {version}: harmless pages", good["as it is"], total),
        all_of("the same without the page's policy", good["without its policy"], total),
        Figure(
            "control: script payloads that run where nothing is escaped",
            f"{len(fired)} of {len(scripts)}",
            f"{AT_LEAST_FIRED} or more",
            len(fired) >= AT_LEAST_FIRED,
        ),
        all_of("the page's policy alone holds where nothing is escaped", held, len(tried & scripts)),
        Figure(
            "control: such pages in which the policy stopped something",
            f"{stopped}",
            "1 or more",
            stopped > 0,
        ),
        all_of("Markdown in Chromium, raw HTML trusted: harmless pages", markdown, total),
    ]
