"""Runs units one after the other, each in a pytest process of its own, and watches over them."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from bi_harness.certificate.events import (
    CheckFinished,
    CheckProgress,
    CheckStarted,
    EngineReady,
    Event,
    UnitFinished,
    UnitStarted,
)
from bi_harness.engine import process
from bi_harness.engine.client import last_error_line, log_tail
from bi_harness.engine.preloaded import noted_sessions
from bi_harness.errors import UsageError
from bi_harness.runner.context import Context
from bi_harness.runner.journal import Tail, now

Outcome = Literal["completed", "crashed", "timed_out", "interrupted"]
POLL_S = 0.2
MARGIN_S = 120.0
"""What a unit may take beyond its checks and starts: pytest itself, and seeing processes gone."""


@dataclass(frozen=True, slots=True)
class UnitTask:
    """One unit, ready to run.

    Attributes:
        unit: its id.
        context: what its process is told.
        folder: for its files.
        suites: the suite folders to hand to pytest.
        timeout_s: the backstop; the engine's own limits come first.
    """

    unit: str
    context: Context
    folder: Path
    suites: tuple[Path, ...]
    timeout_s: float


def run_unit(
    task: UnitTask,
    emit: Callable[[Event], None],
    environ: Mapping[str, str],
    *,
    stopped: Callable[[], bool] = lambda: False,
) -> None:
    """Run one unit and pass its events on. Its end, however it ends, is an event too.

    Args:
        task: the unit.
        emit: takes the events.
        environ: of this process.
        stopped: whether to end the unit now; asked all the time.

    Raises:
        InfrastructureError: when its process cannot be started or does not end.
    """
    task.folder.mkdir(parents=True, exist_ok=True)
    context_path = task.folder / "unit.json"
    task.context.write(context_path)
    log = Path(task.context.logs) / f"{task.folder.name}.log"
    tail = Tail(Path(task.context.journal))
    started = time.monotonic()
    emit(UnitStarted(time=now(), unit=task.unit))

    child = process.start(pytest_command(context_path, task.suites), env=unit_env(environ), log=log)
    below: set[int] = set()
    outcome: Outcome = "completed"
    message = ""
    damaged = False
    try:
        while child.poll() is None:
            below |= process.sessions_below(child.pid)
            _pass_on(tail, emit)
            if stopped():
                outcome, message = "interrupted", "the run was interrupted"
                break
            if time.monotonic() - started >= task.timeout_s:
                outcome, message = "timed_out", f"the unit was killed after {task.timeout_s:.0f} s"
                break
            with suppress(subprocess.TimeoutExpired):
                child.wait(POLL_S)
        if outcome == "completed" and child.returncode not in (0, 1):  # pytest: all passed, or some failed
            outcome, message = "crashed", _crash(child, log)
    except UsageError as error:
        damaged = True
        outcome, message = "crashed", f"the unit's journal is damaged: {error}"
    finally:
        end(child, below, task.context, task.folder)
    if not damaged:
        try:
            _pass_on(tail, emit)
        except UsageError as error:
            if outcome == "completed":
                outcome, message = "crashed", f"the unit's journal is damaged: {error}"
    emit(
        UnitFinished(
            time=now(),
            unit=task.unit,
            outcome=outcome,
            message=message,
            log=os.path.relpath(log, task.context.run_dir),
            duration_s=round(time.monotonic() - started, 3),
        )
    )


def end(child: subprocess.Popen[bytes], below: set[int], context: Context, folder: Path) -> None:
    """See a unit's process gone, and all that it started.

    Args:
        child: the process.
        below: the sessions that were seen below it.
        context: what it was told.
        folder: that its engines' are in.

    Raises:
        InfrastructureError: something of it does not end.
    """
    process.stop(child, grace_s=0, known=below)
    if context.preload is not None:
        # These engines are no descendants of the unit. With it gone, no other one comes to be.
        process.end_sessions(noted_sessions(folder))


def _pass_on(tail: Tail, emit: Callable[[Event], None]) -> None:
    """Emit what a unit wrote down.

    Raises:
        UsageError: when it wrote what is no event, or one that is not a unit's to write.
    """
    for event in tail.read():
        if not isinstance(event, EngineReady | CheckStarted | CheckProgress | CheckFinished):
            raise UsageError(f"a unit does not write {event.type}")
        emit(event)


def pytest_command(context: Path, suites: Sequence[Path]) -> list[str]:
    """pytest with this plugin and no other, so that nothing on the host (reruns, say) changes a check."""
    return [
        *(sys.executable, "-m", "pytest", "-p", "bi_harness.pytest_plugin", "-p", "no:cacheprovider"),
        *("--import-mode=importlib", "-c", os.devnull, "--rootdir", str(suites[0].parent)),
        *("-ra", "--tb=short", "--bi-unit-file", str(context), "--bi-parent", str(os.getpid())),
        *map(str, suites),
    ]


def unit_env(environ: Mapping[str, str]) -> dict[str, str]:
    """The environment of a unit's process: without what would let pytest load or do something else."""
    env = {k: v for k, v in environ.items() if k not in ("PYTEST_ADDOPTS", "PYTEST_PLUGINS")}
    return {**env, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTHONUNBUFFERED": "1"}


def _crash(child: subprocess.Popen[bytes], log: Path) -> str:
    how = process.describe_exit(child.returncode)
    return f"the unit's process ended with {how}: {last_error_line(log_tail(log)) or 'its log says nothing'}"
