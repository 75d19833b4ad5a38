"""What commands tell Buildkite of a run, when they are part of one of its jobs.

Nothing here changes a verdict or an exit code: what goes wrong is a warning.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bi_harness.cli.output import warn

if TYPE_CHECKING:
    from bi_harness.certificate.gate import GateResult
    from bi_harness.certificate.statement import Statement

Annotate = Annotated[
    bool,
    typer.Option(
        "--annotate/--no-annotate",
        envvar="BI_HARNESS_ANNOTATE",
        help="In a Buildkite job, show the result on the build's page.",
    ),
]


def tell(
    statement: Statement,
    run_dir: Path,
    *,
    annotate: bool,
    stopped: Callable[[], bool] = lambda: False,
) -> None:
    """In a Buildkite job, leave ``test-engine.json`` in the run's folder and annotate the build.

    Args:
        statement: the certificate.
        run_dir: the run's folder, with its journal.
        annotate: whether to annotate.
        stopped: whether the job is being cancelled: then there is little time.
    """
    from bi_harness.buildkite import agent

    job = agent.job(os.environ)
    if job is None:
        return
    try:
        _leave_test_engine(statement, run_dir)
        if annotate and job.agent is not None:
            from bi_harness.buildkite import annotation

            # Jobs of one step do not write over each other, whatever they were told to run.
            shard = annotation.shard_of(statement) or job.shard
            _say(
                agent.annotate(
                    job.agent,
                    annotation.body(statement, shard),
                    context=annotation.context(statement, shard),
                    style=annotation.style(statement),
                    timeout_s=agent.HURRIED_S if stopped() else agent.TIMEOUT_S,
                )
            )
    except Exception as error:
        _say(f"{type(error).__name__}: {error}")


def _leave_test_engine(statement: Statement, run_dir: Path) -> None:
    from bi_harness.errors import UsageError

    try:
        write_test_engine(statement, run_dir)
    except UsageError as error:
        warn(str(error))


def tell_gate(result: GateResult, *, annotate: bool) -> None:
    """In a Buildkite job, annotate the build with what the gate found."""
    from bi_harness.buildkite import agent

    job = agent.job(os.environ)
    if job is None or job.agent is None or not annotate:
        return
    try:
        from bi_harness.buildkite import annotation

        _say(
            agent.annotate(
                job.agent,
                annotation.gate_body(result),
                context=annotation.GATE_CONTEXT,
                style=annotation.gate_style(result),
            )
        )
    except Exception as error:
        _say(f"{type(error).__name__}: {error}")


def _say(problem: str) -> None:
    if problem:
        warn(f"Buildkite was not told of the result, which stands: {problem[:500]}")


def in_job() -> bool:
    """Whether this process is part of a Buildkite job, whose runs have ``test-engine.json``."""
    from bi_harness.buildkite import agent

    return agent.job(os.environ) is not None


def content_for_test_engine(statement: Statement, run_dir: Path) -> dict[str, bytes]:
    """What ``test-engine.json`` and the files after it hold, by name.

    Raises:
        UsageError: the journal cannot be read.
    """
    from bi_harness.certificate.files import JOURNAL
    from bi_harness.report.testengine import render_test_engine
    from bi_harness.runner.journal import read

    events, _ = read(run_dir / JOURNAL, progress=False)
    return render_test_engine(statement, events)


def write_test_engine(statement: Statement, run_dir: Path, *, sign: bool = False) -> dict[str, Path]:
    """Write ``test-engine.json`` into a run's folder; returns name → path.

    Args:
        statement: the certificate.
        run_dir: the run's folder, with its journal.
        sign: whether the folder is signed afterwards. Else no signed file is replaced by other content.

    Raises:
        InfrastructureError: it cannot be written, or an old one cannot be removed.
        UsageError: the journal cannot be read, or a signature would no longer hold.
    """
    from bi_harness.errors import InfrastructureError, UsageError
    from bi_harness.report.sealed import listed
    from bi_harness.report.testengine import PATTERN
    from bi_harness.report.write import replace_file

    files = content_for_test_engine(statement, run_dir)
    signed = {} if sign else listed(run_dir)
    for name, content in files.items():
        if signed.get(name, "") not in ("", hashlib.sha256(content).hexdigest()):
            raise UsageError(
                f"{run_dir / name} is signed, and is of other content than this version of bi-harness would "
                "write now. What to do: sign again with --sign-key"
            )
    for old in run_dir.glob(PATTERN):
        try:
            old.unlink(missing_ok=True)
        except OSError as error:
            raise InfrastructureError(f"cannot remove {old}: {error.strerror or error}") from error
    return {name: replace_file(run_dir / name, content) for name, content in files.items()}
