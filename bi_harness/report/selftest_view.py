"""The result of a self-test on a terminal: the table of faults, the score, the false alarms."""

from __future__ import annotations

from typing import Final, Literal

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from bi_harness.certificate.power import FaultResult, SelfTest
from bi_harness.report.console import plain
from bi_harness.report.text import clean, count, plural


def print_selftest(result: SelfTest, console: Console) -> None:
    """Print it. Everything goes through ``Text``, never through rich's markup."""
    if result.faults:
        console.print(_table(result, console), markup=False, highlight=False, emoji=False)
    for line in summary(result):
        console.print(Text(plain(console, line)), soft_wrap=True)


def summary(result: SelfTest) -> list[str]:
    """What it comes to, a sentence a line."""
    lines = []
    if result.faults:
        lines.append(f"{count(result.caught)} of {plural(len(result.faults), 'planted fault')} caught.")
    if tried := [f for f in result.faults if f.module is not None and f.localized is not None]:
        right = sum(f.localized_right for f in tried)
        lines.append(f"{count(right)} of {plural(len(tried), 'fault')} in a module traced to it.")
    if result.clean_runs or result.unsound:
        lines.append(
            f"{plural(result.false_alarms, 'false alarm')} in {plural(result.clean_runs, 'clean run')}."
        )
    lines += [f"No answer from {clean(line, 500)}" for line in result.unsound]
    lines += [f"No answer from {f.id}: {clean(f.error, 500)}" for f in result.faults if f.error]
    return lines


_COLUMNS: Final[tuple[tuple[str, Literal["left", "right"]], ...]] = (
    ("fault", "left"),
    ("", "left"),
    ("caught by", "left"),
    ("requests", "right"),
    ("token", "right"),
    ("sits in", "left"),
)


def _traced(fault: FaultResult, console: Console) -> Text:
    if fault.localized is None:
        return Text("")
    style = "green" if fault.localized_right else "bold red" if fault.module else ""
    return Text(plain(console, clean(fault.localized, 200)) or "no module", style=style)


def _table(result: SelfTest, console: Console) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold", safe_box=True)
    # Folded, not shortened: the sign of what was left out is not in every encoding.
    for name, justify in _COLUMNS:
        table.add_column(name, justify=justify, overflow="fold")
    if any(fault.localized is not None for fault in result.faults):
        table.add_column("traced to", overflow="fold")
    for fault in result.faults:
        word, style = _outcome(fault)
        table.add_row(
            Text(plain(console, clean(fault.id, 80))),
            Text(word, style=style),
            Text(plain(console, clean(", ".join(fault.checks), 400)) if fault.caught else ""),
            Text("" if fault.first_request is None else count(fault.first_request)),
            Text("" if fault.first_step is None else count(fault.first_step)),
            Text(plain(console, clean(fault.module or "", 200))),
            *([_traced(fault, console)] if len(table.columns) > len(_COLUMNS) else []),
        )
    return table


def _outcome(fault: FaultResult) -> tuple[str, str]:
    if fault.caught:
        return "caught", "green"
    return ("no answer", "bold yellow") if fault.error else ("missed", "bold red")
