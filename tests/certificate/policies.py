"""Policies, and certificates to hold against them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from bi_harness.certificate.build import build
from bi_harness.certificate.events import Event
from bi_harness.certificate.files import CERTIFICATE
from bi_harness.certificate.gate import GateResult, gate
from bi_harness.certificate.verify import Examined, Folder, examine
from bi_harness.cli.examined import recompute
from bi_harness.spec.policy import Policy
from tests.certificate.journals import JOURNAL, sound, started

NOW = datetime(2026, 1, 15, 9, 0, tzinfo=UTC)
"""A day after the runs of ``journals`` ended."""
NEEDS: dict[str, Any] = {"devices": "cpu", "models": "tiny", "suites": "core", "modes": "eager"}
CLEAN = {**started().provenance, "harness": {"version": "0.1", "git_commit": "ab", "dirty": False}}


def policy(*needs: dict[str, Any], **more: Any) -> Policy:
    return Policy.model_validate({"requires": list(needs) or [NEEDS], "vllm": ">=0.30,<1", **more})


def run(events: Sequence[Event] = (), **start: Any) -> list[Event]:
    """A sound run of a clean harness, or these events with another start."""
    first, *rest = events or sound()
    return [first.model_copy(update={"provenance": CLEAN, **start}), *rest]


def certificate(events: Sequence[Event] = (), place: str = "a", **start: Any) -> Examined:
    statement = build(run(events, **start), JOURNAL)
    found = examine(Folder(place, {CERTIFICATE: statement.to_json().encode()}, whole=False), [], recompute())
    assert found.genuine, found.problems
    return found


def held(asked: Policy, *certificates: Examined, later: timedelta = timedelta(0)) -> GateResult:
    return gate(asked, certificates, now=NOW + later)
