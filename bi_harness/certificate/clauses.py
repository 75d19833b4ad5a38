"""Does a certificate meet a requirement of a policy, or speak against it? Pure decisions.

One cell alone must have everything that the requirement asks for. Where the requirement leaves an axis out,
several cells of a certificate are of it: any one of them can meet it, and none of them may have failed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from fractions import Fraction
from typing import Literal

from bi_harness.certificate.cellid import parse_cell_id
from bi_harness.certificate.check_times import CheckTimes
from bi_harness.certificate.records import CheckResult
from bi_harness.certificate.statement import HarnessResult, Power
from bi_harness.matrix.execution import SAME_AS_DEFAULT, default_twin
from bi_harness.spec.policy import Policy, Requirement

Cells = Mapping[str, Sequence[CheckResult]]
"""By id of a cell that the requirement speaks of, the checks that count for it."""


@dataclass(frozen=True, slots=True)
class CertificateEvidence:
    """A genuine certificate that speaks of a release that is asked for.

    Attributes:
        place: where it is.
        result: what it says.
        times: when its checks can have run.
        against: why it cannot meet a requirement; it can still speak against one.
        no_answer: why it is INCONCLUSIVE as a whole; empty when it is not.
    """

    place: str
    result: HarnessResult
    times: CheckTimes
    against: tuple[str, ...]
    no_answer: str


@dataclass(frozen=True, slots=True)
class Opinion:
    """What a certificate says of a requirement.

    Attributes:
        state: ``met``; ``failed``: a check failed; ``lacking``: it has not all that is asked for;
            ``no_answer``: it would have, but for checks without an answer.
        why: for any other state than ``met``.
    """

    state: Literal["met", "failed", "lacking", "no_answer"]
    why: str = ""


def opinion(
    policy: Policy, wanted: Requirement, evidence: CertificateEvidence, now: datetime
) -> Opinion | None:
    """What a certificate says of a requirement; ``None`` where no cell of it is of the requirement.

    Args:
        now: what ages are counted from, in UTC.
    """
    result = evidence.result
    cells = _cells_of(wanted, result)
    if not cells:
        return None
    if why := _failure(policy, wanted, cells, result):
        return Opinion("failed", why)
    lacks = [*evidence.against, *_lacks_of_all(policy, wanted, cells, result, now)]
    lacks += _lacks_of_closest(policy, wanted, cells, evidence.times, now)
    if lacks:
        return Opinion("lacking", "; ".join(lacks))
    if why := _no_answer([check for checks in cells.values() for check in checks]) or evidence.no_answer:
        return Opinion("no_answer", why)
    return Opinion("met")


def age_problem(policy: Policy, ran: datetime, now: datetime) -> str:
    """Why something that ran at this time is too old; empty when it is not."""
    if policy.max_age_days is None:
        return ""
    age = now - ran
    if age <= timedelta(days=policy.max_age_days):
        return ""
    return f"{age / timedelta(days=1):.1f} days old, and at most {policy.max_age_days:g} are allowed"


def _failure(policy: Policy, wanted: Requirement, cells: Cells, result: HarnessResult) -> str:
    """What speaks against the requirement, in any cell of it; empty when nothing does."""
    checks = [check for found in cells.values() for check in found]
    failed = [check for check in _asked(wanted, checks) if check.status == "fail"]
    if not policy.allow_waivers:
        failed += [check for check in _asked(wanted, checks) if check.status == "waived"]
    if failed:
        first = failed[0]
        waived = " and was waived, which the policy does not allow," if first.status == "waived" else ""
        return f"{first.check} failed{waived} on {first.cell}: {first.reason}"
    ids = {check.cell for check in checks}
    for axis in result.axes:
        if axis.required and not axis.equal and ids.intersection(axis.cells):
            return f"{axis.check} has other bits on {axis.cells[1]} than on {axis.cells[0]}"
    return ""


def _lacks_of_all(
    policy: Policy, wanted: Requirement, cells: Cells, result: HarnessResult, now: datetime
) -> list[str]:
    """What must not be in any cell of the requirement, and what is asked of the suite."""
    found = []
    if wanted.checks is None and "k" in result.scope.filters:
        found.append("it ran a part of the suite's checks (-k)")
    asked = [check for checks in cells.values() for check in _asked(wanted, checks)]
    skipped = [check for check in asked if check.status == "skip"]
    if skipped and not policy.allow_skips:
        found.append(f"{skipped[0].check} was skipped by the rule {skipped[0].rule} on {skipped[0].cell}")
    found += [
        f"{check.check} on {check.cell}: {why}"
        for check in asked
        if check.status == "waived" and (why := _waiver_over(check, now))
    ]
    if policy.min_selftest_score is not None:
        power = next((power for power in result.power if power.suite == wanted.suite), None)
        if why := _weak(power, policy.min_selftest_score):
            found.append(why)
    return found


def _lacks_of_closest(
    policy: Policy, wanted: Requirement, cells: Cells, times: CheckTimes, now: datetime
) -> list[str]:
    """What the cell lacks that comes closest; nothing where one cell has everything."""
    lacks = {cell: _lacks_of_cell(policy, wanted, checks, times, now) for cell, checks in cells.items()}
    closest = min(lacks, key=lambda cell: len(lacks[cell]))
    if not lacks[closest] or len(lacks) == 1:
        return lacks[closest]
    return [f"none of its {len(lacks)} cells has all of it; {closest}: {'; '.join(lacks[closest])}"]


def _lacks_of_cell(
    policy: Policy, wanted: Requirement, checks: Sequence[CheckResult], times: CheckTimes, now: datetime
) -> list[str]:
    """What one cell lacks to meet the requirement alone, checks without an answer apart."""
    found = []
    asked = _asked(wanted, checks)
    if wanted.checks is not None:
        if missing := [name for name in wanted.checks if name not in {check.check for check in asked}]:
            found.append(f"it has no check {', '.join(missing)}")
        found += [f"{check.check} was skipped, and is asked for" for check in asked if check.status == "skip"]
    passed = [check for check in asked if check.status == "pass"]
    if not passed and not _no_answer(asked):
        found.append("no check of it passed")
    steps = sum(check.evidence.steps for check in passed if check.evidence is not None)
    if policy.min_steps is not None and steps < policy.min_steps:
        found.append(f"{steps} steps were compared, and {policy.min_steps} are asked for")
    if policy.max_age_days is not None and (why := _too_old(policy, asked, times, now)):
        found.append(why)
    return found


def _too_old(policy: Policy, asked: Sequence[CheckResult], times: CheckTimes, now: datetime) -> str:
    """Why results that would meet a requirement are too old; empty when none is."""
    for check in asked:
        if check.status not in ("pass", "waived"):
            continue
        ran = times.earliest((check.cell, check.check))
        if ran is None:
            return f"it does not say when {check.check} ran on {check.cell}"
        if why := age_problem(policy, ran, now):
            return f"{check.check} on {check.cell} may be {why}"
    return ""


def _weak(power: Power | None, least: float) -> str:
    if power is None or not power.faults:
        return "its suite has no self-test"
    if not power.current:
        return "its suite's self-test is of an earlier state of the suite"
    if power.false_alarms or not power.clean_runs:
        return f"its suite's self-test has {power.false_alarms} false alarms in {power.clean_runs} clean runs"
    # Exact: a float overflows where JSON's integers do not.
    if power.caught < Fraction(str(least)) * power.faults:
        return (
            f"its suite's self-test caught {power.caught} of {power.faults} faults; {least:g} are asked for"
        )
    return ""


def _waiver_over(check: CheckResult, now: datetime) -> str:
    """Why a waiver does not hold any more on the day of the gate; empty when it does."""
    waiver = getattr(check, "waiver", None)
    last = getattr(waiver, "expires", None)
    if last is None:
        return "it is waived, and does not say until when"
    if now.astimezone(UTC).date() > date.fromisoformat(last):
        return f"its waiver expired on {last}"
    return ""


def _no_answer(checks: Sequence[CheckResult]) -> str:
    for check in checks:
        if check.status in ("error", "inconclusive"):
            return f"{check.check} on {check.cell} is {check.status}: {check.reason}"
    return ""


def _asked(wanted: Requirement, checks: Sequence[CheckResult]) -> list[CheckResult]:
    return [check for check in checks if wanted.checks is None or check.check in wanted.checks]


def _cells_of(wanted: Requirement, result: HarnessResult) -> dict[str, list[CheckResult]]:
    """The cells that the requirement speaks of, and their checks.

    Where a mode was left to ``default``, which is the same mode there, the checks of the ``default`` cell
    stand for it.
    """
    cells: dict[str, list[CheckResult]] = {}
    for check in result.checks:
        if _is_of(check.cell, wanted, result):
            cells.setdefault(check.cell, []).append(check)
    if not any(check.rule == SAME_AS_DEFAULT for checks in cells.values() for check in checks):
        return cells  # Of thousands of requirements few meet such a cell.
    named = {(check.cell, check.check): check for check in result.checks}
    return {
        cell: [
            named.get((default_twin(cell), check.check), check) if check.rule == SAME_AS_DEFAULT else check
            for check in checks
        ]
        for cell, checks in cells.items()
    }


def _is_of(cell: str, wanted: Requirement, result: HarnessResult) -> bool:
    """Whether a cell is one of those that the requirement speaks of."""
    parts = parse_cell_id(cell)
    return (
        parts.well_formed
        and parts.device == wanted.device == result.device.get("id")
        and parts.model == wanted.model
        and parts.mode == wanted.mode
        and parts.suite == wanted.suite
        and wanted.backend in (None, parts.backend)
        # As it is spelled: tp01-dp1 is not tp1-dp1.
        and wanted.parallel in (None, cell.split("/")[-3])
    )
