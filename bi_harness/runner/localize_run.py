"""``bi-harness localize RUN CELL``: a failure of a run that is over. Nothing of the run is changed."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Collection
from pathlib import Path

from bi_harness.certificate.build import build
from bi_harness.certificate.localized import Localization
from bi_harness.certificate.records import CheckResult
from bi_harness.certificate.statement import Statement
from bi_harness.errors import NothingToRun, UsageError
from bi_harness.runner.earlier import Earlier
from bi_harness.runner.engines import safe_name
from bi_harness.runner.journal import JOURNAL, read, read_whole_lines
from bi_harness.runner.localizing import localizable, localize_failure
from bi_harness.runner.resume import prepare_again
from bi_harness.runner.run import RunOptions, unit_task

FOLDER = "localized"
"""Of a run, for what ``localize`` finds afterwards; no part of what is signed."""


def failure(statement: Statement, cell: str, check: str | None) -> CheckResult:
    """The failed check that is meant.

    Args:
        statement: of the run.
        cell: its id, or a part of one that no other cell with failures has.
        check: its name; ``None`` for the cell's first failure.

    Raises:
        UsageError: there is no such cell or check, or more than one cell.
        NothingToRun: it has not failed, or compares no requests.
    """
    checks = statement.predicate.bi_harness.checks
    cells = list(dict.fromkeys(c.cell for c in checks))
    meant = [c for c in cells if c == cell] or [c for c in cells if cell in c]
    if not meant:
        raise UsageError(f'the run has no cell "{cell}". It has: {", ".join(cells)}')
    own = [c for c in checks if c.cell in meant and check in (None, c.check)]
    if not own:
        raise UsageError(f'{meant[0]} has no check "{check}"')
    failed = [c for c in own if localizable(c)]
    if len({c.cell for c in failed}) > 1:
        raise UsageError(f'"{cell}" is in several: {", ".join(dict.fromkeys(c.cell for c in failed))}')
    if not failed:
        told = ", ".join(f"{c.check}: {c.status}" for c in own)
        raise NothingToRun(f"no request differs in {meant[0]} ({told}): there is nothing to trace")
    return failed[0]


def localize_run(
    run_dir: Path,
    cell: str,
    check: str | None,
    given: RunOptions,
    explicit: Collection[str],
    *,
    budget_s: float,
    out: Path | None = None,
    stopped: Callable[[], bool] = lambda: False,
) -> tuple[Localization, Path]:
    """Localize a failure of a run that is over, as it ran: with its options, YAML, suites and vLLM.

    Args:
        run_dir: the run's folder, which is only read but for ``localized/`` in it.
        cell, check: see ``failure``.
        given: of the command line.
        explicit: names of those fields of it that were really given.
        budget_s: after which nothing new is begun.
        out: for what is written, in place of ``localized/``.
        stopped: whether to end now; asked all the time.

    Returns:
        What was found, and the folder for what is to be written of it.

    Raises:
        HarnessError: it is no run, not this one, or there is nothing to localize.
    """
    run_dir = run_dir.absolute()
    # Not Path.is_file, which raises where the path is too long.
    if not os.path.isfile(run_dir / JOURNAL):  # noqa: PTH113
        raise UsageError(f"{run_dir} has no {JOURNAL}: give the folder of a run, DIR/<device>/<run id>")
    result = failure(build(*read(run_dir / JOURNAL, progress=False)), cell, check)
    events, whole, torn = read_whole_lines(run_dir / JOURNAL)
    start = events[0]
    assert start.type == "run_started"  # build() has seen to it
    if start.scope.endpoint is not None:
        raise UsageError("the run was of a server that bi-harness did not start: its modules cannot be seen")
    earlier = Earlier(run_dir, tuple(events), start, whole, len(torn), 0)
    prepared = prepare_again(earlier, given, explicit, "localize in")
    folder = out.absolute() if out is not None else run_dir / FOLDER
    try:
        folder.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix=".work-", dir=folder))
    except OSError as error:
        raise UsageError(f"cannot write to {folder}: {error.strerror}. Choose another with --out") from error
    try:
        (work / "logs").mkdir()
        task = unit_task(prepared, result.cell, work)
        found = localize_failure(
            task, result, prepared.options.environment(), budget_s=budget_s, stopped=stopped
        )
        if found.outcome == "failed":
            logs = folder / "logs"
            shutil.copytree(work / "logs", logs, dirs_exist_ok=True)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return found, folder


def stem(localization: Localization) -> str:
    """For names of files."""
    return safe_name(f"{localization.cell}-{localization.check}").replace(os.sep, "_")
