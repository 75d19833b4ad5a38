"""A run's signed files: what ``--sign-key`` writes, and what must not stay beside it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from securesystemslib.signer import CryptoSigner

from bi_harness.certificate.files import (
    ENVELOPE,
    FILES_ENVELOPE,
    LOGS,
    PROPOSAL,
    beside_reports,
    files_statement,
    of_run,
    read_files_statement,
)
from bi_harness.certificate.findings import printable
from bi_harness.certificate.run_tree import read_tree
from bi_harness.certificate.sign import open_envelope, seal
from bi_harness.certificate.statement import Statement
from bi_harness.errors import InfrastructureError, UsageError
from bi_harness.reading import read_bounded
from bi_harness.report.write import WRITERS, replace_file

_ENVELOPE_BYTES: Final = 512 * 1024 * 1024


def write_sealed(
    statement: Statement, run_dir: Path, signer: CryptoSigner, beside: Mapping[str, bytes] | None = None
) -> dict[str, Path]:
    """Sign the certificate, and a list of the digests of all files of the run; returns name → path.

    Args:
        statement: the certificate.
        run_dir: has the reports already.
        signer: the key.
        beside: content of the files next to the reports (``test-engine.json``) as the run's journal gives it,
            by name. One of other content is not signed.

    Raises:
        InfrastructureError: a file cannot be read or written.
        UsageError: something in the folder cannot be signed: a link in place of a file, a name that is not
            UTF-8, a file that the journal does not give, or a log that was signed with other content.
    """
    result = statement.predicate.bi_harness
    before = {name: value for name, value in listed(run_dir).items() if name.startswith(f"{LOGS}/")}
    try:
        digests = dict(_digests(run_dir, beside or {}))
    except OSError as error:
        raise InfrastructureError(
            f"cannot read {error.filename} to sign it: {error.strerror or error}"
        ) from error
    for name, value in before.items():
        if digests.get(name, value) != value:
            raise UsageError(
                f"cannot sign {run_dir / name}: it is not the one that was signed before. What to do: put "
                f"that one back, or move {FILES_ENVELOPE} away to sign what is there now"
            )
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


def listed(run_dir: Path) -> dict[str, str]:
    """sha256 of the files that a folder's list names, by name; nothing where there is no list.

    Nobody looks who signed it: this keeps what was signed from being overwritten by mistake, no more.
    """
    try:
        data = read_bounded(run_dir / FILES_ENVELOPE, _ENVELOPE_BYTES)
        return read_files_statement(open_envelope(data).payload).digests()
    except (OSError, ValueError):
        return {}


def _still_holds(statement: Statement, run_dir: Path, name: str) -> bool:
    try:
        data = read_bounded(run_dir / name, _ENVELOPE_BYTES)
    except FileNotFoundError:
        return True
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        raise UsageError(f"cannot read {run_dir / name}: {why}") from error
    try:
        payload = open_envelope(data).payload
        if name == ENVELOPE:
            return payload == statement.to_json().encode()
        signed = read_files_statement(payload).digests()
    except ValueError:  # EnvelopeError is one
        return False
    return all(
        signed.get(file) == hashlib.sha256(writer(statement)).hexdigest() for file, writer in WRITERS.items()
    )


def _digests(run_dir: Path, beside: Mapping[str, bytes]) -> Iterator[tuple[str, str]]:
    """Name and sha256 of each file that is signed: those of a run, and nothing else that lies there.

    Raises:
        OSError: one cannot be read.
        UsageError: one is not a regular file, has a name that is not UTF-8, or is not what it must be.
    """
    tree = read_tree(run_dir)
    for name in (*tree.irregular, *tree.folders):
        if name == LOGS and name in tree.folders:
            continue
        if name == LOGS or (of_run(name) and not name.startswith(f"{LOGS}/")):
            kind = tree.irregular.get(name, "a folder")
            raise UsageError(f"cannot sign {run_dir / name}: it is {kind}, and only regular files are signed")
    for name, why in tree.unreadable.items():
        if name == "." or name == LOGS or name.startswith(f"{LOGS}/"):
            raise UsageError(f"cannot sign {run_dir / name}: {why}")
    for name in tree.files:
        # A run writes its proposal when it is signed already; `verify` computes it.
        if not of_run(name) or name == PROPOSAL:
            continue
        if printable(name) != name:
            raise UsageError(f"cannot sign {run_dir / name}: its name is not UTF-8. What to do: rename it")
        digest = digest_of(run_dir / name)
        if beside_reports(name) and digest != hashlib.sha256(beside.get(name, b"")).hexdigest():
            raise UsageError(
                f"cannot sign {run_dir / name}: it is not what the run's journal gives. What to do: remove "
                "it, or write it again with `bi-harness report RUN --test-engine`"
            )
        yield name, digest


def digest_of(path: Path) -> str:
    """sha256 of a file of any size, hexadecimal.

    Raises:
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
