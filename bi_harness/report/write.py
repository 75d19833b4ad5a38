"""Putting a run's certificate and its reports on disk."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from bi_harness.certificate.files import CERTIFICATE as CERTIFICATE
from bi_harness.certificate.statement import Statement
from bi_harness.errors import InfrastructureError
from bi_harness.matrix.collector import no_collection
from bi_harness.report.html import render_html
from bi_harness.report.junit import render_junit
from bi_harness.report.markdown import render_markdown
from bi_harness.report.parquet import render_parquet

# The certificate comes first: a fault in a report's rendering must not cost what the run found out.
WRITERS: Final[Mapping[str, Callable[[Statement], bytes]]] = {
    CERTIFICATE: lambda statement: statement.to_json().encode(),
    "certificate.html": lambda statement: render_html(statement).encode(),
    "certificate.md": lambda statement: render_markdown(statement).encode(),
    "junit.xml": render_junit,
    "cells.parquet": render_parquet,
}
"""Each file of a run's folder that is computed from the statement, and how."""


@no_collection()
def write_reports(statement: Statement, run_dir: Path) -> dict[str, Path]:
    """Writes every file of the run's folder that is computed from ``statement``; returns name → path.

    Each file appears whole or not at all, and writing twice gives the same bytes.
    """
    return {name: replace_file(run_dir / name, writer(statement)) for name, writer in WRITERS.items()}


def replace_file(path: Path, content: str | bytes) -> Path:
    """Write a file whole or not at all, its folder made where it is missing; returns its path.

    Raises:
        InfrastructureError: it cannot be written.
    """
    data = content.encode() if isinstance(content, str) else content
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        try:
            with os.fdopen(handle, "wb") as file:
                os.fchmod(file.fileno(), 0o644)  # mkstemp's 600 would hide a report from the CI's uploader
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            Path(name).replace(path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise InfrastructureError(f"cannot write {path}: {error.strerror or error}") from error
    return path
