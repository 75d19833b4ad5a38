"""A run's folder as it was left, and how its journal goes on."""

from __future__ import annotations

import os
import re
import socket
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pydantic_core import from_json

from bi_harness.certificate.attempts import Left
from bi_harness.certificate.build import build, remaining
from bi_harness.certificate.by_unit import unit_names, unit_of
from bi_harness.certificate.events import (
    CheckFinished,
    CheckProgress,
    CheckStarted,
    EngineReady,
    Event,
    RunFinished,
    RunResumed,
    RunStarted,
    UnitFinished,
    UnitStarted,
)
from bi_harness.certificate.files import SHARDS
from bi_harness.certificate.findings import printable
from bi_harness.certificate.problems import shortened
from bi_harness.certificate.records import CheckResult, Status
from bi_harness.errors import InfrastructureError, UsageError
from bi_harness.runner.hold import held, unit_folder, wait_until_gone
from bi_harness.runner.journal import JOURNAL, now, read_whole_lines

# A failure whose line was cut off stays one: what is told of it comes first in the line.
_CUT_RESULT = re.compile(
    rb'^\{"type":"check_finished","time":"[^"]*","result":\{"cell":"((?:[^"\\]|\\.)*)",'
    rb'"check":"((?:[^"\\]|\\.)*)","status":"(fail|inconclusive)"'
)


@dataclass(frozen=True, slots=True)
class Earlier:
    """A run's folder as its earlier attempts left it, held by this process.

    Attributes:
        run_dir: the folder.
        events: of its journal; the last ones may be from the unit at hand, which had no time to pass them on.
        start: the first event.
        whole: bytes of the journal's whole lines.
        torn: bytes of a line after those that was cut off.
        added: how many of ``events`` are not in the journal yet.
    """

    run_dir: Path
    events: tuple[Event, ...]
    start: RunStarted
    whole: int
    torn: int
    added: int

    @property
    def left(self) -> Left:
        """What is left to do."""
        return remaining(self.events)

    @property
    def complete(self) -> bool:
        """Whether there is nothing to do: the run came to its end, and every check has its verdict."""
        last = self.events[-1]
        return isinstance(last, RunFinished) and not last.interrupted and not self.left.reopened

    @property
    def attempt(self) -> int:
        """The number of the next one; the run itself was the first."""
        return _attempts(self.events) + 1

    def go_on(self, write: Callable[[Event], None]) -> None:
        """Set the journal right, and begin another attempt.

        Args:
            write: appends to the journal, which is open.

        Raises:
            InfrastructureError: it cannot be written.
        """
        path = self.run_dir / JOURNAL
        try:
            os.truncate(path, self.whole)
        except OSError as error:
            raise InfrastructureError(f"cannot write the journal {path}: {error.strerror}") from error
        for event in self.events[len(self.events) - self.added :]:
            write(event)
        left = self.left
        write(
            RunResumed(
                time=now(),
                kept=left.kept,
                left=len(left.reopened),
                units=left.units,
                torn=self.torn,
                host=socket.gethostname(),
                command=tuple(map(printable, sys.argv)),
            )
        )


@contextmanager
def resuming(run_dir: Path) -> Iterator[Earlier]:
    """Hold a run's folder and read it. Nothing in it is changed.

    Raises:
        UsageError: it is no run's folder, its journal is damaged other than at its very end, or another
            process runs in it.
        InfrastructureError: processes of an earlier attempt do not end.
    """
    run_dir = run_dir.absolute()
    # Not Path.is_file, which raises where the path is too long.
    if not os.path.isfile(run_dir / JOURNAL):  # noqa: PTH113
        raise UsageError(
            f"{run_dir} has no {JOURNAL}: --resume takes the folder of a run, DIR/<device>/<run id>"
        )
    if (run_dir / SHARDS).is_dir():
        raise UsageError(
            f"{run_dir} was merged of shards: resume the shard that has something left, and merge again"
        )
    with held(run_dir / JOURNAL):
        wait_until_gone(run_dir)
        yield _earlier(run_dir)


def _earlier(run_dir: Path) -> Earlier:
    events, whole, torn = read_whole_lines(run_dir / JOURNAL)
    if not events or not isinstance(events[0], RunStarted):
        raise UsageError(
            f"{run_dir / JOURNAL} does not begin with run_started: there is nothing to resume. "
            "Start a new run"
        )
    start = events[0]
    added, units_torn = _not_passed_on(run_dir, start, events)
    known = {(e.result.cell, e.result.check) for e in [*events, *added] if isinstance(e, CheckFinished)}
    for line in (torn, *units_torn):
        result = _cut_result(line, run_dir / JOURNAL)
        if result is not None and (result.cell, result.check) not in known:
            known.add((result.cell, result.check))
            added.append(CheckFinished(time=now(), result=result))
    everything = (*events, *added)
    build(
        everything, "0" * 64
    )  # A journal that makes no sense is refused now, before anything is added to it.
    return Earlier(run_dir, everything, start, whole, len(torn), len(added))


def _not_passed_on(
    run_dir: Path, start: RunStarted, events: Sequence[Event]
) -> tuple[list[Event], list[bytes]]:
    """What the units that were cut off (with ``--jobs`` several) wrote down and the runner did not copy; and
    their torn lines."""
    added: list[Event] = []
    torn = []
    for unit, passed_on in _open_units(start, events).items():
        path = unit_folder(run_dir, _attempts(events), unit) / JOURNAL
        if not path.is_file():
            continue
        told, _, cut = read_whole_lines(path)
        if told[: len(passed_on)] != passed_on[: len(told)]:
            raise UsageError(
                f"{path} is not what {JOURNAL} has of it: the folder was changed, start a new run"
            )
        rest = told[len(passed_on) :]
        for event in rest:
            if not isinstance(event, EngineReady | CheckStarted | CheckProgress | CheckFinished):
                raise UsageError(f"{path} is damaged: a unit does not write {event.type}. Start a new run")
        added += rest
        torn.append(cut)
    return added, torn


def _open_units(start: RunStarted, events: Sequence[Event]) -> dict[str, list[Event]]:
    """The units that were begun in the last attempt and did not end, with what was passed on of each."""
    names = unit_names(start)
    found: dict[str, list[Event]] = {}
    for event in events:
        if isinstance(event, RunResumed | RunFinished):
            found.clear()
        elif isinstance(event, UnitStarted):
            found[event.unit] = []
        elif isinstance(event, UnitFinished):
            found.pop(event.unit, None)
        elif (unit := unit_of(event, names)) in found:
            found[unit].append(event)
    return found


def _cut_result(line: bytes, journal: Path) -> CheckResult | None:
    """The failure that a line without its end tells of; ``None`` if it tells of none.

    Raises:
        UsageError: the line names a check in a way in which no journal is written. What failed is not known.
    """
    found = _CUT_RESULT.match(line)
    if found is None:
        return None
    try:
        cell, check = (_text(part) for part in found.groups()[:2])
    except ValueError as error:
        raise UsageError(
            f"{journal}: the last line is damaged, and tells of a failure: {shortened(str(error), 120)}\n"
            "hint: start a new run"
        ) from error
    status: Status = "fail" if found[3] == b"fail" else "inconclusive"
    return CheckResult(
        cell=cell,
        check=check,
        status=status,
        reason=f"the line of its result was cut off while it was written; it began with {status}",
    )


def _text(part: bytes) -> str:
    """The text of a JSON string without its quotes.

    Raises:
        ValueError: it is not one, not UTF-8, or has half a surrogate pair.
    """
    text = str(from_json(b'"' + part + b'"'))
    text.encode("utf-8")
    return text


def _attempts(events: Sequence[Event]) -> int:
    return 1 + sum(isinstance(event, RunResumed) for event in events)
