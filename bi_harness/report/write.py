"""Putting a run's certificate and its reports on disk."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from bi_harness.certificate.files import CERTIFICATE as CERTIFICATE
from bi_harness.certificate.files import ENVELOPE, FILES_ENVELOPE
from bi_harness.certificate.statement import Statement
from bi_harness.errors import InfrastructureError
from bi_harness.matrix.collector import no_collection
from bi_harness.report.html import render_html
from bi_harness.report.junit import render_junit
from bi_harness.report.markdown import render_markdown
from bi_harness.report.parquet import render_parquet
from bi_harness.report.testengine import PATTERN

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
def write_reports(
    statement: Statement, run_dir: Path, *, enough: Callable[[], bool] = lambda: False
) -> dict[str, Path]:
    """Writes every file of the run's folder that is computed from ``statement``; returns name → path.

    Each file appears whole or not at all, and writing twice gives the same bytes.

    Args:
        enough: whether to leave it at what is written, asked after each file. The certificate is always
            written, and ``bi-harness report`` writes the rest.
    """
    written: dict[str, Path] = {}
    for name, writer in WRITERS.items():
        if written and enough():
            break
        written[name] = replace_file(run_dir / name, writer(statement))
    return written


def remove_reports(run_dir: Path) -> None:
    """Removes what ``write_reports`` wrote, and signatures on it: the run goes on, and they are of less.

    Raises:
        InfrastructureError: one cannot be removed.
    """
    for name in (*WRITERS, ENVELOPE, FILES_ENVELOPE, *(path.name for path in run_dir.glob(PATTERN))):
        try:
            (run_dir / name).unlink(missing_ok=True)
        except OSError as error:
            raise InfrastructureError(f"cannot remove {run_dir / name}: {error.strerror or error}") from error


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
    except (OSError, ValueError) as error:  # ValueError for a path that is none (a NUL in it)
        why = getattr(error, "strerror", None) or error
        raise InfrastructureError(f"cannot write {path}: {why}") from error
    return path
