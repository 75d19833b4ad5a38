"""What ``verify`` and ``gate`` share: read a certificate and what lies beside it, and examine it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import bi_harness
from bi_harness.certificate.build import build
from bi_harness.certificate.files import (
    CERTIFICATE,
    ENVELOPE,
    FILES_ENVELOPE,
    JOURNAL,
    REPORTS,
    SHARDS,
)
from bi_harness.certificate.statement import Statement
from bi_harness.certificate.verify import Examined, Finding, Folder, Recompute, examine
from bi_harness.errors import UsageError
from bi_harness.matrix.collector import no_collection
from bi_harness.matrix.shards import MOST
from bi_harness.reading import NotRegular, read_bounded
from bi_harness.report.discovery import printable_path, printable_text
from bi_harness.report.sealed import log_digests
from bi_harness.report.write import WRITERS
from bi_harness.runner.journal import read_text
from bi_harness.runner.merged_folder import merge_again
from bi_harness.runner.provenance import tree_digest

if TYPE_CHECKING:
    from securesystemslib.signer import Key

MAX_BYTES = 512 * 1024 * 1024
"""Of one file. The journal of the whole matrix is a small part of it."""

_NAMES = (CERTIFICATE, ENVELOPE, FILES_ENVELOPE, JOURNAL, *REPORTS)


@no_collection()
def examined(path: Path, keys: Sequence[Key], *, must_be_signed: bool = True) -> Examined:
    """Examine a run's folder, a ``certificate.json`` or a ``certificate.dsse.json``.

    Raises:
        UsageError: there is no such file or folder.
    """
    return examine(read_folder(path), keys, recompute(), must_be_signed=must_be_signed)


def examined_among_others(path: Path, keys: Sequence[Key]) -> Examined:
    """Examine one of many, signed or not: whatever goes wrong with it is a problem of this one alone."""
    try:
        return examined(path, keys, must_be_signed=False)
    except Exception as error:
        what = f"cannot be examined: {type(error).__name__}: {str(error)[:300]}"
        problem = Finding(level="problem", where=CERTIFICATE, what=printable_text(what))
        return Examined(printable_path(path), None, "", (problem,), (), (), journal=False)


@cache
def recompute() -> Recompute:
    """How this version computes a run's files."""
    return Recompute(
        statement=_from_journal,
        reports={name: writer for name, writer in WRITERS.items() if name != CERTIFICATE},
        harness=tree_digest(Path(bi_harness.__file__).resolve().parent),
        merged=merge_again,
    )


def _from_journal(data: bytes) -> Statement:
    return build(*read_text(data, JOURNAL, progress=False))


def read_folder(path: Path) -> Folder:
    """What lies at a path: a run's folder, or a certificate and what is beside it.

    Raises:
        UsageError: there is no such file or folder.
    """
    _must_be_there(path)
    if path.is_dir():
        return _beside(path, str(path), whole=True)
    if path.name in (CERTIFICATE, ENVELOPE):
        return _beside(path.parent, str(path), whole=False)
    # By another name it stands alone: what lies beside it may be of another run.
    contents: dict[str, bytes] = {}
    unreadable: dict[str, str] = {}
    _read(path, CERTIFICATE, contents, unreadable)
    data = contents.get(CERTIFICATE, b"")
    if b'"payloadType"' in data and b'"predicateType"' not in data:
        contents = {ENVELOPE: data}
    return Folder(str(path), contents, whole=False, unreadable=unreadable)


def _must_be_there(path: Path) -> None:
    try:
        path.stat()
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        raise UsageError(f"cannot read {str(path)[:400]}: {why}") from error


def _beside(folder: Path, place: str, *, whole: bool) -> Folder:
    contents: dict[str, bytes] = {}
    unreadable: dict[str, str] = {}
    for name in _NAMES:
        _read(folder / name, name, contents, unreadable)
    others: dict[str, str] = {}
    try:
        others = dict(log_digests(folder))
    except OSError as error:
        unreadable["logs"] = error.strerror or str(error)
    shards: dict[str, bytes] = {}
    # More than there can be are not read: what they would merge to is nothing.
    for path in sorted((folder / SHARDS).glob("*.jsonl"))[: MOST + 1]:
        _read(path, f"{SHARDS}/{path.name}", shards, unreadable)
    return Folder(place, contents, others, whole, unreadable, shards)


def _read(path: Path, name: str, contents: dict[str, bytes], unreadable: dict[str, str]) -> None:
    try:
        data = read_bounded(path, MAX_BYTES)
    except FileNotFoundError:
        return
    except (NotRegular, IsADirectoryError):
        unreadable[name] = "it is not a file"
        return
    except (OSError, ValueError) as error:
        unreadable[name] = getattr(error, "strerror", None) or str(error)
        return
    if len(data) > MAX_BYTES:
        unreadable[name] = f"it is larger than {MAX_BYTES // 2**20} MiB"
        return
    contents[name] = data
