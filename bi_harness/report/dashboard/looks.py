"""Words, marks and colours: one meaning, one look, in the grid, the badges and the feed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from bi_harness.report.dashboard.fleet import Certificate, Group, Verdict


@dataclass(frozen=True, slots=True)
class Look:
    """How a state or a verdict is shown: ``kind`` is a class of the style sheet, the mark needs no colour."""

    word: str
    mark: str
    kind: str


STATES: Final[dict[str, Look]] = {
    "f": Look("fail", "✗", "fail"),
    "e": Look("error", "!", "error"),
    "i": Look("inconclusive", "?", "inconclusive"),
    "w": Look("waived", "≈", "waived"),
    "k": Look("part passed", "◐", "part"),
    "s": Look("skip", "–", "skip"),
    "p": Look("pass", "✓", "pass"),
    ".": Look("missing", "·", "missing"),
}
"""Worst first."""

VERDICTS: Final[dict[Verdict, Look]] = {
    "CERTIFIED": Look("CERTIFIED", "✓", "pass"),
    "WAIVED": Look("CERTIFIED, with waived failures", "≈", "waived"),
    "PASSING": Look("PASSES, not certified", "◐", "part"),
    "INCOMPLETE": Look("INCOMPLETE", "○", "inconclusive"),
    "INCONCLUSIVE": Look("INCONCLUSIVE", "?", "inconclusive"),
    "NOT_CERTIFIED": Look("NOT CERTIFIED", "✗", "fail"),
    "STALE": Look("STALE", "○", "stale"),
    "SKIPPED": Look("SKIPPED", "–", "skip"),
    "NONE": Look("NO CERTIFICATE", "·", "missing"),
}

MEANINGS: Final[dict[Verdict, str]] = {
    "CERTIFIED": "every check that was to run passed, in certificates that are CERTIFIED",
    "WAIVED": "certified; a failure is waived, and a waiver is not a pass",
    "PASSING": "its checks pass, but a certificate that has them is not CERTIFIED, for another cell in it",
    "INCOMPLETE": "a cell that reported before has not for too long",
    "INCONCLUSIVE": (
        "a check ended in an error, proved nothing, or only a part of a suite ran; or a run as a whole "
        "concluded nothing, or a certificate that claims to be of the device does not count"
    ),
    "NOT_CERTIFIED": (
        "a check failed where last known, bits differ across data parallel sizes, or a waiver is stale or "
        "expired"
    ),
    "STALE": "nothing has reported for too long: what is known is too old to go by",
    "SKIPPED": "rules exclude every cell",
    "NONE": "there is no certificate",
}


def days_ago(days: int) -> str:
    """``today``, ``1 day ago``."""
    return "today" if days <= 0 else "1 day ago" if days == 1 else f"{days:,} days ago"


def verdict_words(group: Group) -> str:
    """The verdict, and what a stale one was."""
    words = VERDICTS[group.verdict].word
    return f"{words}, was {VERDICTS[group.before].word}" if group.verdict == "STALE" else words


def signature(one: Certificate) -> tuple[str, str]:
    """Who signed a certificate: a kind (``good``, ``unchecked``, ``none``) and words."""
    if one.signed_by:
        return "good", f"signed by {', '.join(key[:12] for key in one.signed_by)}"
    if one.signatures:
        return "unchecked", "signature not checked (no key given)"
    return "none", "unsigned"


def versions_words(versions: tuple[str, str, str]) -> str:
    """``vLLM 0.26.0, torch 2.11.0, bi-harness 0.1.0``, without what is not known."""
    names = ("vLLM", "torch", "bi-harness")
    found = ", ".join(f"{name} {v}" for name, v in zip(names, versions, strict=True) if v)
    return found or "versions unknown"
