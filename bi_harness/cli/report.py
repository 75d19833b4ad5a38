"""``bi-harness report``: write a run's certificate and reports anew, from its journal alone."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bi_harness.cli.job import Annotate, tell, write_test_engine
from bi_harness.cli.options import AsJson, SignKey

TestEngine = Annotated[
    bool, typer.Option("--test-engine", help="Write test-engine.json, for Buildkite's Test Engine, too.")
]


def report(
    run_folder: Annotated[
        Path, typer.Argument(metavar="RUN", help="Folder of a run: DIR/<device>/<run id>.")
    ],
    sign_key: SignKey = None,
    test_engine: TestEngine = False,
    annotate: Annotate = True,
    as_json: AsJson = False,
) -> None:
    """Write a run's certificate and reports anew from its journal; the same bytes as the run wrote.

    With --sign-key it is signed (anew). Without, a signature that would not hold for what is written is
    refused, with 4.

    Ends as the run did: see ``bi-harness run``.
    """
    from rich.console import Console

    from bi_harness.certificate.verdict import exit_code
    from bi_harness.cli.run import sign, signer_of, write_json_result
    from bi_harness.report.console import print_result
    from bi_harness.report.write import write_reports
    from bi_harness.runner.run import from_journal

    signer = signer_of(sign_key)
    statement = from_journal(run_folder)
    if signer is None:
        from bi_harness.report.sealed import refuse_stale

        refuse_stale(statement, run_folder)
    reports = write_reports(statement, run_folder)
    if test_engine:
        reports |= write_test_engine(statement, run_folder, sign=signer is not None)
    reports |= sign(statement, run_folder, signer)
    if as_json:
        write_json_result(statement, run_folder)
    print_result(statement, Console(stderr=as_json), reports)
    tell(statement, run_folder, annotate=annotate)
    result = statement.predicate.bi_harness
    raise typer.Exit(exit_code(result.verdict, interrupted=result.interrupted, shard=result.shard))
