"""``certificate.md``: the certificate in short, for a Buildkite annotation or a pull request's comment."""

from __future__ import annotations

import re
from typing import Final

from bi_harness.certificate.records import Status, Verdict
from bi_harness.certificate.statement import Statement
from bi_harness.report import facts
from bi_harness.report.execution_view import execution_label
from bi_harness.report.facts_view import fact_tables, tables_left
from bi_harness.report.findings import Finding, finding, skip_groups
from bi_harness.report.localized_view import sentences
from bi_harness.report.matrix_view import Slot, build_matrix
from bi_harness.report.modules_view import (
    MODULE_SYMBOLS,
    MODULE_WORDS,
    ModuleLine,
    ModuleTable,
    module_tables,
)
from bi_harness.report.ops_view import SYMBOLS as OP_SYMBOLS
from bi_harness.report.ops_view import WORDS as OP_WORDS
from bi_harness.report.ops_view import OpLine, op_tables
from bi_harness.report.text import clean, count, plural, when
from bi_harness.report.tree import entries, leaves
from bi_harness.report.waivers_view import waiver_lines, waivers_left

MAX_BYTES: Final = 1_000_000
"""Buildkite refuses an annotation of more than 1 MiB."""

LISTED: Final = 200
"""Entries of a list at first; fewer when the text would not fit."""

_SYMBOLS: Final[dict[Status, str]] = {
    "pass": "✅",
    "fail": "❌",
    "error": "💥",
    "inconclusive": "❔",
    "skip": "➖",
    "waived": "📝",
}
_VERDICT_SYMBOLS: Final[dict[Verdict, str]] = {"CERTIFIED": "✅", "NOT_CERTIFIED": "❌", "INCONCLUSIVE": "❔"}

# An underscore inside a word means nothing to Markdown, and names are full of them.
_PUNCTUATION = re.compile(r"([\\`*\[\]|~$]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9]))")
_CODE_SAFE = re.compile(r"[A-Za-z0-9 _./:=+@,-]+")
_LINE_START = re.compile(r"^((?:[0-9]+(?=[.)](?: |$)))?)([-+=#.)])")
_MENTION = re.compile(r"@(?=\w)")
_SCHEME = re.compile(r"\b(https?|ftp|mailto|www)(?=[:.])", re.IGNORECASE)


def escape(value: object, limit: int = 400) -> str:
    """One line of text that Markdown, GitHub's tables and raw HTML leave alone."""
    text = clean(value, limit).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    text = _LINE_START.sub(r"\1\\\2", _PUNCTUATION.sub(r"\\\1", text))
    # A bare address would become a link that the certificate's authors did not mean, and a name with an @
    # would call for the person who has it.
    text = _MENTION.sub("@&#8203;", text)
    return _SCHEME.sub(lambda match: f"{match[0][0]}&#8203;{match[0][1:]}", text)


def code(value: object, limit: int = 200) -> str:
    """An identifier in code style, or escaped where a code span could be broken out of."""
    text = clean(value, limit)
    return f"`{text}`" if _CODE_SAFE.fullmatch(text) else escape(text, limit)


def render_markdown(statement: Statement) -> str:
    """The text, always under ``MAX_BYTES``: lists are cut, with a note, until it fits."""
    listed = LISTED
    while True:
        text = _render(statement, listed)
        # Every list and every text in it is bounded, so this ends well before nothing is listed.
        if len(text.encode()) < MAX_BYTES or listed == 0:
            return text
        listed //= 2


def _render(statement: Statement, listed: int) -> str:
    return "\n\n".join(part for part in sections(statement, listed).values() if part) + "\n"


def sections(statement: Statement, listed: int, failures: int | None = None) -> dict[str, str]:
    """The parts of the text by name, in their order; empty where there is nothing to say.

    Args:
        listed: entries of a list at most.
        failures: those that are shown one by one, where it is another number.
    """
    return {
        "verdict": _head(statement),
        "matrix": _matrix(statement, listed),
        "failures": _findings(statement, listed if failures is None else failures),
        "localized": _localized(statement, listed),
        "operators": _ops(statement, listed),
        "modules": _modules(statement, listed),
        "facts": _facts(statement, listed),
        "waivers": _waivers(statement, listed),
        "skips": _skips(statement, listed),
        "provenance": _provenance(statement, listed),
    }


def _head(statement: Statement) -> str:
    result = statement.predicate.bi_harness
    symbol = _SYMBOLS["waived"] if facts.warned(statement) else _VERDICT_SYMBOLS[result.verdict]
    title = f"{symbol} {escape(facts.verdict_line(statement), 500)}"
    head = (
        ("vLLM", facts.vllm_version(statement)),
        ("scope", facts.scope_label(statement)),
        ("weights", facts.weights_label(statement)),
        *([("execution", execution)] if (execution := execution_label(statement)) else []),
        ("started", when(result.started)),
        ("run", result.run_id),
        ("checks", facts.counts_line(statement)),
        *([("axes", axes)] if (axes := facts.axes_label(statement)) else []),
        *([("power", power)] if (power := facts.power_label(statement)) else []),
    )
    lines = [f"## {title}: {escape(facts.device_label(statement))}", ""]
    lines += [escape(result.why, 1_000) or "No reason was recorded.", ""]
    lines += [f"> ⚠️ {escape(line)}\\" for line in facts.caveats(statement)]
    if lines[-1]:
        lines[-1] = lines[-1].removesuffix("\\")  # a hard break, but not after the last
        lines.append("")
    lines.append(" · ".join(f"**{key}** {escape(value, 2_000) or '—'}" for key, value in head))
    return "\n".join(lines)


def _matrix(statement: Statement, listed: int) -> str:
    matrix = build_matrix(statement.predicate.bi_harness.checks)
    if not matrix.lines:
        return "### Matrix\n\nThe certificate lists no checks."
    columns, lines = matrix.columns[: max(1, listed // 10)], matrix.lines[:listed]
    heads = [
        f"{escape(column.suite, 80) or 'no suite'}<br>{escape(column.mode, 40) or 'no mode'}"
        for column in columns
    ]
    out = ["### Matrix", "", f"| Cell | {' | '.join(heads)} |", f"| --- |{' --- |' * len(heads)}"]
    for row, slots in lines:
        label = " · ".join(
            escape(part, 120) for part in (row.device, row.model, row.backend, row.parallel) if part
        )
        out.append(f"| {label} | {' | '.join(_slot(slot) for slot in slots[: len(columns)])} |")
    left_rows, left_columns = len(matrix.lines) - len(lines), len(matrix.columns) - len(columns)
    if left_rows or left_columns:
        left = f"{plural(left_rows, 'more row')} and {plural(left_columns, 'more column')}"
        out += ["", f"_{left} are in certificate.html._"]
    return "\n".join(out)


def _slot(slot: Slot) -> str:
    if not slot.marks:
        return "·"
    parts = []
    for status, found in slot.counts:
        label = f"{_SYMBOLS[status]} {count(found)} {status}"
        if status not in ("pass", "skip"):
            names = ", ".join(escape(mark.check, 60) for mark in slot.of(status)[:6])
            label += f": {names}{', …' if found > 6 else ''}"
        elif status == "skip" and slot.rules:
            label += f" ({', '.join(escape(rule, 60) for rule in slot.rules[:3])})"
        parts.append(label)
    return "<br>".join(parts)


def _findings(statement: Statement, listed: int) -> str:
    shown = facts.problems(statement)
    if not shown:
        return ""
    out = ["### Failures, errors and inconclusive checks"]
    for index, check in enumerate(shown[:listed], start=1):
        out.append(_finding(finding(statement, check, index)))
    if len(shown) > listed:
        out.append(f"_{count(len(shown) - listed)} more are in certificate.html and certificate.json._")
    return "\n\n".join(out)


def _finding(item: Finding) -> str:
    where = f"{code(item.check)} on {code(item.cell_label, 300)}"
    lines = [f"#### {_SYMBOLS[item.status]} {item.status}: {where}", ""]
    story = (item.waiver, item.reason, item.figures, item.where, item.control)
    lines += [f"{escape(text, 1_000)}  " for text in story if text]
    if item.log:
        lines.append(f"Log: {code(item.log, 400)}")
    return "\n".join([*lines, "", _fenced(item.command)])


def _fenced(command: str) -> str:
    # A fence must be longer than any run of backticks inside it.
    longest = max((len(run) for run in re.findall(r"`+", command)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}shell\n{command}\n{fence}"


def _localized(statement: Statement, listed: int) -> str:
    told = statement.predicate.bi_harness.localized
    if not told:
        return ""
    shown = told[: max(1, listed // 10)]
    out = ["### Where failures begin"]
    for one in shown:
        first, *rest = sentences(one)
        lines = [f"{code(one.check)} on {code(one.cell, 300)}: **{escape(first, 600)}**", ""]
        out.append("\n".join([*lines, *(f"{escape(line, 600)}  " for line in rest[:listed])]))
    if len(told) > len(shown):
        out.append(f"_{plural(len(told) - len(shown), 'more')} in certificate.json._")
    return "\n\n".join(out)


def _ops(statement: Statement, listed: int) -> str:
    tables = op_tables(statement)
    if not tables:
        return ""
    legend = ", ".join(f"{OP_SYMBOLS[state]} {OP_WORDS[state]}" for state in OP_SYMBOLS)
    out = ["### Operators by size of the batch", f"{legend} (from that size on)."]
    for table in tables[: max(1, listed // 10)]:
        shown = table.lines[:listed]
        heads = " | ".join(escape(head) for head in ("Operator", "dtype", *table.heads))
        lines = [code(table.cell, 300), "", f"| {heads} |", f"| --- | --- |{' --- |' * len(table.heads)}"]
        lines += [_op_line(line, len(table.heads)) for line in shown]
        if left := table.left + len(table.lines) - len(shown):
            lines += ["", f"_{plural(left, 'more operator')} in certificate.json._"]
        out.append("\n".join(lines))
    if len(tables) > max(1, listed // 10):
        out.append("_The operators of more cells are in certificate.json._")
    return "\n\n".join(out)


def _op_line(line: OpLine, width: int) -> str:
    name = escape(f"{line.op} ({line.shape})" if line.shape else line.op, 200)
    told = "" if line.judged or line.status == "skip" else " _told_"
    cells = (
        [band.text for band in line.bands] if not line.note else [escape(line.note, 300), *[""] * (width - 1)]
    )
    return f"| {name}{told} | {escape(line.dtype)} | {' | '.join(cells)} |"


def _modules(statement: Statement, listed: int) -> str:
    tables = module_tables(statement)
    if not tables:
        return ""
    legend = ", ".join(f"{MODULE_SYMBOLS[state]} {MODULE_WORDS[state]}" for state in MODULE_SYMBOLS)
    out = ["### Modules of the loaded model", f"{legend}. M is the rows of a batch."]
    for table in tables[: max(1, listed // 10)]:
        heads = ("", "Module", "Instance", "Own weights", "Called with", "dtype", "Holds for M")
        lines = [
            _module_heading(table),
            "",
            f"| {' | '.join(heads)} |",
            f"|{' --- |' * len(heads)}",
        ]
        shown = table.lines[:listed]
        lines += [_module_line(line) for line in shown]
        if left := table.left + len(table.lines) - len(shown):
            lines += ["", f"_{plural(left, 'more module')} in certificate.json._"]
        out.append("\n".join(lines))
    if len(tables) > max(1, listed // 10):
        out.append("_The modules of more cells are in certificate.json._")
    return "\n\n".join(out)


def _module_heading(table: ModuleTable) -> str:
    told = f"{table.audited} types audited, {table.failed} failed, {table.missing} not audited"
    return f"{code(table.cell, 300)}: {told}"


def _module_line(line: ModuleLine) -> str:
    found = "; ".join(part for part in (line.ranges, line.said, line.how) if part)
    cells = (line.type, line.name, line.weights or "—", line.form or "—", line.dtype or "—", found)
    return f"| {MODULE_SYMBOLS[line.state]} | {' | '.join(escape(cell, 500) for cell in cells)} |"


def _facts(statement: Statement, listed: int) -> str:
    tables = fact_tables(statement)
    if not tables:
        return ""
    out = ["### What engines said of themselves"]
    for table in tables[: max(1, listed // 10)]:
        heading = f"{code(table.check)} on {code(table.cell, 300)}"
        lines = [f"<details><summary>{escape(table.check, 160)}: {escape(table.cell, 300)}</summary>", ""]
        lines = [*lines, heading, "", "| Fact | Found | Expected | Control |", "| --- | --- | --- | --- |"]
        shown = table.lines[: max(1, listed // 3)]
        for fact in shown:
            cells = (fact.name, fact.found, fact.expected or "—", fact.control or "—")
            mark = "❌ " if fact.wrong else ""
            lines.append(f"| {mark}{' | '.join(escape(cell, 300) for cell in cells)} |")
        if left := table.left + len(table.lines) - len(shown):
            lines += ["", f"_{plural(left, 'more fact')} in certificate.json._"]
        out.append("\n".join([*lines, "", "</details>"]))
    left = len(tables) - max(1, listed // 10) + tables_left(statement)
    if left > 0:
        out.append(f"_The facts of {plural(left, 'more check')} are in certificate.json._")
    return "\n\n".join(out)


def _waivers(statement: Statement, listed: int) -> str:
    lines, left = waiver_lines(statement), waivers_left(statement)
    if not lines and not left:
        return ""
    out = ["### Waivers"]
    if lines:
        out += [
            "",
            "| Check | Cells | State | Until | Owner | Reason |",
            "| --- | --- | --- | --- | --- | --- |",
        ]
    for item in lines[:listed]:
        state = f"❌ {escape(item.state)}" if item.bad else escape(item.state)
        words = (escape(item.expires), escape(item.owner, 200), f"{escape(item.reason)} {escape(item.link)}")
        out.append(f"| {code(item.check)} | {code(item.cell, 300)} | {state} | {' | '.join(words)} |")
    if len(lines) > listed:
        out += ["", f"_{plural(len(lines) - listed, 'more waiver')} in certificate.html._"]
    return "\n".join([*out, *(["", f"_{escape(left)}_"] if left else [])])


def _skips(statement: Statement, listed: int) -> str:
    groups = skip_groups(statement)
    if not groups:
        return ""
    out = ["### Skips", "", "| Rule | Cells | Reason |", "| --- | --- | --- |"]
    out += [
        f"| {escape(group.rule, 120)} | {count(len(group.cells))} | {escape(group.reason) or '—'} |"
        for group in groups[:listed]
    ]
    if len(groups) > listed:
        out += ["", f"_{plural(len(groups) - listed, 'more rule')} in certificate.html._"]
    return "\n".join(out)


def _provenance(statement: Statement, listed: int) -> str:
    result = statement.predicate.bi_harness
    found = list(leaves(entries(result.provenance))) if result.provenance else []
    # The blank lines around the table are what lets Markdown inside <details> be read as Markdown.
    out = ["<details><summary>Provenance</summary>", "", "| | |", "| --- | --- |"]
    out += [f"| {escape(key, 300)} | {escape(value)} |" for key, value in found[:listed]]
    if not found:
        out.append("| nothing was recorded | |")
    if len(found) > listed:
        out += ["", f"_{count(len(found) - listed)} more in certificate.html._"]
    return "\n".join([*out, "", "</details>"])
