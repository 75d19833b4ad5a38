"""What a person sees while a run goes: a live bar on a terminal, a line for each event in a log."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Column

from bi_harness.certificate.events import (
    CheckFinished,
    CheckProgress,
    CheckStarted,
    EngineReady,
    Event,
    Localized,
    RunResumed,
    RunStarted,
    UnitFinished,
    UnitStarted,
)

_STYLES = {"pass": "green", "fail": "bold red", "error": "bold red", "inconclusive": "yellow"}
_START_SHARE = 0.3
"""The part of a check that its engine's start counts for, in the bar; the arms share the rest."""


class Watcher:
    """Takes events and shows them. Rich's markup is off throughout: ids and reasons are data."""

    def __init__(self, console: Console, bar: Progress | None) -> None:
        self._console = console
        self._bar = bar
        self._task: TaskID | None = None
        self._finished = self._total = self._units = self._units_done = self._units_begun = 0
        self._running: list[str] = []
        # How far each check that runs has come; units may run side by side.
        self._arms: dict[tuple[str, str], dict[str, float]] = {}

    def __call__(self, event: Event) -> None:
        """Show one event."""
        if isinstance(event, RunStarted):
            running = [p for p in event.own if p.rule is None]
            self._total = sum(len(p.checks) for p in running)
            self._units = len({p.unit for p in running})
            if self._bar is not None:
                self._task = self._bar.add_task("starting", total=float(self._total))
        elif isinstance(event, RunResumed):
            self._finished, self._total = event.kept, event.kept + event.left
            self._units = event.units
            self._say(f"resumed: {event.kept} checks keep their results, {event.left} are left")
            self._advance(float(self._finished))
        elif isinstance(event, UnitStarted):
            self._units_begun += 1
            self._running.append(event.unit)
            on = f" on {event.node.host} ({event.node.id[:8]})" if event.node is not None else ""
            self._say(f"unit {self._units_begun}/{self._units} {event.unit}{on}")
            self._describe(f"{event.unit}: starting")
        elif isinstance(event, EngineReady):
            self._say(
                f"  {event.arm.arm} engine ready after {event.arm.start_s:.0f} s{self._of(event.arm.unit)}"
            )
        elif isinstance(event, CheckStarted):
            self._describe(f"{event.cell} {event.check}")
        elif isinstance(event, CheckProgress):
            # Each arm is half of a check, whether they take turns or not.
            self._arms.setdefault((event.cell, event.check), {})[event.arm] = event.done / event.of
            self._advance(self._finished + self._begun())
        elif isinstance(event, CheckFinished):
            self._finished += 1
            result = event.result
            self._arms.pop((result.cell, result.check), None)
            self._advance(self._finished + self._begun())
            took = f"({result.duration_s or 0:.0f} s){self._of(result.cell)}"
            line = f"  {result.status:<12} {result.check} {took}"
            self._say(
                f"{line}{': ' + result.reason if result.reason else ''}", _STYLES.get(result.status, "")
            )
        elif isinstance(event, UnitFinished):
            if event.outcome == "lost":
                self._units_begun -= 1  # It begins again.
            else:
                self._units_done += 1
            of = self._of(event.unit)
            if event.unit in self._running:
                self._running.remove(event.unit)
            if event.message:
                self._say(f"  {event.outcome}: {event.message}{of}", "bold red")

        elif isinstance(event, Localized):
            told = event.localization
            self._say(f"  localized    {told.check}: {told.where or told.reason}")

    def _begun(self) -> float:
        """How much there is of checks that are not finished, in checks."""
        return sum(_START_SHARE + (1 - _START_SHARE) * sum(arms.values()) / 2 for arms in self._arms.values())

    def _of(self, what: str) -> str:
        """Which unit a line is of, where several run."""
        return f" [{what}]" if len(self._running) > 1 else ""

    def _say(self, text: str, style: str = "") -> None:
        self._console.print(_printable(text), style=style, markup=False, highlight=False, soft_wrap=True)

    def _describe(self, text: str) -> None:
        if self._bar is not None and self._task is not None:
            # Cut here, for rich looks at all of it each time it draws.
            self._bar.update(
                self._task,
                description=_printable(text[:500]),
                units=f"units {self._units_done}/{self._units}",
            )

    def _advance(self, completed: float) -> None:
        if self._bar is not None and self._task is not None:
            self._bar.update(
                self._task,
                completed=completed,
                checks=f"checks {self._finished}/{self._total}",
                units=f"units {self._units_done}/{self._units}",
            )


def _printable(text: str) -> str:
    # Neither rich's Text nor its bar keeps an escape from the terminal.
    return "".join(c if c.isprintable() else " " for c in text[:10_000])


@contextmanager
def watching(console: Console) -> Iterator[Watcher]:
    """A watcher that shows a bar with the time left where ``console`` is a terminal, and lines elsewhere."""
    if not console.is_terminal:
        yield Watcher(console, None)
        return
    columns = (
        TextColumn("{task.fields[units]}  {task.fields[checks]}"),
        BarColumn(bar_width=20),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        # Last, and cut where the line ends: a cell's id must not push the figures out of sight.
        TextColumn(
            "{task.description}",
            markup=False,
            table_column=Column(ratio=1, no_wrap=True, overflow="ellipsis"),
        ),
    )
    # Work comes in bursts, so the speed is taken over the whole run.
    with _Bar(*columns, console=console, transient=True, expand=True, speed_estimate_period=86400) as bar:
        yield Watcher(console, bar)


class _Bar(Progress):
    """A bar whose tasks have the fields that the columns name from the start."""

    def add_task(self, description: str, *args: object, **fields: object) -> TaskID:
        return super().add_task(description, *args, **{"units": "", "checks": "", **fields})  # type: ignore[arg-type]
