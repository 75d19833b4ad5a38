"""The command that runs one check again."""

from __future__ import annotations

import shlex

from bi_harness.certificate.records import CheckResult
from bi_harness.certificate.statement import Scope, Statement
from bi_harness.report.cellid import parse_cell_id
from bi_harness.report.facts import device_id
from bi_harness.report.text import clean


def reproduce_command(statement: Statement, check: CheckResult) -> str:
    """A shell command line that selects this check's cell and repeats the run's workload.

    Parts that an ill-formed cell id does not tell are left out: a wider selection still contains the check.
    """
    return shlex.join(
        [
            *cell_arguments(check.cell, device_id(statement)),
            *repeat_arguments(statement.predicate.bi_harness.scope),
            "-k",
            check.check,
        ]
    )


def cell_arguments(cell_id: str, device: str) -> list[str]:
    """``bi-harness run`` with what selects a cell; with the device alone for an ill-formed id."""
    cell = parse_cell_id(cell_id)
    argv = ["bi-harness", "run", "--device", cell.device or device]
    if cell.well_formed:
        argv += ["--model", cell.model, "--suite", cell.suite, "--backend", cell.backend, "--mode", cell.mode]
    return argv


def repeat_arguments(scope: Scope) -> list[str]:
    """What repeats a run's workload, whatever is selected."""
    argv = ["--profile", scope.profile, "--weights", scope.weights]
    if scope.endpoint is not None:
        argv += ["--endpoint", clean(scope.endpoint.url, 400)]
        if scope.endpoint.control is not None:
            argv += ["--control-endpoint", clean(scope.endpoint.control, 400)]
    if scope.layers is not None:
        argv += ["--layers", _exact(scope.layers)]
    return [*argv, "--seed", _exact(scope.seed)]


def _exact(value: int) -> str:
    # Python refuses decimal digits beyond 4,300; hexadecimal has no such limit.
    return str(value) if value.bit_length() < 10_000 else hex(value)
