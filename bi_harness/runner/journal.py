"""The journal: appended to as a run goes, read back by everything after it."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType

from pydantic import ValidationError

from bi_harness.certificate.events import EVENTS, CheckProgress, CheckStarted, Event, RunFinished
from bi_harness.certificate.problems import first_problem
from bi_harness.certificate.repeated_keys import repeated_key
from bi_harness.errors import InfrastructureError, UsageError
from bi_harness.matrix.collector import no_collection
from bi_harness.reading import read_bounded

JOURNAL = "events.jsonl"

MAX_BYTES = 256 * 1024 * 1024
"""Of a journal that is read back. A check with its evidence takes 5 KB: this is 50,000 of them."""

MAX_LINE = 8 * 1024 * 1024
"""Of one event. The largest is the first, with the plan: 3 MB for 10,000 cells."""


def now() -> str:
    """The time for an event: UTC, ISO 8601, milliseconds."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


class Journal:
    """Appends events to a file; each is on disk when ``write`` returns, signs of life with the next event.

    Raises:
        InfrastructureError: when the file cannot be made or written.
    """

    def __init__(self, path: Path, *, new: bool) -> None:
        try:
            self._fd = os.open(
                path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | (os.O_EXCL if new else 0), 0o644
            )
        except OSError as error:
            raise InfrastructureError(f"cannot write the journal {path}: {error.strerror}") from error
        self._path = path
        self._writing = threading.Lock()

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._fd)

    def write(self, event: Event) -> None:
        """Append one event, whole, in one write. Both arms of a check may tell how far they are at once."""
        with self._writing:
            self._write(event)

    def _write(self, event: Event) -> None:
        line = memoryview(event.model_dump_json().encode("utf-8") + b"\n")
        try:
            # A disk that takes half of it has no room for the rest, and says so then.
            while line:
                line = line[os.write(self._fd, line) :]
            # Thirty of these come with each result, which takes them along: to wait for the disk each time
            # would cost more than all the rest of the host's side.
            if not isinstance(event, CheckStarted | CheckProgress):
                os.fdatasync(self._fd)
        except OSError as error:
            raise InfrastructureError(
                f"cannot write the journal {self._path}: {error.strerror}. "
                "When it can be written again, `bi-harness run --resume RUN` does the rest"
            ) from error


class Tail:
    """Reads whole lines that another process appends to a journal, from where the last read ended."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0

    def read(self) -> Iterator[Event]:
        """The events since the last call. A line without its end is left for the next one.

        Raises:
            UsageError: at a line that is not an event, after the events before it. What follows such a line
                is never read: who writes nonsense is not believed afterwards, however it was read in time.
        """
        try:
            with open(self._path, "rb") as file:
                file.seek(self._offset)
                data = file.read()
        except FileNotFoundError:
            return
        *lines, _cut_off = data.split(b"\n")
        for line in lines:
            event = parse(line, self._path.name, None) if line else None
            self._offset += len(line) + 1
            if event is not None:
                yield event


def parse(line: bytes, name: str, number: int | None) -> Event:
    """One line as an event.

    Raises:
        UsageError: with the file and the line's number, when it is not one.
    """
    where = f"{name}:{number}" if number is not None else name
    if len(line) > MAX_LINE:
        raise UsageError(f"{where}: not an event of a journal: longer than {MAX_LINE >> 20} MiB")
    try:
        event = EVENTS.validate_json(line, strict=True)
    except ValidationError as error:
        raise UsageError(f"{where}: not an event of a journal: {first_problem(error)}") from error
    # As the runner spells it, nothing is repeated; looking for it would take as long as all the rest.
    if event.model_dump_json().encode() != line and (key := repeated_key(line)) is not None:
        raise UsageError(f"{where}: not an event of a journal: repeated key: {key}")
    return event


def read_whole_lines(path: Path) -> tuple[list[Event], int, bytes]:
    """The events of a journal that may have been cut off while a line was written.

    Returns:
        The events of its whole lines, how many bytes those are, and what is there of one more line.

    Raises:
        UsageError: as ``read``, but for a last line that is cut off.
    """
    data = _bytes(path)
    *lines, torn = data.split(b"\n")
    events = [parse(line, path.name, number) for number, line in enumerate(lines, start=1)]
    return events, len(data) - len(torn), torn


def as_bytes(events: Iterable[Event]) -> bytes:
    """A journal's bytes: each event as ``Journal.write`` writes it."""
    return b"".join(event.model_dump_json().encode("utf-8") + b"\n" for event in events)


def read(path: Path, *, progress: bool = True) -> tuple[list[Event], str]:
    """A whole journal and the sha256 of its bytes, as hexadecimal digits.

    Args:
        path: the file.
        progress: see ``read_text``.

    Raises:
        UsageError: when the file is missing, is no regular one or too large, or a line is damaged. A damaged
            journal is never skipped over: what it would have said is not known.
    """
    return read_text(_bytes(path), path.name, progress=progress)


def _bytes(path: Path) -> bytes:
    try:
        data = read_bounded(path, MAX_BYTES)
    except OSError as error:
        raise UsageError(f"cannot read the journal {path}: {error.strerror}") from error
    except ValueError as error:
        raise UsageError(f"cannot read the journal {path}: {error}") from error
    if len(data) > MAX_BYTES:
        raise UsageError(f"cannot read the journal {path}: it is larger than {MAX_BYTES >> 20} MiB")
    return data


def read_text(data: bytes, name: str, *, progress: bool = True) -> tuple[list[Event], str]:
    """As ``read``, of a journal's bytes.

    Args:
        data: the bytes.
        name: of the file, for messages.
        progress: whether ``check_progress`` is in the result. It is nine events of ten, and no certificate
            says anything of it; where it comes first or last it is there all the same, since it must not.

    Raises:
        UsageError: a line is damaged.
    """
    if data and not data.endswith(b"\n"):
        line = data.count(b"\n") + 1
        raise UsageError(
            f"{name}:{line}: the last line is cut off. "
            "`bi-harness run --resume RUN` drops it and does the rest of the run"
        )
    events: list[Event] = []
    start = number = 0
    with no_collection():
        while start < len(data):
            # One by one: a split would hold every line of a file that ends at its first damaged one.
            end = data.index(b"\n", start)
            number += 1
            event = parse(data[start:end], name, number)
            # Where it has no place, that is for the certificate to refuse.
            misplaced = not events or isinstance(events[-1], RunFinished)
            if progress or misplaced or not isinstance(event, CheckProgress):
                events.append(event)
            start = end + 1
    return events, hashlib.sha256(data).hexdigest()
