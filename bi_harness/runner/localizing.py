"""Localizing a failure in a process of its own, beside a run or after it. It changes no verdict."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from bi_harness.certificate.events import CheckFinished, Event, Localized
from bi_harness.certificate.localized import Localization
from bi_harness.certificate.records import CheckResult
from bi_harness.engine import process
from bi_harness.engine.client import last_error_line, log_tail
from bi_harness.errors import HarnessError
from bi_harness.runner.context import SelectedCell
from bi_harness.runner.engines import safe_name
from bi_harness.runner.journal import JOURNAL, Tail, now
from bi_harness.runner.local import MARGIN_S, POLL_S, UnitTask, end, pytest_command, unit_env
from bi_harness.runner.localize_task import LocalizeTask

BUDGET_S = 180.0
"""Of a failure in a run: after this long nothing new is begun; what was begun comes to its end. Starts of the
engines that are needed in any case (see ``localize.driver``) take nothing of it."""


class FirstFailure:
    """Passes events on, and keeps the first failure among them that can be localized.

    Args:
        emit: takes the events.
    """

    def __init__(self, emit: Callable[[Event], None]) -> None:
        self._emit = emit
        self.result: CheckResult | None = None

    def __call__(self, event: Event) -> None:
        """Take one."""
        self._emit(event)
        if self.result is None and isinstance(event, CheckFinished) and localizable(event.result):
            self.result = event.result


def localizable(result: CheckResult) -> bool:
    """Whether requests differ in it, so that there is a pair to rerun."""
    evidence = result.evidence
    return (
        result.status in ("fail", "waived")
        and evidence is not None
        and evidence.first_divergence is not None
        and bool(evidence.first_divergence.arm)
    )


def localize_failure(
    task: UnitTask,
    result: CheckResult,
    environ: Mapping[str, str],
    *,
    budget_s: float = BUDGET_S,
    stopped: Callable[[], bool] = lambda: False,
) -> Localization:
    """Localize a failed check of a unit. Whatever goes wrong is told in what it gives.

    Args:
        task: the unit, as it ran.
        result: a localizable one.
        environ: of the unit.
        budget_s: after which nothing new is begun.
        stopped: whether to end it now; asked all the time.
    """
    try:
        return _in_a_process(task, result, environ, budget_s, stopped)
    except (HarnessError, OSError) as error:
        return _failed(result, f"{type(error).__name__}: {error}")


def _failed(result: CheckResult, reason: str) -> Localization:
    return Localization(cell=result.cell, check=result.check, outcome="failed", reason=reason[:2000])


def _in_a_process(
    unit: UnitTask,
    result: CheckResult,
    environ: Mapping[str, str],
    budget_s: float,
    stopped: Callable[[], bool],
) -> Localization:
    assert result.evidence is not None
    assert result.evidence.first_divergence is not None
    first = result.evidence.first_divergence
    folder = unit.folder / safe_name(f"localize-{result.cell}-{result.check}")
    folder.mkdir(parents=True, exist_ok=True)
    journal = folder / JOURNAL
    journal.unlink(missing_ok=True)
    wanted = LocalizeTask(result.cell, result.check, first.prompt, (first.arm or 1) - 1, budget_s)
    wanted.write(folder / "localize.json")
    # The other cells stay, without checks: engines are as large as all of the unit need.
    cells = tuple(
        SelectedCell(s.cell, (result.check,) if s.cell.id == result.cell else ()) for s in unit.context.cells
    )
    # With the caches of the unit, which is over: a compiled engine then has the very code that failed.
    context = replace(
        unit.context, cells=cells, journal=str(journal), folder=str(folder), caches=unit.context.folder
    )
    context.write(folder / "unit.json")
    log = Path(context.logs) / f"{unit.folder.name}-localize.log"
    suite = next(s.cell.suite for s in cells if s.cell.id == result.cell)
    suites = [path for path in unit.suites if path.name == suite]
    command = [*pytest_command(folder / "unit.json", suites), "--bi-localize", str(folder / "localize.json")]
    child = process.start(command, env=unit_env(environ), log=log)
    below: set[int] = set()
    ended = ""
    deadline = time.monotonic() + budget_s + unit.timeout_s + MARGIN_S
    try:
        while child.poll() is None and not ended:
            below |= process.sessions_below(child.pid)
            if stopped():
                ended = "the run was interrupted"
            elif time.monotonic() >= deadline:
                ended = "it took too long and was killed"
            else:
                with suppress(subprocess.TimeoutExpired):
                    child.wait(POLL_S)
    finally:
        end(child, below, context, folder)
    return _told(journal, result, ended or last_error_line(log_tail(log)), context.run_dir, log)


def _told(journal: Path, result: CheckResult, otherwise: str, run_dir: str, log: Path) -> Localization:
    for event in Tail(journal).read():
        if isinstance(event, Localized):
            told = event.localization
            if (told.cell, told.check) == (result.cell, result.check):
                return told
    return _failed(result, f"{otherwise or 'it ended without a word'} (log: {os.path.relpath(log, run_dir)})")


def localized(localization: Localization) -> Localized:
    """As an event."""
    return Localized(time=now(), localization=localization)
