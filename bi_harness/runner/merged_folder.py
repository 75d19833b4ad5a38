"""The folder of a run that shards were merged to, on disk."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from fnmatch import fnmatchcase
from pathlib import Path

from bi_harness.certificate.build import build
from bi_harness.certificate.events import Event, RunStarted
from bi_harness.certificate.files import (
    CERTIFICATE,
    ENVELOPE,
    FILES_ENVELOPE,
    LOGS,
    REPORTS,
    SHARDS,
    TEST_ENGINE,
)
from bi_harness.certificate.run_tree import read_tree
from bi_harness.certificate.statement import Statement
from bi_harness.errors import InfrastructureError, UsageError
from bi_harness.reading import read_bounded
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
    out: Path,
    events: Sequence[Event],
    shards: Sequence[ShardJournal],
    signed: Mapping[str, Mapping[str, str]] | None = None,
) -> tuple[Path, Statement]:
    """Write what shards were merged to, whole or not at all.

    Beside the journal are the shards' logs, under the names that the certificate gives them, and the shards'
    own journals (and signed certificates), from which the journal follows.

    Args:
        out: the run's folder is made under ``out/<device>/``.
        events: the merged journal.
        shards: what it was made of; their places are folders.
        signed: by a shard's place, sha256 of its files as a checked signature has them, by name: then nothing
            else is taken from it. ``None`` where no signature was checked.

    Returns:
        The run's folder and its certificate. The reports are not written yet. Whatever else is in the folder
        was written by this call, or is byte for byte what it would have written.

    Raises:
        UsageError: the folder is there already and has other content, or cannot be made; or a shard has a
            log that nobody signed.
        InfrastructureError: something cannot be written.
    """
    start = events[0]
    assert isinstance(start, RunStarted)
    data = as_bytes(events)
    if len(data) > MAX_BYTES:
        raise UsageError(f"the merged journal would be larger than {MAX_BYTES >> 20} MiB")
    statement = build(*read_text(data, JOURNAL, progress=False))
    run_dir = out.absolute() / safe_name(str(start.device.get("id", ""))) / safe_name(start.run_id)
    there = os.path.lexists(run_dir)
    if there:
        _must_be_the_run(run_dir, data)
    try:
        run_dir.parent.mkdir(parents=True, exist_ok=True)
        # Of a name that no run's folder has, beside it: moved there in one step when all is there.
        made = Path(tempfile.mkdtemp(prefix=".merge-", dir=run_dir.parent))
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        raise UsageError(
            f"cannot make the run's folder {run_dir}: {why}. Choose another with --out"
        ) from error
    try:
        made.chmod(0o755)
        (made / LOGS).mkdir()
        # Not in the order given: the same shards make the same folder.
        for one in sorted(shards, key=lambda one: one.start.shard.index if one.start.shard else 0):
            _copy_logs(Path(one.place), made, one, signed)
        (made / JOURNAL).write_bytes(data)
        if there:
            # Its reports are written again, and its envelopes looked at: see `write_reports`, `write_sealed`.
            _must_be_the_same(run_dir, made)
            shutil.rmtree(made)
        else:
            made.rename(run_dir)
    except OSError as error:
        shutil.rmtree(made, ignore_errors=True)
        raise InfrastructureError(f"cannot write {error.filename or made}: {error.strerror}") from error
    except BaseException:
        shutil.rmtree(made, ignore_errors=True)
        raise
    return run_dir, statement


def _must_be_the_run(run_dir: Path, data: bytes) -> None:
    if run_dir.is_symlink():
        raise UsageError(f"{run_dir} is there already, and is a link. Choose another folder with --out")
    there = None
    with suppress(OSError):
        there = read_bounded(run_dir / JOURNAL, MAX_BYTES)
    if there != data:
        raise UsageError(f"{run_dir} is there already, and is another run. Choose another folder with --out")


def _must_be_the_same(run_dir: Path, made: Path) -> None:
    """Refuse a folder in which anything is not what this merge writes.

    Raises:
        UsageError: a file has other content, is not there, is of another kind, or is not of this merge.
    """
    there = read_tree(run_dir)
    old, new = frozenset(there.files), frozenset(read_tree(made).files)
    wrong = [f"{name} is {kind}" for name, kind in there.irregular.items()]
    wrong += [f"{name} cannot be read" for name in there.unreadable]
    wrong += [f"{name} is not of this merge" for name in sorted(old - new) if not _own(name)]
    wrong += [f"{name} is not there" for name in sorted(new - old)]
    wrong += [
        f"{name} has other content"
        for name in sorted(old & new)
        if _digest(run_dir / name) != _digest(made / name)
    ]
    if wrong:
        more = f", and {len(wrong) - 1} more" if len(wrong) > 1 else ""
        raise UsageError(
            f"{run_dir} is there already, and is not what this merge writes: {wrong[0]}{more}. "
            "Choose another folder with --out, or move that one away"
        )


def _own(name: str) -> bool:
    """Whether a file is written after the merge, or looked at then, in any case."""
    return name in (CERTIFICATE, ENVELOPE, FILES_ENVELOPE, *REPORTS) or fnmatchcase(name, TEST_ENGINE)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _copy_logs(
    folder: Path, made: Path, shard: ShardJournal, signed: Mapping[str, Mapping[str, str]] | None
) -> None:
    part = shard.start.shard
    listed = signed.get(shard.place, {}) if signed is not None else None
    if listed is not None and listed.get(JOURNAL) != shard.digest:
        raise UsageError(f"{shard.name}: its journal changed while it was merged: its run goes on")
    for source in _logs(folder, of_shard=part is not None):
        name = source.relative_to(folder)
        target = made / name
        if part is not None and target.exists():
            # Logs bear the names of units, and no unit is of two shards: nothing refers to this one.
            target = made / LOGS / f"shard-{part.index}" / source.relative_to(folder / LOGS)
        if listed is not None and name.as_posix() not in listed:
            raise UsageError(
                f"cannot merge: {shard.name}: nobody signed {name.as_posix()}. What to do: move it away"
            )
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
        if listed is not None and _digest(target) != listed[name.as_posix()]:
            raise UsageError(f"{shard.name}: {name.as_posix()} changed while it was merged")
    if part is None:
        return
    (made / SHARDS).mkdir(exist_ok=True)
    name_of_part = f"{part.index}-of-{part.count}"
    journal = made / SHARDS / f"{name_of_part}.jsonl"
    shutil.copyfile(folder / JOURNAL, journal)
    if _digest(journal) != shard.digest:
        raise UsageError(f"{shard.name}: its journal changed while it was merged: its run goes on")
    if _is_file(folder / ENVELOPE):
        shutil.copyfile(folder / ENVELOPE, made / SHARDS / f"{name_of_part}.dsse.json")


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
