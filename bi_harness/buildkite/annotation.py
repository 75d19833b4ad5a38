"""What a build's page shows of a run: Markdown under Buildkite's limit, and its style. Pure."""

from __future__ import annotations

from typing import Final, Literal

from bi_harness.buildkite.text import key
from bi_harness.certificate.gate import GateResult
from bi_harness.certificate.statement import Statement
from bi_harness.exits import ExitCode
from bi_harness.report import facts
from bi_harness.report.gate_view import gate_markdown, headline
from bi_harness.report.markdown import LISTED, MAX_BYTES, escape, sections

Style = Literal["success", "info", "warning", "error"]
"""Of ``buildkite-agent annotate``."""

FAILURES: Final = 10
"""Failures that are shown one by one."""

SHOWN: Final = ("verdict", "matrix", "failures", "waivers", "skips")
"""Sections of ``certificate.md`` that a build's page has. The rest is in the artifacts."""


def style(statement: Statement) -> Style:
    """By the verdict. Only one that is certified with nothing waived has the colour of success; a shard that
    did what it was for has none."""
    result = statement.predicate.bi_harness
    if result.shard is not None and result.shard.passed:
        return "info"
    if result.verdict == "NOT_CERTIFIED":
        return "error"
    if result.verdict == "CERTIFIED" and not facts.warned(statement) and not facts.contradictions(statement):
        return "success"
    return "warning"


def shard_of(statement: Statement) -> tuple[int, int] | None:
    """Which shard a certificate is of, and of how many; ``None`` for a whole run."""
    part = getattr(statement.predicate.bi_harness, "shard", None)
    return None if part is None else (part.index, part.count)


def context(statement: Statement, shard: tuple[int, int] | None) -> str:
    """The annotation's name: one for each device, and one for each of its shards. A later one of that name
    takes its place.

    Args:
        shard: its number from 1, and how many there are; ``None`` for a whole run.
    """
    device = facts.device_id(statement)
    return key(device) if shard is None else key(device, "shard", f"{shard[0]}-of-{shard[1]}")


def body(statement: Statement, shard: tuple[int, int] | None = None, limit: int = MAX_BYTES) -> str:
    """The verdict, the matrix and the first failures.

    Args:
        shard: as for ``context``.
        limit: bytes at most. What does not fit is left out by whole sections, and named.
    """
    found = {
        name: text for name, text in sections(statement, LISTED, FAILURES).items() if name in SHOWN and text
    }
    if shard is not None:
        found["verdict"] += (
            f"\n\nThis is shard {shard[0]} of {shard[1]}: a part of the device's checks. "
            "The certificate is made of all of them."
        )
    run = escape(statement.predicate.bi_harness.run_id, 120)
    foot = f"_More is in the artifacts of this job: certificate.html, logs and the journal of run {run}._"
    kept: list[str] = []
    left: list[str] = []
    # Room for the foot, and for the names of everything that may be left out.
    room = limit - len(foot.encode()) - 300
    for name, text in found.items():
        size = len(text.encode()) + 2
        if size <= room:
            kept.append(text)
            room -= size
        else:
            left.append(name)
    if left:
        kept.append(f"_Left out, for a build's page takes {limit:,} bytes: {', '.join(left)}._")
    return "\n\n".join([*kept, foot]) + "\n"


GATE_CONTEXT: Final = key("gate")


def gate_body(result: GateResult, limit: int = MAX_BYTES) -> str:
    """The gate's page, or its first line where that is too long for a build's page."""
    text = gate_markdown(result)
    if len(text.encode()) < limit:
        return text
    return (
        f"## {escape(headline(result))}\n\n"
        f"_Left out, for a build's page takes {limit:,} bytes: the requirements, which the artifacts have._\n"
    )


def gate_style(result: GateResult) -> Style:
    """By what the gate ends with."""
    if result.exit_code == ExitCode.CERTIFIED:
        return "success"
    return "warning" if result.exit_code == ExitCode.INCONCLUSIVE else "error"
