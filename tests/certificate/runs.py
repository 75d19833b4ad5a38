"""Runs' folders made from journals, signed or not."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from securesystemslib.signer import CryptoSigner, Key

from bi_harness.certificate.events import Event
from bi_harness.certificate.statement import Statement
from bi_harness.certificate.verify import Examined, examine
from bi_harness.cli.examined import read_folder, recompute
from bi_harness.report.sealed import write_sealed
from bi_harness.report.write import write_reports
from bi_harness.runner.journal import JOURNAL, Journal
from bi_harness.runner.run import from_journal

SIGNER = CryptoSigner.generate_ed25519()
OTHER = CryptoSigner.generate_ed25519()
KEY: Key = SIGNER.public_key


def write_run(folder: Path, events: Sequence[Event], signer: CryptoSigner | None = None) -> Statement:
    """The folder as ``bi-harness run`` leaves it."""
    (folder / "logs").mkdir(parents=True)
    (folder / "logs" / "unit.log").write_text("a line\n")
    with Journal(folder / JOURNAL, new=True) as journal:
        for event in events:
            journal.write(event)
    statement = from_journal(folder)
    write_reports(statement, folder)
    if signer is not None:
        write_sealed(statement, folder, signer)
    return statement


def looked_at(path: Path, *keys: Key, **more: bool) -> Examined:
    """What ``verify`` finds."""
    return examine(read_folder(path), keys, recompute(), **more)


def said(found: Examined) -> str:
    """All that was found against it, in one text."""
    return "\n".join(f"{problem.where}: {problem.what}" for problem in found.problems)


def notes(found: Examined) -> str:
    """All that was noted."""
    return "\n".join(f"{one.where}: {one.what}" for one in found.findings if one.level == "note")
