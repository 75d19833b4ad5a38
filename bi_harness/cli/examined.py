"""What ``verify`` and ``gate`` share: read a certificate and what lies beside it, and examine it."""

from __future__ import annotations

import os
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
    LOGS,
    PROPOSAL,
    REPORTS,
    SHARDS,
    of_run,
)
from bi_harness.certificate.findings import printable
from bi_harness.certificate.recompute import ComputedValue, attempt
from bi_harness.certificate.run_tree import read_tree
from bi_harness.certificate.statement import Statement
from bi_harness.certificate.verify import Examined, Finding, Folder, Recompute, examine
from bi_harness.errors import UsageError
from bi_harness.matrix.collector import no_collection
from bi_harness.matrix.shards import MOST
from bi_harness.reading import NotRegular, read_bounded
from bi_harness.report.discovery import printable_path
from bi_harness.report.sealed import digest_of
from bi_harness.report.startup_proposal import render_proposal
from bi_harness.report.testengine import render_test_engine
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
    found = attempt(lambda: examined(path, keys, must_be_signed=False))
    if isinstance(found, ComputedValue):
        return found.value
    problem = Finding(level="problem", where=CERTIFICATE, what=printable(f"cannot be examined: {found.why}"))
    return Examined(printable_path(path), None, "", (problem,), (), (), journal=False)


@cache
def recompute() -> Recompute:
    """How this version computes a run's files."""
    return Recompute(
        statement=_from_journal,
        reports={name: writer for name, writer in WRITERS.items() if name != CERTIFICATE},
        harness=tree_digest(Path(bi_harness.__file__).resolve().parent),
        merged=merge_again,
        beside=_beside_reports,
    )


def _from_journal(data: bytes) -> Statement:
    return build(*read_text(data, JOURNAL, progress=False))


def _beside_reports(statement: Statement, journal: bytes) -> dict[str, bytes]:
    events, _ = read_text(journal, JOURNAL, progress=False)
    proposal = render_proposal(statement)
    return {**render_test_engine(statement, events), **({PROPOSAL: proposal.encode()} if proposal else {})}


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
    return Folder(printable(str(path)), contents, whole=False, unreadable=unreadable)


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
    tree = read_tree(folder)
    others: dict[str, str] = {}
    foreign: list[str] = []
    for name in tree.files:
        if name in _NAMES:
            continue
        if not of_run(name):
            foreign.append(name)
            continue
        try:
            others[name] = digest_of(folder / name)
        except OSError as error:
            unreadable[name] = error.strerror or str(error)
    for name, why in tree.unreadable.items():
        if whole or name == LOGS or name.startswith(f"{LOGS}/"):
            unreadable.setdefault(name, why)
    shards: dict[str, bytes] = {}
    # More than there can be, and of more bytes than one file, are not read: they would merge to nothing.
    left = MAX_BYTES
    journals = [name for name in others if name.startswith(f"{SHARDS}/") and name.endswith(".jsonl")]
    for name in sorted(name for name in journals if name.count("/") == SHARDS.count("/") + 1)[: MOST + 1]:
        _read(folder / name, name, shards, unreadable, limit=left)
        left -= len(shards.get(name, b""))
    return Folder(
        printable(place),
        contents,
        others,
        whole,
        unreadable,
        shards,
        name=Path(os.path.abspath(folder)).name if whole else "",  # noqa: PTH100 - not resolved: as given
        foreign=tuple(foreign),
        irregular=tree.irregular,
        folders=frozenset(tree.folders),
    )


def _read(
    path: Path, name: str, contents: dict[str, bytes], unreadable: dict[str, str], *, limit: int = MAX_BYTES
) -> None:
    try:
        data = read_bounded(path, limit)
    except FileNotFoundError:
        return
    except (NotRegular, IsADirectoryError):
        unreadable[name] = "it is not a file"
        return
    except (OSError, ValueError) as error:
        unreadable[name] = getattr(error, "strerror", None) or str(error)
        return
    if len(data) > limit:
        what = "it is" if limit == MAX_BYTES else "it and the journals before it are"
        unreadable[name] = f"{what} larger than {MAX_BYTES // 2**20} MiB"
        return
    contents[name] = data
