"""The final result on a terminal, with or without colour, wide or piped."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from rich import box
from rich.console import Console
from rich.padding import Padding
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from bi_harness.certificate.localized import Localization
from bi_harness.certificate.records import Status, Verdict
from bi_harness.certificate.statement import Statement
from bi_harness.report import facts
from bi_harness.report.execution_view import execution_label
from bi_harness.report.findings import Finding, cell_figures, finding, skip_groups
from bi_harness.report.localized_view import sentences
from bi_harness.report.text import clean, count, plural
from bi_harness.report.waivers_view import STATE_WORDS, waiver_lines, waivers_left

MAX_FINDINGS: Final = 20
"""More than this scrolls the verdict off the screen; the reports have them all."""

_STYLES: Final[dict[Status, str]] = {
    "pass": "green",
    "fail": "bold red",
    "error": "bold red",
    "inconclusive": "bold yellow",
    "skip": "dim",
    "waived": "magenta",
}
_VERDICT_STYLES: Final[dict[Verdict, str]] = {
    "CERTIFIED": "bold green",
    "NOT_CERTIFIED": "bold red",
    "INCONCLUSIVE": "bold yellow",
}


def print_result(statement: Statement, console: Console, reports: Mapping[str, Path] | None = None) -> None:
    """Prints the verdict, the checks by cell, each failure's first divergence, and where the reports are.

    Everything from the certificate goes through ``Text``, never through rich's markup.
    """
    if any(check.status != "skip" for check in statement.predicate.bi_harness.checks):
        _print(console, _table(statement, console))
    _print_skips(statement, console)
    _print_waivers(statement, console)
    shown = facts.problems(statement)
    for index, check in enumerate(shown[:MAX_FINDINGS], start=1):
        _print_finding(finding(statement, check, index), console)
    if len(shown) > MAX_FINDINGS:
        _print(console, Text(f"{count(len(shown) - MAX_FINDINGS)} more in the reports.", style="dim"))
    for told in statement.predicate.bi_harness.localized[:MAX_FINDINGS]:
        print_localized(told, console)
    _print(console, _banner(statement, console))
    for name, path in (reports or {}).items():
        _print(console, Text.assemble((f"{clean(name, 40)}: ", "dim"), clean(path, 4_000)), wrap=False)


def _print(console: Console, item: Table | Panel | Text | Padding, wrap: bool = True) -> None:
    # A path or a command that is broken over lines cannot be copied.
    console.print(item, soft_wrap=not wrap, markup=False, highlight=False, emoji=False)


def plain(console: Console, text: str) -> str:
    """The text with what the terminal's encoding cannot show replaced, so that nothing raises."""
    return text.encode(console.encoding, errors="replace").decode(console.encoding)


def _table(statement: Statement, console: Console) -> Table:
    """A line per cell with its checks by status, worst first: the words carry it where there is no colour."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold", safe_box=True)
    table.add_column("cell", overflow="fold")
    table.add_column("checks", overflow="fold")
    for cell in cell_figures(statement):
        line = Text()
        for status in facts.STATUSES:
            names = [figures.check for figures in cell.checks if figures.status == status]
            if names:
                line.append("\n" if line else "").append(status, style=_STYLES[status])
                line.append(plain(console, f" {', '.join(names)}"))
        table.add_row(Text(plain(console, cell.cell)), line)
    return table


def _print_skips(statement: Statement, console: Console) -> None:
    for group in skip_groups(statement):
        line = f"skipped by {group.rule}: {plural(len(group.cells), 'cell')}. {clean(group.reason, 300)}"
        _print(console, Text(plain(console, line), style="dim"))


def _print_waivers(statement: Statement, console: Console) -> None:
    """Those in force are told with their failures; here are the others."""
    for item in waiver_lines(statement):
        if item.state != STATE_WORDS["in_force"]:
            line = f"waiver of {item.check} on {item.cell}: {item.state} (until {item.expires}, {item.owner})"
            _print(console, Text(plain(console, line), style="bold red" if item.bad else "dim"))
    if left := waivers_left(statement):
        _print(console, Text(plain(console, left), style="dim"))


def _print_finding(item: Finding, console: Console) -> None:
    _print(console, Text())
    heading = Text.assemble((item.status, _STYLES[item.status]), plain(console, f" {item.check} "))
    heading.append(plain(console, item.cell_label), style="dim")
    _print(console, heading)
    log = f"log: {item.log}" if item.log else ""
    for line in (item.waiver, clean(item.reason, 1_000), item.figures, item.where, item.control, log):
        if line:
            _print(console, Padding(Text(plain(console, line)), (0, 0, 0, 2), expand=False))
    _print(console, Text(plain(console, f"  {item.command}"), style="cyan"), wrap=False)


def print_localized(told: Localization, console: Console) -> None:
    """Where a failure begins."""
    first, *rest = sentences(told)
    _print(console, Text())
    heading = Text.assemble(("localized", "bold"), plain(console, f" {clean(told.check, 160)} "))
    heading.append(plain(console, clean(told.cell, 300)), style="dim")
    _print(console, heading)
    _print(console, Padding(Text(plain(console, first), style="bold red"), (0, 0, 0, 2), expand=False))
    for line in rest:
        _print(console, Padding(Text(plain(console, line)), (0, 0, 0, 2), expand=False))


def _banner(statement: Statement, console: Console) -> Panel:
    result = statement.predicate.bi_harness
    style = _STYLES["waived"] if facts.warned(statement) else _VERDICT_STYLES[result.verdict]
    body = Text.assemble((plain(console, facts.verdict_line(statement)), style), "\n")
    power, axes = facts.power_label(statement), facts.axes_label(statement)
    lines = [
        clean(result.why, 1_000),
        f"{facts.device_label(statement)}, vLLM {facts.vllm_version(statement)}",
        f"Weights: {facts.weights_label(statement)}",
        *([f"Execution: {execution}"] if (execution := execution_label(statement)) else []),
        f"Scope: {facts.scope_label(statement)}",
        f"Checks: {facts.counts_line(statement)}",
        f"Axes: {axes}" if axes else "",
        f"Power: {power}" if power else "",
        *facts.caveats(statement),
    ]
    body.append(plain(console, "\n".join(line for line in lines if line)))
    return Panel(body, border_style=style, expand=False, safe_box=True)
