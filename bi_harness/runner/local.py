"""Runs units one after the other, each in a pytest process of its own, and watches over them."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bi_harness.certificate.events import Event, UnitFinished, UnitStarted
from bi_harness.engine import process
from bi_harness.engine.client import last_error_line, log_tail
from bi_harness.runner.context import Context
from bi_harness.runner.journal import Tail, now

POLL_S = 0.2
STOP_GRACE_S = 10.0
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


def run_unit(task: UnitTask, emit: Callable[[Event], None], environ: Mapping[str, str]) -> None:
    """Run one unit and pass its events on. Its end, however it ends, is an event too.

    Raises:
        InfrastructureError: when its process cannot be started or does not end.
        KeyboardInterrupt: passed on, with the unit's processes gone and its end journalled.
    """
    task.folder.mkdir(parents=True, exist_ok=True)
    context_path = task.folder / "unit.json"
    task.context.write(context_path)
    log = Path(task.context.logs) / f"{task.folder.name}.log"
    tail = Tail(Path(task.context.journal))
    started = time.monotonic()
    emit(UnitStarted(time=now(), unit=task.unit))

    def ended(outcome: str, message: str) -> None:
        for event in tail.read():
            emit(event)
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

    child = process.start(pytest_command(context_path, task.suites), env=unit_env(environ), log=log)
    try:
        while child.poll() is None and time.monotonic() - started < task.timeout_s:
            for event in tail.read():
                emit(event)
            time.sleep(POLL_S)
    except KeyboardInterrupt:
        process.stop(child, grace_s=0)
        ended("interrupted", "the run was interrupted")
        raise
    timed_out = child.poll() is None
    process.stop(child, grace_s=0 if timed_out else STOP_GRACE_S)
    if timed_out:
        ended("timed_out", f"the unit was killed after {task.timeout_s:.0f} s")
    elif child.returncode in (0, 1):  # pytest: all passed, or some failed
        ended("completed", "")
    else:
        ended("crashed", _crash(child, log))


def pytest_command(context: Path, suites: Sequence[Path]) -> list[str]:
    """pytest with this plugin and no other, so that nothing on the host (reruns, say) changes a check."""
    return [
        *(sys.executable, "-m", "pytest", "-p", "bi_harness.pytest_plugin", "-p", "no:cacheprovider"),
        *("--import-mode=importlib", "-c", os.devnull, "--rootdir", str(suites[0].parent)),
        *("-ra", "--tb=short", "--bi-unit-file", str(context)),
        *map(str, suites),
    ]


def unit_env(environ: Mapping[str, str]) -> dict[str, str]:
    """The environment of a unit's process: without what would let pytest load or do something else."""
    env = {k: v for k, v in environ.items() if k not in ("PYTEST_ADDOPTS", "PYTEST_PLUGINS")}
    return {**env, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTHONUNBUFFERED": "1"}


def _crash(child: subprocess.Popen[bytes], log: Path) -> str:
    how = process.describe_exit(child.returncode)
    return f"the unit's process ended with {how}: {last_error_line(log_tail(log)) or 'its log says nothing'}"
