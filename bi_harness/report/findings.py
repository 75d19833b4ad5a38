"""A check's figures, a failure's story and the skips, as text that every format can place."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from bi_harness.certificate.records import CheckResult, Divergence, Evidence, PlantedControl, Status
from bi_harness.certificate.statement import Statement
from bi_harness.report.bits import BitPair, bit_pair, float_text
from bi_harness.report.cellid import CellParts, parse_cell_id
from bi_harness.report.reproduce import reproduce_command
from bi_harness.report.text import LONG_LIMIT, clean, count, duration, number, percent, plural, scalar
from bi_harness.report.waivers_view import waiver_sentence

NOTHING = "—"
_FACTS_TOLD = 8
_SAFE_LOG = re.compile(r"logs/[A-Za-z0-9_][A-Za-z0-9_.-]*(?:/[A-Za-z0-9_][A-Za-z0-9_.-]*)*")


@dataclass(frozen=True, slots=True)
class Figures:
    """One line of the table of checks; an em dash stands for what was not measured."""

    check: str
    status: Status
    prompts: str
    steps: str
    values: str
    differing_prompts: str
    differing_steps: str
    differing_values: str
    max_ulp: str
    upper95: str
    batch: str
    control: str
    duration: str


@dataclass(frozen=True, slots=True)
class CellFigures:
    """The lines of one cell."""

    cell: str
    checks: tuple[Figures, ...]


def cell_figures(statement: Statement) -> tuple[CellFigures, ...]:
    """The table of checks, by cell, without the skips (they have a section of their own)."""
    by_cell: dict[str, list[Figures]] = {}
    for check in statement.predicate.bi_harness.checks:
        if check.status != "skip":
            by_cell.setdefault(check.cell, []).append(figures(check))
    return tuple(
        CellFigures(clean(cell, 300) or "(unnamed)", tuple(lines)) for cell, lines in by_cell.items()
    )


def figures(check: CheckResult) -> Figures:
    """One check's line."""
    have = check.evidence
    return Figures(
        check=clean(check.check, 160) or "(unnamed)",
        status=check.status,
        prompts=NOTHING if have is None else count(have.prompts),
        steps=NOTHING if have is None else count(have.steps),
        values=NOTHING if have is None else count(have.values),
        differing_prompts=NOTHING if have is None else count(have.differing_prompts),
        differing_steps=NOTHING if have is None else count(have.differing_steps),
        differing_values=NOTHING if have is None else count(have.differing_values),
        max_ulp=NOTHING if have is None else count(have.max_ulp),
        upper95=NOTHING if have is None else percent(have.upper95),
        batch=NOTHING if have is None else batch_reached(have),
        control="did not run"
        if check.control is None
        else control_outcome(check.control, check.planted_control),
        duration=duration(check.duration_s),
    )


def batch_reached(evidence: Evidence) -> str:
    """What the scheduler made of the largest arm: ``32 of 32 requests``."""
    if not evidence.batches:
        return NOTHING
    arm = max(evidence.batches, key=lambda batch: batch.batch_size)
    return f"{count(arm.max_requests)} of {count(arm.batch_size)}"


def control_outcome(control: Evidence, planted: PlantedControl | None = None) -> str:
    """How far the control diverged: ``31 of 32``, or ``0 of 22, planted 22 of 22``."""
    own = f"{count(control.differing_prompts)} of {count(control.prompts)}"
    return own if planted is None else f"{own}, planted {control_outcome(planted.evidence)}"


@dataclass(frozen=True, slots=True)
class Finding:
    """One check that a reader has to look at.

    Attributes:
        anchor: an id for links within a document.
        where: where the bits first differ, in one sentence; empty where nothing was compared.
        figures: how much differed, in one sentence; empty where nothing was compared.
        control: what the control did, in one sentence; empty where it did not run.
        waiver: who lets the failure be, why and until when; empty where nobody does.
        log_link: the log's path where it is safe as a relative link; empty otherwise.
    """

    anchor: str
    cell: CellParts
    cell_label: str
    check: str
    status: Status
    reason: str
    where: str
    figures: str
    control: str
    waiver: str
    divergence: DivergenceView | None
    log: str
    log_link: str
    command: str

    @property
    def command_parts(self) -> tuple[str, ...]:
        """The command in pieces, between which a line may break without tearing an option."""
        return tuple(re.split(r" (?=-)", self.command))


@dataclass(frozen=True, slots=True)
class DivergenceView:
    """The first divergent token, ready to be shown."""

    rows: tuple[tuple[str, str], ...]
    reference: Side
    observed: Side
    bits: BitPair


@dataclass(frozen=True, slots=True)
class Side:
    """One of the two observations."""

    token: str
    bits: str
    logprob: str


def finding(statement: Statement, check: CheckResult, index: int) -> Finding:
    """The story of one check; ``index`` makes its anchor."""
    evidence, control = check.evidence, check.control
    first = None if evidence is None else evidence.first_divergence
    arm = "" if first is None else _arm_name(evidence, first)
    log = clean(check.log or "", 400)
    return Finding(
        anchor=f"finding-{index}",
        cell=parse_cell_id(check.cell),
        cell_label=clean(check.cell, 300) or "(unnamed)",
        check=clean(check.check, 160) or "(unnamed)",
        status=check.status,
        reason=clean(check.reason, LONG_LIMIT),
        where="" if first is None else where_sentence(first, arm),
        figures=" ".join(
            text
            for text in ("" if evidence is None else figures_sentence(evidence), facts_sentence(check))
            if text
        ),
        control="" if control is None else control_sentence(control, check.planted_control),
        waiver="" if check.waiver is None else waiver_sentence(check.waiver),
        divergence=None if first is None else divergence_view(first, arm),
        log=log,
        log_link=log if _SAFE_LOG.fullmatch(check.log or "") else "",
        command=clean(reproduce_command(statement, check), 2_000),
    )


def figures_sentence(evidence: Evidence) -> str:
    """How much of what was compared differs."""
    return (
        f"{count(evidence.differing_prompts)} of {plural(evidence.prompts, 'prompt')}, "
        f"{count(evidence.differing_steps)} of {plural(evidence.steps, 'step')} and "
        f"{count(evidence.differing_values)} of {plural(evidence.values, 'logprob')} differ; "
        f"largest distance {count(evidence.max_ulp)} ULP, {number(evidence.max_abs)} absolute; "
        f"rate of differing steps at most {percent(evidence.upper95)} (95% bound)."
    )


def facts_sentence(check: CheckResult) -> str:
    """What engines said of themselves and should not have; empty for a check that judges no such thing."""
    judged = sum(fact.judged for fact in check.facts)
    if not judged:
        return ""
    found = [fact for fact in check.facts if fact.wrong]
    told = "; ".join(
        f"{clean(f.name, 160)} is {clean(f.found, 160)}, not {clean(' or '.join(f.expected), 160)}"
        for f in found[:_FACTS_TOLD]
    )
    more = f"; and {len(found) - _FACTS_TOLD} more" if len(found) > _FACTS_TOLD else ""
    return (
        f"{count(len(found))} of {plural(judged, 'fact')} not as expected{': ' if told else ''}{told}{more}."
    )


PLANTED_WORDS: Final[dict[str, str]] = {
    "together": "that share a step with another request",
    "preempted": "that were preempted",
    "cached": "that read the prefix cache",
    "split": "whose prefill is split",
    "scored": "that are scored",
    "drafted": "that have drafted tokens",
}
"""The requests that a planted difference is in, see ``workload.requests.Planted``."""


def control_sentence(control: Evidence, planted: PlantedControl | None = None) -> str:
    """What the workload did with invariance off, and what that means for the check's power."""
    prompts = plural(control.prompts, "prompt")
    own = f"With invariance off, {count(control.differing_prompts)} of {prompts} differ"
    if planted is None:
        power = "so the workload can tell" if control.differing_prompts else "so a pass would prove nothing"
        return f"{own}, {power}."
    seen = planted.evidence
    return (
        f"{own}. With the lowest bit of each logprob flipped in requests {PLANTED_WORDS[planted.requests]}, "
        f"the comparison sees {count(seen.differing_prompts)} of {plural(seen.prompts, 'prompt')} differ."
    )


def _arm_name(evidence: Evidence | None, first: Divergence) -> str:
    """The name of the arm that differs; empty where the certificate does not tell."""
    if evidence is None or first.arm is None or first.arm >= len(evidence.batches):
        return ""
    return clean(evidence.batches[first.arm].name, 200)


def where_sentence(first: Divergence, arm: str = "") -> str:
    """The first divergent token in one line; ``arm`` is the name of its arm."""
    return (
        f"First at prompt {count(first.prompt)}, step {count(first.step)}, {column_name(first.rank)}, "
        f"batch size {count(first.batch_size)}{f', {arm}' if arm else ''}: "
        f"{first.reference_bits} became {first.observed_bits} ({count(first.ulp)} ULP)."
    )


def column_name(rank: int) -> str:
    """What a divergence's rank stands for."""
    if rank < 0:
        return "sampled token or length"
    return "sampled token's logprob" if rank == 0 else f"top-{count(rank)} logprob"


def divergence_view(first: Divergence, arm: str = "") -> DivergenceView:
    """The first divergent token as a table; ``arm`` is the name of its arm."""
    return DivergenceView(
        rows=(
            ("Prompt", f"{count(first.prompt)} ({plural(first.prompt_tokens, 'token')})"),
            ("Step", count(first.step)),
            ("Rank", f"{count(first.rank)} ({column_name(first.rank)})"),
            ("Batch size", count(first.batch_size)),
            *([("Arm", arm)] if arm else []),
            ("Distance", f"{count(first.ulp)} ULP"),
        ),
        reference=_side(first.reference_token, first.reference_bits, first.reference_logprob),
        observed=_side(first.observed_token, first.observed_bits, first.observed_logprob),
        bits=bit_pair(first.reference_bits, first.observed_bits),
    )


def _side(token: int, bits: str, recorded: float | None) -> Side:
    # Nine digits from the bits: the recorded decimal may be rounded so far that both sides look equal.
    logprob = float_text(bits)
    return Side(scalar(token), bits, logprob if recorded is not None else f"{logprob} (not finite)")


@dataclass(frozen=True, slots=True)
class SkipGroup:
    """The checks that one rule excluded, for one reason."""

    rule: str
    reason: str
    cells: tuple[tuple[str, str], ...]


def skip_groups(statement: Statement) -> tuple[SkipGroup, ...]:
    """The skips by rule and reason, in plan order; each cell with its checks' names."""
    groups: dict[tuple[str, str], dict[str, list[str]]] = {}
    for check in statement.predicate.bi_harness.checks:
        if check.status == "skip":
            key = (clean(check.rule or "no rule named", 120), clean(check.reason, 1_000))
            name = clean(check.check, 160) or "(unnamed)"
            groups.setdefault(key, {}).setdefault(clean(check.cell, 300) or "(unnamed)", []).append(name)
    return tuple(
        SkipGroup(rule, reason, tuple((cell, ", ".join(names)) for cell, names in cells.items()))
        for (rule, reason), cells in groups.items()
    )
