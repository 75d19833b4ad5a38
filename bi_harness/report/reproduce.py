"""The command that runs one check again."""

from __future__ import annotations

import shlex

from bi_harness.certificate.records import CheckResult
from bi_harness.certificate.statement import Statement
from bi_harness.report.cellid import parse_cell_id
from bi_harness.report.facts import device_id
from bi_harness.report.text import clean


def reproduce_command(statement: Statement, check: CheckResult) -> str:
    """A shell command line that selects this check's cell and repeats the run's workload.

    Parts that an ill-formed cell id does not tell are left out: a wider selection still contains the check.
    """
    result = statement.predicate.bi_harness
    scope, cell = result.scope, parse_cell_id(check.cell)
    argv = ["bi-harness", "run", "--device", cell.device or device_id(statement)]
    if cell.well_formed:
        argv += ["--model", cell.model, "--suite", cell.suite, "--backend", cell.backend, "--mode", cell.mode]
    argv += ["--profile", scope.profile, "--weights", scope.weights]
    if scope.endpoint is not None:
        argv += ["--endpoint", clean(scope.endpoint.url, 400)]
        if scope.endpoint.control is not None:
            argv += ["--control-endpoint", clean(scope.endpoint.control, 400)]
    if scope.layers is not None:
        argv += ["--layers", _exact(scope.layers)]
    argv += ["--seed", _exact(scope.seed), "-k", check.check]
    return shlex.join(argv)


def _exact(value: int) -> str:
    # Python refuses decimal digits beyond 4,300; hexadecimal has no such limit.
    return str(value) if value.bit_length() < 10_000 else hex(value)
