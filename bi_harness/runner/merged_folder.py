"""The folder of a run that shards were merged to, on disk."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from bi_harness.certificate.build import build
from bi_harness.certificate.events import Event, RunStarted
from bi_harness.certificate.files import ENVELOPE, LOGS, SHARDS
from bi_harness.certificate.statement import Statement
from bi_harness.errors import InfrastructureError, UsageError
from bi_harness.runner.engines import safe_name
from bi_harness.runner.journal import JOURNAL, MAX_BYTES, as_bytes, read, read_text
from bi_harness.runner.merge import ShardJournal, merged


def read_shards(folders: Sequence[Path]) -> list[ShardJournal]:
    """The journals of runs' folders.

    Raises:
        UsageError: some cannot be read, or are damaged; a line for each.
    """
    found, wrong = [], []
    for folder in folders:
        try:
            events, digest = read(folder / JOURNAL)
            if not events:
                raise UsageError("the journal is empty")
            found.append(ShardJournal(str(folder), events, digest))
        except UsageError as error:
            wrong.append(f"{folder}: {error}")
    if wrong:
        raise UsageError("\n".join(["cannot merge: not the folders of runs, or damaged", *wrong]))
    return found


def merge_again(journals: Mapping[str, bytes]) -> bytes:
    """The journal of the run that these journals' shards are of: what ``verify`` compares.

    Args:
        journals: their bytes, by name.

    Raises:
        UsageError: they are not the shards of one run, or are damaged.
    """
    shards = []
    for name, data in journals.items():
        events, digest = read_text(data, name)
        if not events:
            raise UsageError(f"{name}: the journal is empty")
        shards.append(ShardJournal(name, events, digest))
    return as_bytes(merged(shards))


def write_merged(
    out: Path, events: Sequence[Event], shards: Sequence[ShardJournal]
) -> tuple[Path, Statement]:
    """Write what shards were merged to, whole or not at all.

    Beside the journal are the shards' logs, under the names that the certificate gives them, and the shards'
    own journals (and signed certificates), from which the journal follows.

    Args:
        out: the run's folder is made under ``out/<device>/``.
        events: the merged journal.
        shards: what it was made of; their places are folders.

    Returns:
        The run's folder and its certificate. The reports are not written yet.

    Raises:
        UsageError: the folder is there already and is of something else, or cannot be made.
        InfrastructureError: something cannot be written.
    """
    start = events[0]
    assert isinstance(start, RunStarted)
    data = as_bytes(events)
    if len(data) > MAX_BYTES:
        raise UsageError(f"the merged journal would be larger than {MAX_BYTES >> 20} MiB")
    statement = build(*read_text(data, JOURNAL, progress=False))
    run_dir = out.absolute() / safe_name(str(start.device.get("id", ""))) / safe_name(start.run_id)
    if run_dir.exists():
        _must_be_the_same(run_dir, data)
        return run_dir, statement
    try:
        run_dir.parent.mkdir(parents=True, exist_ok=True)
        # Of a name that no run's folder has, beside it: moved there in one step when all is there.
        made = Path(tempfile.mkdtemp(prefix=".merge-", dir=run_dir.parent))
    except OSError as error:
        raise UsageError(
            f"cannot make the run's folder {run_dir}: {error.strerror or error}. Choose another with --out"
        ) from error
    try:
        made.chmod(0o755)
        (made / LOGS).mkdir()
        for one in shards:
            _copy_logs(Path(one.place), made, one)
        (made / JOURNAL).write_bytes(data)
        made.rename(run_dir)
    except OSError as error:
        shutil.rmtree(made, ignore_errors=True)
        raise InfrastructureError(f"cannot write {error.filename or made}: {error.strerror}") from error
    except BaseException:
        shutil.rmtree(made, ignore_errors=True)
        raise
    return run_dir, statement


def _must_be_the_same(run_dir: Path, data: bytes) -> None:
    there = None
    with suppress(OSError):
        there = (run_dir / JOURNAL).read_bytes()
    if there != data:
        raise UsageError(f"{run_dir} is there already, and is another run. Choose another folder with --out")


def _copy_logs(folder: Path, made: Path, shard: ShardJournal) -> None:
    part = shard.start.shard
    for source in _logs(folder, of_shard=part is not None):
        target = made / source.relative_to(folder)
        if part is not None and target.exists():
            # Logs bear the names of units, and no unit is of two shards: nothing refers to this one.
            target = made / LOGS / f"shard-{part.index}" / source.relative_to(folder / LOGS)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
    if part is None:
        return
    (made / SHARDS).mkdir(exist_ok=True)
    name = f"{part.index}-of-{part.count}"
    journal = made / SHARDS / f"{name}.jsonl"
    shutil.copyfile(folder / JOURNAL, journal)
    with journal.open("rb") as file:
        if hashlib.file_digest(file, "sha256").hexdigest() != shard.digest:
            raise UsageError(f"{shard.name}: its journal changed while it was merged: its run goes on")
    if _is_file(folder / ENVELOPE):
        shutil.copyfile(folder / ENVELOPE, made / SHARDS / f"{name}.dsse.json")


def _logs(folder: Path, *, of_shard: bool) -> Iterator[Path]:
    """A run's logs. What a run writes has no links; one could lead anywhere."""
    if (folder / LOGS).is_symlink():
        return
    for root, folders, names in os.walk(folder / LOGS):
        if of_shard and Path(root) == folder / LOGS:
            # Nothing that a shard has may be taken for what shards were merged from.
            folders[:] = [name for name in folders if folder / LOGS / name != folder / SHARDS]
        yield from (Path(root, name) for name in sorted(names) if _is_file(Path(root, name)))


def _is_file(path: Path) -> bool:
    return path.is_file() and not path.is_symlink()
