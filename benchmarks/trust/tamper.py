"""How many changed bytes ``verify`` finds: statement, journal, reports, envelopes and logs of a real run.

A flip changes one byte of one file, and is found when ``verify`` calls the run not genuine and names that
file (of certificate and envelope, which hold the same, either). Once without a key (statement, journal and
reports hold each other) and once signed (envelopes and logs, too).

    python -m benchmarks.trust.tamper [--all] [RUN]

A run has some 500,000 bytes. By default, each file's bytes are tried at even distances, ``PER_FILE`` of them;
``--all`` tries them all. What does not depend on the changed byte is computed once: rendering a report from
a statement, and a statement from a journal, are functions of those alone.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from securesystemslib.signer import CryptoSigner, Key

from bi_harness.certificate.files import CERTIFICATE, ENVELOPE, FILES_ENVELOPE
from bi_harness.certificate.statement import Statement
from bi_harness.certificate.verify import Folder, Recompute, examine
from bi_harness.cli.examined import read_folder, recompute
from bi_harness.report.sealed import write_sealed
from bi_harness.report.write import write_reports
from bi_harness.runner.run import from_journal

ROOT = Path(__file__).resolve().parents[2]
RUN = ROOT / "reports" / "cpu" / "20261121T173347Z-364118"
PER_FILE = 400


def measure(run: Path = RUN, per_file: int | None = PER_FILE, seed: int = 0) -> dict[str, object]:
    """Flip bytes of a copy of a run, and count those that are found.

    Args:
        run: a run's folder; it is left as it is.
        per_file: how many bytes of each file, at even distances from a seeded start; ``None`` for all.
        seed: of the starts and of which bits are flipped.

    Returns:
        ``flips`` and ``found`` (equal when nothing is missed), ``missed`` (places, 20 at most), ``bytes`` (of
        all files), ``exhaustive``, ``seconds``, and ``files``: the same figures by mode and file.
    """
    started = time.perf_counter()
    signer = CryptoSigner.generate_ed25519()
    with tempfile.TemporaryDirectory() as scratch:
        copy = Path(scratch) / "run"
        shutil.copytree(run, copy)
        for name in (ENVELOPE, FILES_ENVELOPE):
            (copy / name).unlink(missing_ok=True)
        statement = from_journal(copy)
        write_reports(statement, copy)
        unsigned = read_folder(copy)
        write_sealed(statement, copy, signer)
        signed = read_folder(copy)
        logs = {name: (copy / name).read_bytes() for name in signed.others}
    random_ = random.Random(seed)
    computed = _once(recompute())
    files: dict[str, dict[str, int]] = {}
    missed: list[str] = []
    modes: tuple[tuple[str, Folder, list[Key], Mapping[str, bytes]], ...] = (
        ("without a key", unsigned, [], {}),
        ("signed", signed, [signer.public_key], logs),
    )
    for mode, folder, keys, more in modes:
        if not examine(folder, keys, computed).genuine:
            raise SystemExit(f"{run} is not genuine before anything was changed ({mode})")
        for name, data in {**folder.contents, **more}.items():
            row = files.setdefault(f"{mode}: {name.partition('/')[0]}", {"bytes": 0, "flips": 0, "found": 0})
            row["bytes"] += len(data)
            for place in _places(len(data), per_file, random_):
                changed = bytearray(data)
                changed[place] ^= random_.randrange(1, 256)
                row["flips"] += 1
                if _found(_with(folder, name, bytes(changed)), keys, computed, name):
                    row["found"] += 1
                elif len(missed) < 20:
                    missed.append(f"{mode}: {name} byte {place}")
    flips, found = (sum(row[key] for row in files.values()) for key in ("flips", "found"))
    return {
        "run": run.name,
        "flips": flips,
        "found": found,
        "missed": missed,
        "bytes": sum(row["bytes"] for row in files.values()),
        "exhaustive": per_file is None,
        "seconds": round(time.perf_counter() - started, 1),
        "files": files,
    }


def _found(folder: Folder, keys: list[Key], computed: Recompute, name: str) -> bool:
    """Whether the run reads as not genuine, and a reader learns where to look."""
    examined = examine(folder, keys, computed)
    # Of two files that no longer agree it cannot be said which one was changed.
    pair = {CERTIFICATE, ENVELOPE}
    named = pair if name in pair else {name}
    return not examined.genuine and any(
        problem.where.partition(":")[0] in named for problem in examined.problems
    )


def _with(folder: Folder, name: str, data: bytes) -> Folder:
    if name in folder.contents:
        return replace(folder, contents={**folder.contents, name: data})
    return replace(folder, others={**folder.others, name: hashlib.sha256(data).hexdigest()})


def _places(size: int, most: int | None, random_: random.Random) -> range:
    step = 1 if most is None else max(1, size // most)
    return range(random_.randrange(min(step, size)) if size else 0, size, step)


def _once(honest: Recompute) -> Recompute:
    """The same functions, computed once for each input."""
    statements: dict[bytes, Statement] = {}
    rendered: dict[tuple[str, str], bytes] = {}

    def statement(journal: bytes) -> Statement:
        if journal not in statements:
            statements.clear()
            statements[journal] = honest.statement(journal)
        return statements[journal]

    def once(name: str, render: Callable[[Statement], bytes]) -> Callable[[Statement], bytes]:
        def of(certificate: Statement) -> bytes:
            key = (name, hashlib.sha256(certificate.to_json().encode()).hexdigest())
            if key not in rendered:
                # Of a changed certificate it is asked for once.
                if len(rendered) > 64:
                    rendered.clear()
                rendered[key] = render(certificate)
            return rendered[key]

        return of

    return replace(
        honest,
        statement=statement,
        reports={name: once(name, render) for name, render in honest.reports.items()},
    )


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("run", nargs="?", type=Path, default=RUN)
    parser.add_argument("--all", action="store_true", help="every byte of every file")
    parser.add_argument("--per-file", type=int, default=PER_FILE)
    given = parser.parse_args()
    result = measure(given.run, None if given.all else given.per_file)
    json.dump(result, sys.stdout, indent=2)
    sys.stdout.write("\n")
    return 0 if result["flips"] == result["found"] else 1


if __name__ == "__main__":
    sys.exit(main())
