"""The pre-release gate: certificates against a policy. Pure decisions.

Nothing passes by being absent. A requirement is met by one certificate that is genuine, counts under the
policy, is CERTIFIED as a whole, and in which every check of the requirement passed. And none may speak
against it: of two certificates that disagree the failing one decides, whichever is newer, since a difference
that was seen once is not undone by a run in which it was not. Only one that is too old, of a release of vLLM
that is not asked for, or of a planted fault says nothing either way.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any, Literal

from bi_harness.certificate.records import CheckResult, Record
from bi_harness.certificate.statement import HarnessResult, Power, planted_faults
from bi_harness.certificate.verify import Examined
from bi_harness.exits import ExitCode
from bi_harness.matrix.execution import SAME_AS_DEFAULT, default_twin
from bi_harness.spec.policy import Policy, Requirement
from bi_harness.spec.types import PROFILES

CLOCK_SKEW = timedelta(minutes=10)
"""How far the clocks of a GPU host and of whoever runs the gate may be apart."""

_SIZES = re.compile(r"tp[0-9]{1,6}-dp[0-9]{1,6}")

State = Literal["met", "failed", "inconclusive", "unmet"]


class CertificateSeen(Record):
    """One certificate, and what it counts for.

    Attributes:
        place: where it is.
        run_id, device, verdict, vllm, finished: as it says; empty where it could not be read.
        genuine: whether ``verify`` finds nothing against it.
        signed_by: ids of the policy's keys that signed it.
        counts: whether it can meet a requirement.
        why: why not; empty when it can.
    """

    place: str
    run_id: str = ""
    device: str = ""
    verdict: str = ""
    vllm: str = ""
    finished: str = ""
    genuine: bool
    signed_by: tuple[str, ...] = ()
    counts: bool
    why: tuple[str, ...] = ()


class RequirementSeen(Record):
    """One requirement, and what became of it.

    Attributes:
        id: the cell it is of, with ``*`` for any.
        state: ``met``; ``failed``: a check failed in some certificate; ``inconclusive``: nothing but evidence
            without an answer stands in the way; ``unmet``.
        met_by: places of the certificates that meet it.
        why: for any other state, a line for each thing in the way.
        would_meet: what would meet it: a command, or what is to be changed.
    """

    id: str
    state: State
    met_by: tuple[str, ...] = ()
    why: tuple[str, ...] = ()
    would_meet: str = ""


class GateResult(Record):
    """What the gate says.

    Attributes:
        policy: sha256 of the policy's file.
        now: the time that ages were counted from.
        passed: whether every requirement is met and nothing else is wrong.
        requirements: in the policy's order.
        certificates: in the order in which they were given.
        problems: what blocks beside the requirements: a certificate that is not genuine.
    """

    schema_: Literal["bi-harness/gate/1"] = "bi-harness/gate/1"
    policy: str
    now: str
    passed: bool
    requirements: tuple[RequirementSeen, ...]
    certificates: tuple[CertificateSeen, ...]
    problems: tuple[str, ...] = ()

    @property
    def exit_code(self) -> ExitCode:
        """0: all met; 6: nothing but inconclusive evidence is in the way; else 1."""
        if self.passed:
            return ExitCode.CERTIFIED
        states = {requirement.state for requirement in self.requirements}
        if not self.problems and "inconclusive" in states and states <= {"met", "inconclusive"}:
            return ExitCode.INCONCLUSIVE
        return ExitCode.NOT_CERTIFIED


@dataclass(frozen=True, slots=True)
class _Evidence:
    """A genuine certificate that speaks of a release that is asked for.

    Attributes:
        place: where it is.
        result: what it says.
        against: why it cannot meet a requirement; it can still speak against one.
        no_answer: why it is INCONCLUSIVE as a whole; empty when it is not.
    """

    place: str
    result: HarnessResult
    against: tuple[str, ...]
    no_answer: str


def gate(
    policy: Policy, examined: Sequence[Examined], *, now: datetime, policy_digest: str = ""
) -> GateResult:
    """Hold certificates against a policy.

    Args:
        policy: what is asked for.
        examined: the certificates, with the policy's keys and ``must_be_signed=False``.
        now: what ages are counted from; with a zone.
        policy_digest: of the policy's file.
    """
    seen: list[CertificateSeen] = []
    evidence: list[_Evidence] = []
    problems: list[str] = []
    for one in examined:
        certificate, usable = _look(policy, one, now)
        seen.append(certificate)
        if not certificate.genuine:
            problems.append(f"{one.place}: {certificate.why[0]}")
        elif usable is not None:
            evidence.append(usable)
    requirements = tuple(_judge(policy, wanted, evidence, now) for wanted in policy.requirements())
    # No requirement at all (which the policy's type refuses) is not a pass either.
    passed = bool(requirements) and not problems and all(r.state == "met" for r in requirements)
    return GateResult(
        policy=policy_digest,
        now=now.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z"),
        passed=passed,
        requirements=requirements,
        certificates=tuple(seen),
        problems=tuple(problems),
    )


def _look(policy: Policy, one: Examined, now: datetime) -> tuple[CertificateSeen, _Evidence | None]:
    """A certificate, and what it is evidence of; ``None`` for nothing."""
    if one.statement is None or not one.genuine:
        bad = tuple(f"not genuine: {p.where}: {p.what}" for p in one.problems) or ("not genuine",)
        return CertificateSeen(place=one.place, genuine=False, counts=False, why=bad), None
    result = one.statement.predicate.bi_harness
    silent = _silent(policy, result, now)
    against = [] if silent else _against(policy, one, result, now)
    no_answer = f"it is INCONCLUSIVE: {result.why}" if result.verdict == "INCONCLUSIVE" else ""
    why = [silent] if silent else [*against, *([no_answer] if no_answer else [])]
    seen = CertificateSeen(
        place=one.place,
        run_id=result.run_id,
        device=str(result.device.get("id", "")),
        verdict=result.verdict,
        vllm=_vllm(result) or "",
        finished=result.finished or "",
        genuine=True,
        signed_by=one.signed_by,
        counts=not why,
        why=tuple(why),
    )
    return seen, None if silent else _Evidence(one.place, result, tuple(against), no_answer)


def _silent(policy: Policy, result: HarnessResult, now: datetime) -> str:
    """Why a certificate says nothing of what is asked for, neither for nor against it; empty when it does."""
    if faults := planted_faults(result.effective):
        return f"a fault was planted in its engines on purpose: {', '.join(faults)}"
    vllm = _vllm(result)
    if vllm is not None and not policy.speaks_of(vllm):
        return f"it is of vLLM {vllm}, and {policy.vllm!r} is asked for"
    ended = _time(result.finished or result.started)
    if policy.max_age_days is not None and ended is not None:
        age = now - ended
        if age > timedelta(days=policy.max_age_days):
            days = age / timedelta(days=1)
            return f"it is {days:.1f} days old, and at most {policy.max_age_days:g} are allowed"
    return ""


def _against(policy: Policy, one: Examined, result: HarnessResult, now: datetime) -> list[str]:
    """Why a certificate cannot meet a requirement."""
    found = []
    if policy.keys is not None and not one.signed_by:
        found.append("none of the policy's keys signed it")
    if policy.require_journal and not one.journal:
        found.append("its run's journal is not beside it")
    if result.verdict == "NOT_CERTIFIED":
        found.append(f"it is {result.verdict}: {result.why}")
    if result.shard is not None:
        part = f"shard {result.shard.index} of {result.shard.count}"
        found.append(f"it is of {part} alone: give what `bi-harness merge` makes of all of them")
    if _vllm(result) is None and result.scope.endpoint is None:
        found.append("it does not say which vLLM ran")
    ended = _time(result.finished or result.started)
    if ended is None:
        found.append("it does not say when it ran")
    elif ended - now > CLOCK_SKEW:
        found.append(f"it ended in the future ({result.finished}): a clock is wrong, or it was made up")
    if not policy.allow_dirty and (dirty := _dirty(result)):
        found.append(dirty)
    if result.scope.endpoint is not None and not policy.allow_endpoint:
        found.append("it is of an endpoint, whose invariance mode and configuration nobody verified")
    if not policy.allow_synthetic:
        if result.scope.weights != "named":
            found.append(f"its weights are {result.scope.weights}, not the models' own")
        if result.scope.layers is not None:
            found.append(f"its models were cut to {result.scope.layers} layers")
    order: dict[str, int] = {name: i for i, name in enumerate(PROFILES)}
    if order.get(result.scope.profile, -1) < order[policy.profile]:
        found.append(f"its profile is {result.scope.profile}, and {policy.profile} is asked for")
    return found


def _judge(
    policy: Policy, wanted: Requirement, evidence: Sequence[_Evidence], now: datetime
) -> RequirementSeen:
    met: list[str] = []
    failed: list[str] = []
    without_answer: list[str] = []
    other: list[str] = []
    for one in evidence:
        checks = _checks_of(wanted, one.result)
        if not checks:
            continue
        if why := _failing(policy, wanted, checks, one.result):
            failed.append(f"{one.place}: {why}")
            continue
        lacks = [*one.against, *_lacking(policy, wanted, checks, one.result, now)]
        if lacks:
            other.append(f"{one.place}: {'; '.join(lacks)}")
        elif why := _no_answer(checks) or one.no_answer:
            without_answer.append(f"{one.place}: {why}")
        else:
            met.append(one.place)
    if failed:
        against = f" (whatever {', '.join(met)} says)" if met else ""
        return RequirementSeen(
            id=wanted.id,
            state="failed",
            why=(*failed, *without_answer, *other),
            would_meet="another vLLM or bi-harness, for which no check fails: a run in which the failure was "
            f"not seen does not undo it{against}. A failure that someone answers for needs a waiver, and "
            "allow_waivers in the policy",
        )
    if met:
        return RequirementSeen(id=wanted.id, state="met", met_by=tuple(met))
    command = _command(policy, wanted)
    if without_answer and not other:
        return RequirementSeen(
            id=wanted.id, state="inconclusive", why=tuple(without_answer), would_meet=command
        )
    why_not = (*other, *without_answer) or ("no certificate that counts is of it",)
    return RequirementSeen(id=wanted.id, state="unmet", why=why_not, would_meet=command)


def _failing(
    policy: Policy, wanted: Requirement, checks: Sequence[CheckResult], result: HarnessResult
) -> str:
    """What speaks against the requirement; empty when nothing does."""
    failed = [check for check in _asked(wanted, checks) if check.status == "fail"]
    if not policy.allow_waivers:
        failed += [check for check in _asked(wanted, checks) if check.status == "waived"]
    if failed:
        first = failed[0]
        waived = " and was waived, which the policy does not allow," if first.status == "waived" else ""
        return f"{first.check} failed{waived} on {first.cell}: {first.reason}"
    cells = {check.cell for check in checks}
    for axis in result.axes:
        if axis.required and not axis.equal and cells.intersection(axis.cells):
            return f"{axis.check} has other bits on {axis.cells[1]} than on {axis.cells[0]}"
    return ""


def _lacking(
    policy: Policy,
    wanted: Requirement,
    checks: Sequence[CheckResult],
    result: HarnessResult,
    now: datetime,
) -> list[str]:
    """What the certificate lacks for this requirement, inconclusive checks apart."""
    found = []
    asked = _asked(wanted, checks)
    if wanted.checks is None:
        if "k" in result.scope.filters:
            found.append("it ran a part of the suite's checks (-k)")
    elif missing := [name for name in wanted.checks if name not in {check.check for check in asked}]:
        found.append(f"it has no check {', '.join(missing)}")
    skipped = [check for check in asked if check.status == "skip"]
    if skipped and not policy.allow_skips:
        found.append(f"{skipped[0].check} was skipped by the rule {skipped[0].rule} on {skipped[0].cell}")
    found += [
        f"{check.check} on {check.cell}: {why}"
        for check in asked
        if check.status == "waived" and (why := _waiver_over(check, now))
    ]
    passed = [check for check in asked if check.status == "pass"]
    if not passed and not _no_answer(asked):
        found.append("no check of it passed")
    steps = sum(check.evidence.steps for check in passed if check.evidence is not None)
    if policy.min_steps is not None and steps < policy.min_steps:
        found.append(f"{steps} steps were compared, and {policy.min_steps} are asked for")
    if policy.min_selftest_score is not None:
        power = next((power for power in result.power if power.suite == wanted.suite), None)
        if why := _weak(power, policy.min_selftest_score):
            found.append(why)
    return found


def _weak(power: Power | None, least: float) -> str:
    if power is None or not power.faults:
        return "its suite has no self-test"
    if not power.current:
        return "its suite's self-test is of an earlier state of the suite"
    if power.false_alarms or not power.clean_runs:
        return f"its suite's self-test has {power.false_alarms} false alarms in {power.clean_runs} clean runs"
    if power.caught < least * power.faults:
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


def _checks_of(wanted: Requirement, result: HarnessResult) -> list[CheckResult]:
    """The checks of the cells that the requirement speaks of.

    Where a mode was left to ``default``, which is the same mode there, the checks of the ``default`` cell
    stand for it.
    """
    found = [check for check in result.checks if _is_of(check.cell, wanted, result)]
    if not any(check.rule == SAME_AS_DEFAULT for check in found):
        return found  # Of thousands of requirements few meet such a cell.
    named = {(check.cell, check.check): check for check in result.checks}
    return [
        named.get((default_twin(check.cell), check.check), check) if check.rule == SAME_AS_DEFAULT else check
        for check in found
    ]


def _is_of(cell: str, wanted: Requirement, result: HarnessResult) -> bool:
    """Whether a cell is one of those that the requirement speaks of."""
    # From both ends: a model may have slashes in its name.
    parts = cell.split("/")
    if len(parts) < 6 or not _SIZES.fullmatch(parts[-3]):
        return False
    return (
        parts[0] == wanted.device == result.device.get("id")
        and "/".join(parts[1:-4]) == wanted.model
        and parts[-2] == wanted.mode
        and parts[-1] == wanted.suite
        and wanted.backend in (None, parts[-4])
        and wanted.parallel in (None, parts[-3])
    )


def _command(policy: Policy, wanted: Requirement) -> str:
    argv = ["bi-harness", "run", "--device", wanted.device, "--model", wanted.model]
    argv += ["--suite", wanted.suite, "--mode", wanted.mode]
    if wanted.backend is not None:
        argv += ["--backend", wanted.backend]
    argv += ["--profile", policy.profile]
    if policy.keys is not None:
        argv += ["--sign-key", "KEY"]
    release = f" (with vLLM {policy.vllm})" if policy.vllm else ""
    parallel = f", on a host that has {wanted.parallel}" if wanted.parallel is not None else ""
    return f"{shlex.join(argv)}{release}{parallel}"


def _vllm(result: HarnessResult) -> str | None:
    """The release that was certified. Of an endpoint it is not known: its control may be another."""
    if result.scope.endpoint is not None:
        return None
    held: Any = result.provenance.get("vllm")
    found = held.get("version") if isinstance(held, dict) else None
    return found if isinstance(found, str) and found else None


def _dirty(result: HarnessResult) -> str:
    harness: Any = result.provenance.get("harness")
    state = harness.get("dirty") if isinstance(harness, dict) else None
    if state is False:
        return ""
    if state is True:
        return "the bi-harness that made it had changes that no commit has (dirty)"
    return "it does not say whether the bi-harness that made it was as released (neither git nor a wheel)"


def _time(text: str | None) -> datetime | None:
    try:
        found = datetime.fromisoformat(text or "")
    except ValueError:
        return None
    return found if found.tzinfo is not None else None
