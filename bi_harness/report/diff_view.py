"""A difference, or a series, for a reader: the same sections on a terminal and in Markdown.

Every text of a certificate goes through ``clean`` here, once, before either of them sees it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from bi_harness.certificate.diff import (
    CheckChange,
    Difference,
    DigestChange,
    FigureChange,
    Kind,
    Side,
    ValueChange,
)
from bi_harness.certificate.records import Divergence
from bi_harness.certificate.series import Entry, Series, Standing, Track
from bi_harness.report.console import plain
from bi_harness.report.facts import VERDICT_WORDS
from bi_harness.report.markdown import escape
from bi_harness.report.text import clean, count, duration, elapsed, plural, when

LISTED: Final = 100
"""Lines of a section; ``--json`` has all."""

ABSENT: Final = "—"

_KIND_STYLES: Final[dict[Kind, str]] = {
    "regression": "bold red",
    "gone": "bold yellow",
    "changed": "yellow",
    "new": "cyan",
    "fixed": "green",
}
_KIND_MARKS: Final[dict[Kind, str]] = {
    "regression": "❌",
    "gone": "➖",
    "changed": "❔",
    "new": "➕",
    "fixed": "✅",
}
_STANDING_LETTERS: Final[dict[Standing, str]] = {"good": "+", "bad": "X", "unknown": "?"}


@dataclass(frozen=True, slots=True)
class Section:
    """A table with a title. ``styles`` has one for each row's first column; empty for none."""

    title: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    left: int = 0
    note: str = ""
    styles: tuple[str, ...] = ()
    marks: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class View:
    """What is shown: a headline, lines about the certificates, and sections."""

    headline: str
    lines: tuple[str, ...]
    sections: tuple[Section, ...]


def difference_view(difference: Difference) -> View:
    """One difference, what matters most first."""
    d = difference
    sections = (
        _section("Verdict", ("what", "before", "after"), _values(d.verdict)),
        _checks(d.checks),
        _section("First divergence", ("check", "before", "after"), _divergences(d)),
        _digests(d.digests),
        _section("What was compared, the control, judged facts", _FIGURES, _figures(d.figures)),
        _section("Effective configuration", ("setting", "before", "after", "engines"), _settings(d)),
        _section("Environment", ("what", "before", "after"), _values(d.environment)),
    )
    return View(
        headline=headline(difference),
        lines=(_side("before", d.before), _side("after", d.after)),
        sections=tuple(section for section in sections if section.rows),
    )


def headline(difference: Difference) -> str:
    """The difference in one line."""
    if difference.empty:
        return "Nothing differs."
    if not difference.matters:
        return "Verdict, checks and bits are the same; what they rest on differs."
    kinds = [change.kind for change in difference.checks]
    parts = [
        f"{count(kinds.count(kind))} {name}"
        for kind, name in (
            ("regression", "regressed"),
            ("gone", "gone"),
            ("changed", "changed"),
            ("new", "new"),
            ("fixed", "fixed"),
        )
        if kind in kinds
    ]
    before, after = difference.before, difference.after
    verdict = (
        f"{_verdict(before)} became {_verdict(after)}"
        if (before.verdict, before.result) != (after.verdict, after.result)
        else f"{_verdict(after)} in both"
    )
    bits = len({(d.cell, d.check) for d in difference.digests if d.arm in ("treatment", "reference")})
    told = [verdict]
    told.append(f"checks: {', '.join(parts)}" if parts else "every check has the same status")
    if bits:
        told.append(f"{plural(bits, 'check')} with other bits")
    return "; ".join(told) + "."


def series_view(series: Series) -> View:
    """A series: what is bad now, since when, and what else changed there."""
    entries = series.entries
    numbers = range(1, len(entries) + 1)
    # What passed once comes first: that is a regression, and the rest may never have worked.
    bad = sorted(series.bad, key=lambda track: track.last_good is None)
    certificates = _section(
        "Certificates",
        ("#", "ended", "device", "vLLM", "verdict", "certificate"),
        (
            (
                str(number),
                when(entry.ended),
                clean(entry.device, 80),
                clean(entry.vllm, 80) or ABSENT,
                "a planted fault: left out" if entry.planted else _verdict(entry),
                clean(entry.name, 300) or clean(entry.run_id, 120),
            )
            for number, entry in zip(numbers, entries, strict=True)
        ),
    )
    first_bad = _section(
        "First bad",
        ("check", "cell", "last good", "first bad", "history"),
        (
            (
                clean(track.check, 160),
                clean(track.cell, 300),
                "never" if track.last_good is None else _numbered(series, track.last_good),
                _first_bad(series, track),
                "".join(_STANDING_LETTERS[standing] for standing in track.standings[-60:]),
            )
            for track in bad
        ),
        note="History, oldest first: + passed, X failed or waived, ? unknown.",
    )
    steps = tuple(
        _section(
            f"Between #{step.last_good + 1} and #{step.first_bad + 1}",
            ("what", "last good", "first bad"),
            _values(step.environment),
            note="" if step.environment else "Nothing else that the certificates tell of changed.",
        )
        for step in series.steps
    )
    shown = [section for section in (first_bad, *steps, certificates) if section.rows or section.note]
    if not bad:
        shown.remove(first_bad)
    return View(
        headline=_series_headline(series),
        lines=(f"{plural(len(entries), 'certificate')}.",),
        sections=tuple(shown),
    )


def _series_headline(series: Series) -> str:
    missing = len(series.open)
    without = f"{plural(missing, 'check')} without an answer in the newest certificate" if missing else ""
    if series.bad:
        line = f"{plural(len(series.bad), 'check')} of {count(len(series.tracks))} bad where last known"
        return f"{line}; {without}." if without else f"{line}."
    if not series.known:
        return "INCONCLUSIVE: no check has an answer in any certificate."
    line = f"None of {plural(series.known, 'check')} is bad where last known"
    return f"INCONCLUSIVE: {without}. {line}." if without else f"{line}."


def print_view(view: View, console: Console) -> None:
    """On a terminal, with or without colour. Texts never go through rich's markup."""
    for section in view.sections:
        _print(console, Text(plain(console, section.title), style="bold"))
        if section.note:
            _print(console, Text(plain(console, section.note), style="dim"))
        if section.rows:
            _print(console, _table(section, console))
        if section.left:
            _print(console, Text(f"{count(section.left)} more with --json.", style="dim"))
    for line in view.lines:
        _print(console, Text(plain(console, line)))
    _print(console, Text(plain(console, view.headline), style="bold"))


def _print(console: Console, item: Table | Text) -> None:
    console.print(item, markup=False, highlight=False, emoji=False)


def _table(section: Section, console: Console) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold", safe_box=True)
    for name in section.head:
        table.add_column(name, overflow="fold")
    for index, row in enumerate(section.rows):
        style = section.styles[index] if section.styles else ""
        cells = [Text(plain(console, cell)) for cell in row]
        cells[0].stylize(style)
        table.add_row(*cells)
    return table


def render_view(view: View, title: str) -> str:
    """The same as Markdown."""
    out = [f"## {escape(title)}", "", escape(view.headline, 500), ""]
    out += [f"- {escape(line, 1_000)}" for line in view.lines]
    for section in view.sections:
        out += ["", f"### {escape(section.title)}", ""]
        if section.note:
            out += [escape(section.note), ""]
        if section.rows:
            out.append(f"| {' | '.join(escape(name) for name in section.head)} |")
            out.append(f"|{' --- |' * len(section.head)}")
        for index, row in enumerate(section.rows):
            mark = f"{section.marks[index]} " if section.marks else ""
            out.append(f"| {mark}{' | '.join(escape(cell, 600) or ABSENT for cell in row)} |")
        if section.left:
            out += ["", f"_{count(section.left)} more with --json._"]
    return "\n".join(out) + "\n"


def _section(title: str, head: tuple[str, ...], rows: Iterable[tuple[str, ...]], note: str = "") -> Section:
    listed = tuple(rows)
    return Section(title, head, listed[:LISTED], max(0, len(listed) - LISTED), note)


def _checks(changes: Sequence[CheckChange]) -> Section:
    rows = tuple(
        (
            change.kind,
            clean(change.check, 160) or "(unnamed)",
            clean(change.cell, 300) or "(unnamed)",
            change.before or ABSENT,
            change.after or ABSENT,
            clean(change.after_reason or change.before_reason, 200),
        )
        for change in changes[:LISTED]
    )
    return Section(
        title="Checks",
        head=("", "check", "cell", "before", "after", "reason"),
        rows=rows,
        left=max(0, len(changes) - LISTED),
        styles=tuple(_KIND_STYLES[change.kind] for change in changes[:LISTED]),
        marks=tuple(_KIND_MARKS[change.kind] for change in changes[:LISTED]),
    )


def _digests(changes: Sequence[DigestChange]) -> Section:
    ordered = sorted(changes, key=lambda change: change.both_pass)
    return _section(
        "Exact bits",
        ("arm", "check", "cell", "before", "after", ""),
        (
            (
                change.arm,
                clean(change.check, 160),
                clean(change.cell, 300),
                _short(change.before),
                _short(change.after),
                "passes in both" if change.both_pass else "",
            )
            for change in ordered
        ),
        note="Another vLLM, torch or checkpoint may change bits though each run is batch-invariant by "
        "itself; the control's are no promise.",
    )


_FIGURES: Final = ("figure", "check", "cell", "before", "after")


def _figures(changes: Iterable[FigureChange]) -> Iterable[tuple[str, ...]]:
    for change in changes:
        yield (
            clean(change.name, 160),
            clean(change.check, 160),
            clean(change.cell, 300),
            _value(change.before),
            _value(change.after),
        )


def _divergences(difference: Difference) -> Iterable[tuple[str, ...]]:
    for change in difference.divergences:
        where = f"{clean(change.check, 160)} on {clean(change.cell, 300)}"
        yield where, _place(change.before), _place(change.after)


def _place(first: Divergence | None) -> str:
    if first is None:
        return "none"
    return (
        f"prompt {count(first.prompt)}, step {count(first.step)}, rank {count(first.rank)}, batch size "
        f"{count(first.batch_size)}: {first.reference_bits} became {first.observed_bits}"
    )


def _settings(difference: Difference) -> Iterable[tuple[str, ...]]:
    for change in difference.settings:
        shown = ", ".join(clean(engine, 200) for engine in change.engines[:4])
        more = len(change.engines) - 4
        engines = f"{shown} and {count(more)} more" if more > 0 else shown
        path = change.path[1:] if len(change.path) > 1 else change.path
        yield _path(path), _value(change.before), _value(change.after), engines


def _values(changes: Iterable[ValueChange]) -> Iterable[tuple[str, ...]]:
    for change in changes:
        yield _path(change.path), _value(change.before), _value(change.after)


def _path(path: Sequence[str]) -> str:
    return clean(".".join(clean(step, 120) or "(empty)" for step in path[:12]), 300)


def _value(value: str | None) -> str:
    return ABSENT if value is None else clean(value, 300) or "(empty)"


def _short(digest: str | None) -> str:
    return ABSENT if digest is None else clean(digest, 19)[:19]


def _verdict(side: Side | Entry) -> str:
    words = VERDICT_WORDS[side.verdict]
    return f"{words} with waived failures" if side.result == "WARNED" else words


def _side(name: str, side: Side) -> str:
    took = elapsed(side.started, side.finished)
    time = f"{when(side.started)}, {duration(took)}" if took is not None else f"{when(side.started)}, cut off"
    vllm = f"vLLM {clean(side.vllm, 80)}" if side.vllm else "vLLM unknown"
    words = (
        clean(side.name, 300) or clean(side.run_id, 120),
        f"{clean(side.device, 80) or 'unknown device'}, {vllm}",
        time,
        _verdict(side),
    )
    return f"{name}: {'; '.join(words)}"


def _numbered(series: Series, index: int) -> str:
    entry = series.entries[index]
    return f"#{index + 1} ({when(entry.ended)}, vLLM {clean(entry.vllm, 80) or 'unknown'})"


def _first_bad(series: Series, track: Track) -> str:
    if track.first_bad is None:
        return ABSENT
    status = track.statuses[track.first_bad]
    text = f"{_numbered(series, track.first_bad)} {status}"
    if track.fault:
        text += f"{', but' if status == 'pass' else ':'} {clean(track.fault, 400)}"
    return f"{text}; unknown in {count(track.between)} before it" if track.between else text
