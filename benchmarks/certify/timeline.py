"""Where a run's wall time went, from its journal and the logs of its engines. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

Span = tuple[float, float]
_LOGGED = re.compile(r"^(?:INFO|WARNING) (\d\d)-(\d\d) (\d\d):(\d\d):(\d\d) ", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Shares:
    """Seconds of the wall in which something of a kind went on and nothing of those before it.

    Attributes:
        wall_s: from the command's start to its end.
        importing_s: an engine's process imports vLLM: from its start to vLLM's first line in its log, which
            is told in whole seconds.
        starting_s: an engine starts.
        generating_s: an engine generates: from a check's start, or its engines', to its last sign of life.
        comparing_s: a check compares and concludes: from then to its end.
        ending_s: a unit's engines end, or its process starts or ends.
        harness_s: none of that: the command before, between and after its units.
    """

    wall_s: float
    importing_s: float
    starting_s: float
    generating_s: float
    comparing_s: float
    ending_s: float
    harness_s: float


def shares(
    events: Sequence[Mapping[str, Any]], began: float, ended: float, first_lines: Mapping[float, float]
) -> Shares:
    """Account for every moment of a run once.

    Args:
        events: of the journal.
        began: the command's start, seconds since the epoch.
        ended: its end.
        first_lines: by the time at which an engine was ready, when its log had vLLM's first line.
    """
    starting, generating, comparing, units = (list[Span]() for _ in range(4))
    importing: list[Span] = []
    opened: dict[tuple[str, str], list[float]] = {}
    unit_began: dict[str, float] = {}
    for event in events:
        at = seconds(event["time"])
        match event["type"]:
            case "unit_started":
                unit_began[event["unit"]] = at
            case "unit_finished":
                units.append((unit_began[event["unit"]], at))
            case "engine_ready":
                from_, line = at - event["arm"]["start_s"], first_lines.get(at)
                starting.append((from_, at))
                if line is not None:
                    importing.append((from_, min(max(line, from_), at)))
            case "check_started":
                opened[event["cell"], event["check"]] = [at, at]
            case "check_progress":
                opened[event["cell"], event["check"]][1] = at
            case "check_finished":
                key = (event["result"]["cell"], event["result"]["check"])
                if key in opened:  # A check that was skipped or never ran has no start.
                    from_, last = opened.pop(key)
                    generating.append((from_, last))
                    comparing.append((last, at))
    left = [(began, ended)]
    found = []
    for spans in (importing, starting, generating, comparing, units):
        inside, left = split(left, spans)
        found.append(inside)
    return Shares(ended - began, *found, harness_s=length(left))


def split(of: Sequence[Span], by: Iterable[Span]) -> tuple[float, list[Span]]:
    """How many seconds of some disjoint spans lie in others, and what of them does not."""
    left = list(of)
    for start, end in by:
        if start < end:
            pieces = [piece for a, b in left for piece in ((a, min(b, start)), (max(a, end), b))]
            left = [(a, b) for a, b in pieces if a < b]
    return length(of) - length(left), left


def length(spans: Iterable[Span]) -> float:
    """Seconds in disjoint spans."""
    return sum(end - start for start, end in spans)


def seconds(time: str) -> float:
    """A journal's time, in seconds since the epoch."""
    return datetime.fromisoformat(time).timestamp()


def first_line(log: str, near: float) -> float | None:
    """When vLLM wrote its first line into an engine's log; ``None`` where it has none.

    Args:
        log: the text; its times are of this host's clock (UTC there) and name no year.
        near: a time in that year, seconds since the epoch.
    """
    found = _LOGGED.search(log)
    if found is None:
        return None
    month, day, hour, minute, second = map(int, found.groups())
    year = datetime.fromtimestamp(near, UTC).year
    return datetime(year, month, day, hour, minute, second).astimezone().timestamp()
