"""The plan for a reader, on 80 columns."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from rich.console import Console
from rich.table import Table
from rich.text import Text

from bi_harness.cli.output import clean
from bi_harness.cli.plan import totals
from bi_harness.cli.release import VllmRelease
from bi_harness.matrix.cells import PlannedCell
from bi_harness.matrix.select import Selection


class _Row(NamedTuple):
    model: str
    backend: str
    sizes: str


class _Why(NamedTuple):
    rule: str
    reason: str
    source: str


def show(selection: Selection, release: VllmRelease, settings: Mapping[str, Any]) -> None:
    """Write the plan to stdout: what runs, then what does not and why."""
    console = Console(highlight=False)
    console.print(_heading(selection, release, settings))
    running = [planned for planned in selection.plan.cells if planned.status == "run"]
    skipped = [planned for planned in selection.plan.cells if planned.status == "skip"]
    if running:
        console.print(_runs(running, selection))
    if skipped:
        console.print(_skips(skipped))
    count = totals(selection)
    console.print(
        Text(
            f"{_n(count['run'], 'cell')} to run in {_n(count['units'], 'unit')} "
            f"({_n(count['checks'], 'check')}); {count['skip']} skipped"
        )
    )


def _heading(selection: Selection, release: VllmRelease, settings: Mapping[str, Any]) -> Text:
    parts = [f"{settings['profile']} profile", f"{settings['weights']} weights"]
    if settings["layers"]:
        parts.append(_n(settings["layers"], "layer"))
    if shard := settings.get("shard"):
        parts.append(f"shard {shard['index']} of {shard['count']}")
    heading = Text("Plan for ")
    heading.append(clean(selection.plan.device), style="bold")
    heading.append(f": vLLM {clean(release.version)} ({release.origin}), {', '.join(parts)}")
    return heading


def _runs(cells: list[PlannedCell], selection: Selection) -> Table:
    modes: dict[_Row, dict[str, None]] = {}
    checks: dict[_Row, dict[str, None]] = {}
    for planned in cells:
        cell = planned.cell
        row = _Row(cell.model, cell.backend, f"tp{cell.tp} dp{cell.dp}")
        modes.setdefault(row, {})[cell.mode] = None
        names = ", ".join(selection.checks[cell.id])
        checks.setdefault(row, {})[f"{cell.suite}: {names}"] = None
    table = Table(title="Runs", title_justify="left", title_style="bold", expand=False)
    for name in ("Model", "Backend", "Sizes", "Modes", "Checks"):
        table.add_column(name, overflow="fold")
    before = ""
    for row, its_modes in modes.items():
        # A model that goes on is not named again: the table reads by model.
        model = "" if row.model == before else clean(row.model)
        before = row.model
        table.add_row(
            Text(model),
            Text(clean(row.backend)),
            row.sizes,
            "\n".join(its_modes),
            Text("\n".join(checks[row])),
        )
    return table


def _skips(cells: list[PlannedCell]) -> Table:
    groups: dict[_Why, list[PlannedCell]] = {}
    for planned in cells:
        groups.setdefault(_Why(planned.rule or "", planned.reason, planned.source), []).append(planned)
    table = Table(title="Skipped", title_justify="left", title_style="bold", expand=False)
    table.add_column("Rule", overflow="fold", max_width=26)
    table.add_column("Cells", justify="right")
    table.add_column("Why", overflow="fold")
    for why, members in groups.items():
        reason = Text(clean(why.reason))
        reason.append(f"\n{clean(why.source)}", style="dim")
        table.add_row(Text(clean(why.rule)), str(len(members)), reason)
    return table


def _n(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"
