"""The journal: appended to as a run goes, read back by everything after it."""

from __future__ import annotations

import hashlib
import os
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType

from pydantic import ValidationError

from bi_harness.certificate.events import EVENTS, Event
from bi_harness.errors import InfrastructureError, UsageError

JOURNAL = "events.jsonl"


def now() -> str:
    """The time for an event: UTC, ISO 8601, milliseconds."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


class Journal:
    """Appends events to a file; each is on disk when ``write`` returns.

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

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._fd)

    def write(self, event: Event) -> None:
        """Append one event, whole, in one write."""
        line = memoryview(event.model_dump_json().encode("utf-8") + b"\n")
        try:
            # A disk that takes half of it has no room for the rest, and says so then.
            while line:
                line = line[os.write(self._fd, line) :]
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

    def read(self) -> list[Event]:
        """The events since the last call. A line without its end is left for the next one.

        Raises:
            UsageError: when a line is not an event.
        """
        try:
            with open(self._path, "rb") as file:
                file.seek(self._offset)
                data = file.read()
        except FileNotFoundError:
            return []
        whole, newline, _ = data.rpartition(b"\n")
        self._offset += len(whole) + len(newline)
        return [parse(line, self._path.name, None) for line in whole.split(b"\n") if line]


def parse(line: bytes, name: str, number: int | None) -> Event:
    """One line as an event.

    Raises:
        UsageError: with the file and the line's number, when it is not one.
    """
    try:
        return EVENTS.validate_json(line)
    except ValidationError as error:
        where = f"{name}:{number}" if number is not None else name
        first = error.errors(include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        raise UsageError(f"{where}: not an event of a journal: {place}: {first['msg']}") from error


def read_whole_lines(path: Path) -> tuple[list[Event], int, bytes]:
    """The events of a journal that may have been cut off while a line was written.

    Returns:
        The events of its whole lines, how many bytes those are, and what is there of one more line.

    Raises:
        UsageError: the file is missing, or a whole line is damaged, with the file and the line's number.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UsageError(f"cannot read the journal {path}: {error.strerror}") from error
    *lines, torn = data.split(b"\n")
    events = [parse(line, path.name, number) for number, line in enumerate(lines, start=1)]
    return events, len(data) - len(torn), torn


def read(path: Path) -> tuple[list[Event], str]:
    """A whole journal and the sha256 of its bytes, as hexadecimal digits.

    Raises:
        UsageError: when the file is missing, or a line is damaged. A damaged journal is never skipped over:
            what it would have said is not known.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UsageError(f"cannot read the journal {path}: {error.strerror}") from error
    return read_text(data, path.name)


def read_text(data: bytes, name: str) -> tuple[list[Event], str]:
    """As ``read``, of a journal's bytes.

    Raises:
        UsageError: a line is damaged.
    """
    lines = data.split(b"\n")
    if lines.pop() != b"":
        raise UsageError(
            f"{name}:{len(lines) + 1}: the last line is cut off. "
            "`bi-harness run --resume RUN` drops it and does the rest of the run"
        )
    events = [parse(line, name, number) for number, line in enumerate(lines, start=1)]
    return events, hashlib.sha256(data).hexdigest()
