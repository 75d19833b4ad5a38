"""Reading a certificate that somebody hands in."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from pydantic import ValidationError

from bi_harness.certificate.problems import first_problem
from bi_harness.certificate.statement import Statement
from bi_harness.errors import UsageError
from bi_harness.reading import read_bounded
from bi_harness.report.write import CERTIFICATE

MAX_BYTES: Final = 64 * 1024 * 1024
"""A certificate of ten thousand checks has some 40 MB."""


def read_certificate(path: Path) -> Statement:
    """A certificate, from its file or its run's folder. Whether it is genuine is not looked at.

    Raises:
        UsageError: there is none, or what is there is no certificate that this bi-harness knows.
    """
    # Not Path.is_dir, which raises where the path is too long.
    file = path / CERTIFICATE if os.path.isdir(path) else path  # noqa: PTH112
    try:
        data = read_bounded(file, MAX_BYTES)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UsageError(f"cannot read the certificate {file}: {reason}") from error
    if len(data) > MAX_BYTES:
        raise UsageError(f"{file}: is larger than {MAX_BYTES // 2**20} MiB: that is no certificate")
    try:
        return Statement.model_validate_json(data)
    except ValidationError as error:
        raise UsageError(
            f"{file}: not a certificate of a form that this bi-harness knows: {first_problem(error)}"
        ) from error


def find_certificates(paths: Sequence[Path]) -> list[Path]:
    """The certificates of a series: files and run folders as given, and of any other folder all below it.

    Returns:
        Each file once, in the order given; those below a folder by name.

    Raises:
        UsageError: a folder has none, or cannot be listed.
    """
    found: dict[Path, Path] = {}
    for path in paths:
        if not path.is_dir() or (path / CERTIFICATE).is_file():
            below = [path / CERTIFICATE if path.is_dir() else path]
        else:
            below = sorted(path.rglob(CERTIFICATE))
            if not below:
                raise UsageError(f"{path}: there is no {CERTIFICATE} in it or below it")
        for file in below:
            found.setdefault(file.resolve(), file)
    return list(found.values())
