"""``test-engine.json``: the checks as Buildkite's Test Engine takes them, with when each ran.

Source of the form: Buildkite's documentation, "Importing JSON" (test result, failure expanded, history and
span objects). Results are as in ``junit.xml``: ``fail``, ``error`` and ``inconclusive`` are ``failed``,
``skip`` and ``waived`` are ``skipped``.

It is none of a run's reports, which are made of the certificate alone, and is written where it is asked for
or of use: it wants to know when each check began, and that the journal tells.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable, Sequence
from typing import Any, Final

from bi_harness.certificate.events import CheckStarted, EngineReady, Event, RunStarted
from bi_harness.certificate.files import TEST_ENGINE
from bi_harness.certificate.records import CheckResult, Status
from bi_harness.certificate.statement import Statement
from bi_harness.report import facts
from bi_harness.report.cellid import parse_cell_id
from bi_harness.report.junit import details, looks_green
from bi_harness.report.text import clean, elapsed

NAME: Final = "test-engine.json"
"""The first file; those after it are ``test-engine-2.json``, ..."""

PATTERN: Final = TEST_ENGINE

MOST: Final = 5_000
"""Results in a file that Test Engine takes."""

RESULTS: Final[dict[Status, str]] = {
    "pass": "passed",
    "fail": "failed",
    "error": "failed",
    "inconclusive": "failed",
    "skip": "skipped",
    "waived": "skipped",
}

_Key = tuple[str, str]


def render_test_engine(statement: Statement, events: Iterable[Event], most: int = MOST) -> dict[str, bytes]:
    """The files, by name.

    Args:
        statement: what came of the checks.
        events: of the run's journal: when they began. Times are in seconds from the run's start.
        most: results in a file.
    """
    began, engines = _times(events)
    cases = [
        _case(statement, check, began.get((check.cell, check.check)), engines)
        for check in statement.predicate.bi_harness.checks
    ]
    if looks_green(statement.predicate.bi_harness):
        cases.append(_verdict(statement))
    parts = [cases[i : i + most] for i in range(0, len(cases), most)] or [[]]
    return {
        NAME if number == 1 else f"{NAME.removesuffix('.json')}-{number}.json": _bytes(part)
        for number, part in enumerate(parts, start=1)
    }


def _bytes(cases: Sequence[dict[str, Any]]) -> bytes:
    return (json.dumps(cases, indent=1, allow_nan=False) + "\n").encode()


def _times(events: Iterable[Event]) -> tuple[dict[_Key, float], list[tuple[float, EngineReady]]]:
    """When checks began for the last time, and when engines were ready."""
    start: str | None = None
    began: dict[_Key, float] = {}
    engines: list[tuple[float, EngineReady]] = []
    for event in events:
        if isinstance(event, RunStarted):
            start = event.time
        elif start is not None and isinstance(event, CheckStarted | EngineReady):
            after = max(0.0, elapsed(start, event.time) or 0.0)
            if isinstance(event, CheckStarted):
                began[event.cell, event.check] = after
            else:
                engines.append((after, event))
    return began, engines


def _case(
    statement: Statement,
    check: CheckResult,
    began: float | None,
    engines: Sequence[tuple[float, EngineReady]],
) -> dict[str, Any]:
    start, seconds = began or 0.0, max(0.0, check.duration_s or 0.0)
    # Of checks that ran side by side in other units, engines are not this one's.
    inside = [
        (at, event)
        for at, event in engines
        if start < at <= start + seconds and f"{check.cell}/".startswith(f"{event.arm.unit}/")
    ]
    parts = parse_cell_id(check.cell)
    found: dict[str, Any] = {
        "id": _id(statement, check.cell, check.check),
        "scope": clean(check.cell, 500) or "(unnamed)",
        "name": clean(check.check, 200) or "(unnamed)",
        "result": RESULTS[check.status],
        "history": {
            "section": "top",
            "start_at": round(start, 3),
            "end_at": round(start + seconds, 3),
            "duration": round(seconds, 3),
            "children": [_span(at, event) for at, event in inside],
        },
        "tags": {
            name: shown
            for name, value in (
                ("status", check.status),
                ("device", parts.device or facts.device_id(statement)),
                ("model", parts.model),
                ("backend", parts.backend),
                ("parallel", parts.parallel),
                ("mode", parts.mode),
                ("vllm", facts.vllm_version(statement)),
            )
            if (shown := clean(value, 100))
        },
    }
    if parts.suite:
        found["location"] = found["file_name"] = f"suites/{clean(parts.suite, 100)}"
    if RESULTS[check.status] == "failed":
        found["failure_reason"] = clean(check.reason, 500) or check.status
        found["failure_expanded"] = [
            {
                "expanded": details(statement, check).splitlines(),
                "backtrace": [clean(check.log, 500)] if check.log else [],
            }
        ]
    return found


def _span(ready: float, event: EngineReady) -> dict[str, Any]:
    arm = event.arm
    took = max(0.0, arm.start_s)
    what = f"{arm.engine} engine" if arm.engine else "engine"
    return {
        "section": "annotation",
        "start_at": round(ready - took, 3),
        "end_at": round(ready, 3),
        "duration": round(took, 3),
        "detail": {"content": clean(f"{what} started: {arm.arm} of {arm.unit}", 500)},
    }


def _verdict(statement: Statement) -> dict[str, Any]:
    """One that failed, so that a viewer that reads nothing else does not show a green run."""
    result = statement.predicate.bi_harness
    return {
        "id": _id(statement, "bi-harness", "verdict"),
        "scope": "bi-harness",
        "name": "verdict",
        "result": "failed",
        "failure_reason": clean(result.why, 500) or result.verdict,
        "history": {"section": "top", "start_at": 0.0, "end_at": 0.0, "duration": 0.0, "children": []},
    }


def _id(statement: Statement, cell: str, check: str) -> str:
    name = f"bi-harness:{statement.predicate.bi_harness.run_id}:{cell}::{check}"
    return str(uuid.uuid5(uuid.NAMESPACE_URL, name.encode("utf-8", "backslashreplace").decode()))
