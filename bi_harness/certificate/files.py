"""``files.dsse.json``: the digest of every file of a run's folder, signed beside the certificate.

Reports are computed from the certificate, so their digests cannot be in it; logs are in no other place. With
this, whoever has the key's public half can tell a file that was changed from one that another version of
bi-harness rendered.
"""

from __future__ import annotations

import re
from fnmatch import fnmatchcase
from pathlib import PurePosixPath
from typing import Final, Literal

from pydantic import Field, ValidationError

from bi_harness.certificate.problems import first_problem, shortened
from bi_harness.certificate.records import Record
from bi_harness.certificate.statement import ResourceDescriptor

CERTIFICATE: Final = "certificate.json"
JOURNAL: Final = "events.jsonl"
ENVELOPE: Final = "certificate.dsse.json"
FILES_ENVELOPE: Final = "files.dsse.json"
REPORTS: Final = ("certificate.html", "certificate.md", "junit.xml", "cells.parquet")
TEST_ENGINE: Final = "test-engine*.json"
"""Pattern of the files for Buildkite's Test Engine: of checks and journal, where they were asked for."""
PROPOSAL: Final = "expected.proposal.yaml"
"""What ``run --record`` proposes for a suite's ``expected.yaml``."""
LOGS: Final = "logs"
SHARDS: Final = "logs/shards"
"""Of a run that shards were merged to: their journals (``1-of-3.jsonl``) and signed certificates. Under names
that no run's own have: they are no runs of their own to who looks for runs in a folder."""


_SHA256: Final = re.compile(r"[0-9a-f]{64}")


def of_run(name: str) -> bool:
    """Whether a file's name in a run's folder is one that bi-harness writes and, with a key, signs."""
    return name in (CERTIFICATE, JOURNAL, *REPORTS) or beside_reports(name) or name.startswith(f"{LOGS}/")


def beside_reports(name: str) -> bool:
    """Whether it is a file that is computed from certificate and journal, and is not one of the reports."""
    return name == PROPOSAL or fnmatchcase(name, TEST_ENGINE)


def looks_own(name: str) -> bool:
    """Whether a file's name is one of bi-harness's own for a file system that does not tell case."""
    own = (CERTIFICATE, JOURNAL, ENVELOPE, FILES_ENVELOPE, *REPORTS, LOGS)
    folded = name.casefold()
    in_logs = folded.startswith(f"{LOGS}/") and not name.startswith(f"{LOGS}/")
    return folded in own or in_logs or beside_reports(folded)


class FilesPredicate(Record):
    """Which run's folder it is."""

    run_id: str


class FilesStatement(Record):
    """An in-toto Statement whose subjects are the files of a run's folder."""

    type_: Literal["https://in-toto.io/Statement/v1"] = Field(
        default="https://in-toto.io/Statement/v1", alias="_type"
    )
    subject: tuple[ResourceDescriptor, ...]
    predicateType: Literal["urn:bi-harness:files:1"] = "urn:bi-harness:files:1"
    predicate: FilesPredicate

    def digests(self) -> dict[str, str]:
        """``sha256`` as hexadecimal digits, by the file's name in the folder."""
        return {one.name: one.digest.get("sha256", "") for one in self.subject}

    def to_json(self) -> str:
        """The payload's text."""
        return self.model_dump_json(indent=2, by_alias=True) + "\n"


def files_statement(run_id: str, digests: dict[str, str]) -> FilesStatement:
    """Of files with these digests (sha256, hexadecimal), in the order of their names."""
    return FilesStatement(
        subject=tuple(
            ResourceDescriptor(name=name, digest={"sha256": digest})
            for name, digest in sorted(digests.items())
        ),
        predicate=FilesPredicate(run_id=run_id),
    )


def read_files_statement(payload: bytes) -> FilesStatement:
    """The list that an envelope holds.

    Raises:
        ValueError: it is not a list of a run's files as ``files_statement`` makes them: each file once, by a
            name that a run's file has, with its sha256, and spelled the one way. The message says in what.
    """
    try:
        files = FilesStatement.model_validate_json(payload, strict=True)
    except ValidationError as error:
        raise ValueError(first_problem(error)) from error
    names = [one.name for one in files.subject]
    for one in files.subject:
        shown = repr(shortened(one.name, 200))
        if one.name != PurePosixPath(one.name).as_posix() or {"", ".", ".."} & {*one.name.split("/")}:
            raise ValueError(f"{shown} is not the name of a file inside the folder")
        if "\0" in one.name or not of_run(one.name):
            raise ValueError(f"{shown} is not a file that a run has")
        if one.digest.keys() != {"sha256"} or not _SHA256.fullmatch(one.digest["sha256"]):
            raise ValueError(f"{shown} has no sha256")
    if len(set(names)) < len(names):
        raise ValueError("it names a file twice")
    if (
        files != files_statement(files.predicate.run_id, files.digests())
        or files.to_json().encode() != payload
    ):
        raise ValueError("it is not spelled as bi-harness writes it")
    return files
