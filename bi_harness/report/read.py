"""Reading a certificate that somebody hands in."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pydantic import ValidationError

from bi_harness.certificate.problems import first_problem
from bi_harness.certificate.statement import Statement
from bi_harness.errors import UsageError
from bi_harness.reading import read_bounded
from bi_harness.report.discovery import RunPath, UnreadPath, discover
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


@dataclass(frozen=True, slots=True)
class SeriesFiles:
    """The certificates of a series.

    Attributes:
        certificates: each file once, in the order of the given paths; those below a folder by name.
        unread: places that were not looked into, and runs without a ``certificate.json``.
    """

    certificates: tuple[Path, ...]
    unread: tuple[UnreadPath, ...]


def find_series(paths: Sequence[Path]) -> SeriesFiles:
    """Find the certificates of a series: files as given, and of any folder all in it and below it.

    Raises:
        UsageError: a folder has none, or cannot be looked at.
    """
    # A file that is not there is named by what reads it.
    folders = [path for path in paths if os.path.isdir(path)]  # noqa: PTH112 - it raises nothing
    found = discover(folders)
    unread = list(found.unread)
    with_certificate: list[RunPath] = []
    for run in found.runs:
        if os.path.lexists(run.path / CERTIFICATE):
            with_certificate.append(run)
        else:
            unread.append(UnreadPath(run.path, f"a run without {CERTIFICATE}. `bi-harness report` writes it"))
    files: dict[str, Path] = {}
    for path in paths:
        below = [path]
        if path in folders:
            below = [run.path / CERTIFICATE for run in with_certificate if _is_below(run.path, path)]
            if not below:
                raise UsageError(f"{path}: there is no {CERTIFICATE} in it or below it")
        for file in below:
            files.setdefault(os.path.realpath(file), file)
    return SeriesFiles(tuple(files.values()), tuple(unread))


def find_certificates(paths: Sequence[Path]) -> list[Path]:
    """The certificates of ``find_series``, whatever else there is.

    Raises:
        UsageError: see there.
    """
    return list(find_series(paths).certificates)


def _is_below(path: Path, folder: Path) -> bool:
    return Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder))
