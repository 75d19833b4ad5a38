"""``bi-harness report``: write a run's certificate and reports anew, from its journal alone."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bi_harness.cli.options import AsJson


def report(
    run_folder: Annotated[
        Path, typer.Argument(metavar="RUN", help="Folder of a run: DIR/<device>/<run id>.")
    ],
    as_json: AsJson = False,
) -> None:
    """Write a run's certificate and reports anew from its journal; the same bytes as the run wrote.

    Ends as the run did: see ``bi-harness run``.
    """
    from rich.console import Console

    from bi_harness.certificate.verdict import exit_code
    from bi_harness.cli.run import write_json_result
    from bi_harness.report.console import print_result
    from bi_harness.report.write import write_reports
    from bi_harness.runner.run import from_journal

    statement = from_journal(run_folder)
    reports = write_reports(statement, run_folder)
    if as_json:
        write_json_result(statement, run_folder)
    print_result(statement, Console(stderr=as_json), reports)
    result = statement.predicate.bi_harness
    raise typer.Exit(exit_code(result.verdict, interrupted=result.interrupted))
