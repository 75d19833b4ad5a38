"""Waivers for a reader: who answers for a failure, why, and until when; and which of them must go."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from bi_harness.certificate.records import Waiver
from bi_harness.certificate.statement import Statement, WaiverState
from bi_harness.report.text import clean, plural

STATE_WORDS: Final[dict[WaiverState, str]] = {
    "in_force": "in force",
    "expired": "expired",
    "stale": "stale: something it names passed",
    "no_answer": "no answer from what it names",
    "not_in_run": "not in this run",
}

MAX_WAIVERS = 200


@dataclass(frozen=True, slots=True)
class WaiverLine:
    """One waiver; ``bad`` where it fails the run. Its link is text: a report leads nowhere."""

    state: str
    check: str
    cell: str
    names: str
    expires: str
    owner: str
    reason: str
    link: str
    bad: bool


def waiver_sentence(waiver: Waiver) -> str:
    """Who lets a failure be, why, and until when."""
    return (
        f"Waived, not passed, to the end of {clean(waiver.expires, 40)} (UTC). "
        f"Owner: {clean(waiver.owner, 200)}. "
        f"Reason: {clean(waiver.reason, 1_000)} ({clean(waiver.link, 500)})"
    )


def waiver_lines(statement: Statement) -> tuple[WaiverLine, ...]:
    """The waivers that name something in this run, those that fail it first; at most ``MAX_WAIVERS``."""
    uses = [use for use in statement.predicate.bi_harness.waivers if use.state != "not_in_run"]
    uses.sort(key=lambda use: use.state not in ("expired", "stale"))
    return tuple(
        WaiverLine(
            state=STATE_WORDS[use.state],
            check=clean(use.waiver.check, 160) or "(unnamed)",
            cell=clean(use.waiver.cell, 300) or "(unnamed)",
            names=plural(len(use.checks), "check"),
            expires=clean(use.waiver.expires, 40),
            owner=clean(use.waiver.owner, 200),
            reason=clean(use.waiver.reason, 1_000),
            link=clean(use.waiver.link, 500),
            bad=use.state in ("expired", "stale"),
        )
        for use in uses[:MAX_WAIVERS]
    )


def waivers_left(statement: Statement) -> str:
    """What ``waiver_lines`` leaves out, in one sentence; empty where that is nothing."""
    uses = statement.predicate.bi_harness.waivers
    elsewhere = sum(use.state == "not_in_run" for use in uses)
    more = max(0, len(uses) - elsewhere - MAX_WAIVERS)
    parts = [
        f"{plural(more, 'more waiver')} in certificate.json." if more else "",
        f"{plural(elsewhere, 'waiver')} not in this run." if elsewhere else "",
    ]
    return " ".join(part for part in parts if part)
