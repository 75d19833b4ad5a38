"""``files.dsse.json``: the digest of every file of a run's folder, signed beside the certificate.

Reports are computed from the certificate, so their digests cannot be in it; logs are in no other place. With
this, whoever has the key's public half can tell a file that was changed from one that another version of
bi-harness rendered.
"""

from __future__ import annotations

from typing import Final, Literal

from pydantic import Field

from bi_harness.certificate.records import Record
from bi_harness.certificate.statement import ResourceDescriptor

CERTIFICATE: Final = "certificate.json"
JOURNAL: Final = "events.jsonl"
ENVELOPE: Final = "certificate.dsse.json"
FILES_ENVELOPE: Final = "files.dsse.json"
REPORTS: Final = ("certificate.html", "certificate.md", "junit.xml", "cells.parquet")
LOGS: Final = "logs"
SHARDS: Final = "logs/shards"
"""Of a run that shards were merged to: their journals (``1-of-3.jsonl``) and signed certificates. Under names
that no run's own have: they are no runs of their own to who looks for runs in a folder."""


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
        """``sha256`` as hexadecimal digits, by the file's name in the folder; the last of a name counts."""
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
