"""Self-tests on a terminal: the result of one, and whether those that are recorded hold for a release."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Literal

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from bi_harness.certificate.power import FaultResult, PowerCheck, SelfTest
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


def print_power_check(checks: Sequence[PowerCheck], console: Console) -> None:
    """Print the table of the suites, then each problem and the command that solves it."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold", safe_box=True)
    for name, justify in _CHECK_COLUMNS:
        table.add_column(name, justify=justify, overflow="fold")
    for check in checks:
        style = "green" if not check.problems else "bold red" if check.state == "current" else "bold yellow"
        recorded = check.state in ("current", "stale")
        table.add_row(
            Text(plain(console, clean(check.suite, 80))),
            Text(check.state, style=style),
            Text(f"{count(check.caught)} of {count(check.faults)}" if recorded else ""),
            Text(count(len(check.untried))),
            Text(f"{count(check.false_alarms)} in {count(check.clean_runs)}" if recorded else ""),
            Text(plain(console, clean(check.vllm, 40))),
        )
    console.print(table, markup=False, highlight=False, emoji=False)
    for line in power_check_summary(checks):
        console.print(Text(plain(console, line)), soft_wrap=True)


def power_check_summary(checks: Sequence[PowerCheck]) -> list[str]:
    """The problems, a line each, and what to do."""
    lines = [f"{clean(c.suite, 80)}: {clean(problem, 1000)}" for c in checks for problem in c.problems]
    if not lines:
        return [f"The recorded self-test of {plural(len(checks), 'suite')} is complete and current."]
    # What cannot be read says itself what to do, and a suite without a planted fault has no self-test.
    again = [c.suite for c in checks if c.problems and c.state != "unreadable" and (c.untried or c.faults)]
    commands = [f"  bi-harness selftest --suite {clean(suite, 80)} --record" for suite in again]
    return [*lines, *(["hint: run the self-test again and keep its result:"] if again else []), *commands]


_CHECK_COLUMNS: Final[tuple[tuple[str, Literal["left", "right"]], ...]] = (
    ("suite", "left"),
    ("self-test", "left"),
    ("caught", "right"),
    ("untried", "right"),
    ("false alarms", "right"),
    ("vLLM", "left"),
)

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
