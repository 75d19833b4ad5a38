"""A run's signed files: what ``--sign-key`` writes, and what must not stay beside it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

from pydantic import ValidationError
from securesystemslib.signer import CryptoSigner

from bi_harness.certificate.files import (
    CERTIFICATE,
    ENVELOPE,
    FILES_ENVELOPE,
    JOURNAL,
    LOGS,
    REPORTS,
    FilesStatement,
    files_statement,
)
from bi_harness.certificate.sign import EnvelopeError, open_envelope, seal
from bi_harness.certificate.statement import Statement
from bi_harness.errors import InfrastructureError, UsageError
from bi_harness.report.write import WRITERS, replace_file


def write_sealed(statement: Statement, run_dir: Path, signer: CryptoSigner) -> dict[str, Path]:
    """Sign the certificate, and a list of the digests of all files of the run; returns name → path.

    Args:
        run_dir: has the reports already.

    Raises:
        InfrastructureError: a file cannot be read or written.
    """
    result = statement.predicate.bi_harness
    try:
        digests = dict(_digests(run_dir))
    except OSError as error:
        raise InfrastructureError(
            f"cannot read {error.filename} to sign it: {error.strerror or error}"
        ) from error
    files = files_statement(result.run_id, digests)
    # The certificate's own comes last: with it, the run reads as signed, and then the rest is there.
    return {
        FILES_ENVELOPE: replace_file(run_dir / FILES_ENVELOPE, seal(files.to_json().encode(), signer)),
        ENVELOPE: replace_file(run_dir / ENVELOPE, seal(statement.to_json().encode(), signer)),
    }


def refuse_stale(statement: Statement, run_dir: Path) -> None:
    """See to it that writing the reports anew leaves no signature beside what it is not of.

    Raises:
        UsageError: what was signed would no longer be what lies there.
    """
    stale = [name for name in (ENVELOPE, FILES_ENVELOPE) if not _still_holds(statement, run_dir, name)]
    if stale:
        raise UsageError(
            f"{run_dir / stale[0]} is signed, and is of other content than this version of bi-harness would "
            "write now. Nothing was written. What to do: sign anew with --sign-key, or move the signed files "
            f"({ENVELOPE}, {FILES_ENVELOPE}) away"
        )


def _still_holds(statement: Statement, run_dir: Path, name: str) -> bool:
    try:
        data = (run_dir / name).read_bytes()
    except FileNotFoundError:
        return True
    except OSError as error:
        raise UsageError(f"cannot read {run_dir / name}: {error.strerror or error}") from error
    try:
        payload = open_envelope(data).payload
        if name == ENVELOPE:
            return payload == statement.to_json().encode()
        signed = FilesStatement.model_validate_json(payload).digests()
    except (EnvelopeError, ValidationError):
        return False
    return all(
        signed.get(file) == hashlib.sha256(writer(statement)).hexdigest() for file, writer in WRITERS.items()
    )


def _digests(run_dir: Path) -> Iterator[tuple[str, str]]:
    for name in (CERTIFICATE, JOURNAL, *REPORTS):
        if (run_dir / name).is_file():
            yield name, digest_of(run_dir / name)
    yield from log_digests(run_dir)


def log_digests(run_dir: Path) -> Iterator[tuple[str, str]]:
    """Name (``logs/...``) and sha256 of each log of a run.

    Raises:
        OSError: one cannot be read.
    """
    for path in sorted((run_dir / LOGS).rglob("*")):
        # A link could lead anywhere; what a run writes has none.
        if path.is_file() and not path.is_symlink():
            yield path.relative_to(run_dir).as_posix(), digest_of(path)


def digest_of(path: Path) -> str:
    """sha256 of a file of any size, hexadecimal.

    Raises:
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
