"""The pre-release gate: certificates against a policy. Pure decisions.

Nothing passes by being absent. A requirement is met by one certificate that is genuine, counts under the
policy, is CERTIFIED as a whole, and in which one cell has everything that the requirement asks for. And none
may speak against it: of two certificates that disagree the failing one decides, whichever is newer, since a
difference that was seen once is not undone by a run in which it was not. Only one that is too old, of a
release of vLLM that is not asked for, or of a planted fault says nothing either way. What a certificate does
not say (its release, its time) excuses no failure.

Whatever may hide a failure closes the gate: a certificate that is not genuine or cannot be examined, and a
place that was not looked into.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

from bi_harness.certificate.check_times import CheckTimes, check_times
from bi_harness.certificate.clauses import CertificateEvidence, Opinion, age_problem, opinion
from bi_harness.certificate.findings import printable
from bi_harness.certificate.records import Record
from bi_harness.certificate.statement import HarnessResult, planted_faults
from bi_harness.certificate.verify import Examined
from bi_harness.exits import ExitCode
from bi_harness.spec.policy import Policy, Requirement, parse_release
from bi_harness.spec.types import PROFILES

CLOCK_SKEW = timedelta(minutes=10)
"""How far the clocks of a GPU host and of whoever runs the gate may be apart."""

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
        problems: what blocks beside the requirements: a certificate that is not genuine or cannot be
            examined, and a place that was not looked into.
        unread: those of ``problems`` that are of places that were not looked into.
    """

    schema_: Literal["bi-harness/gate/1"] = "bi-harness/gate/1"
    policy: str
    now: str
    passed: bool
    requirements: tuple[RequirementSeen, ...]
    certificates: tuple[CertificateSeen, ...]
    problems: tuple[str, ...] = ()
    unread: tuple[str, ...] = ()

    @property
    def exit_code(self) -> ExitCode:
        """0: all met; 6: nothing but inconclusive evidence is in the way; else 1."""
        if self.passed:
            return ExitCode.CERTIFIED
        states = {requirement.state for requirement in self.requirements}
        if not self.problems and "inconclusive" in states and states <= {"met", "inconclusive"}:
            return ExitCode.INCONCLUSIVE
        return ExitCode.NOT_CERTIFIED


def gate(
    policy: Policy,
    examined: Sequence[Examined],
    *,
    now: datetime,
    policy_digest: str = "",
    unread: Sequence[str] = (),
) -> GateResult:
    """Hold certificates against a policy.

    Args:
        policy: what is asked for.
        examined: the certificates, with the policy's keys and ``must_be_signed=False``.
        now: what ages are counted from; with a zone.
        policy_digest: of the policy's file.
        unread: places that were not looked into, each with the reason. Any one closes the gate.
    """
    moment = now.astimezone(UTC)
    wanted = policy.requirements()
    seen: list[CertificateSeen] = []
    opinions: dict[Requirement, list[tuple[str, Opinion]]] = {}
    problems: list[str] = []
    for one in examined:
        try:
            certificate, evidence = _look(policy, one, moment)
            found = [(each, opinion(policy, each, evidence, moment)) for each in wanted] if evidence else []
        except Exception as error:
            # Whatever a certificate holds, it must not keep the others from being looked at.
            certificate, found = _broken(one, error), []
        seen.append(certificate)
        if not certificate.genuine:
            problems.append(f"{certificate.place}: {certificate.why[0]}")
        for each, says in found:
            if says is not None:
                opinions.setdefault(each, []).append((certificate.place, says))
    not_read = tuple(printable(place) for place in unread)
    problems += not_read
    requirements = tuple(_judge(policy, each, opinions.get(each, ())) for each in wanted)
    # No requirement at all (which the policy's type refuses) is not a pass either.
    passed = bool(requirements) and not problems and all(r.state == "met" for r in requirements)
    return GateResult(
        policy=policy_digest,
        now=moment.isoformat(timespec="seconds").replace("+00:00", "Z"),
        passed=passed,
        requirements=requirements,
        certificates=tuple(seen),
        problems=tuple(problems),
        unread=not_read,
    )


def _look(policy: Policy, one: Examined, now: datetime) -> tuple[CertificateSeen, CertificateEvidence | None]:
    """A certificate, and what it is evidence of; ``None`` for nothing."""
    place = printable(one.place)
    if one.statement is None or not one.genuine:
        bad = tuple(printable(f"not genuine: {p.where}: {p.what}") for p in one.problems)
        return CertificateSeen(place=place, genuine=False, counts=False, why=bad or ("not genuine",)), None
    result = one.statement.predicate.bi_harness
    times = check_times(result)
    silent = _silent(policy, result, times, now)
    against = [] if silent else _against(policy, one, result, times, now)
    no_answer = f"it is INCONCLUSIVE: {result.why}" if result.verdict == "INCONCLUSIVE" else ""
    why = [silent] if silent else [*against, *([no_answer] if no_answer else [])]
    seen = CertificateSeen(
        place=place,
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
    return seen, None if silent else CertificateEvidence(place, result, times, tuple(against), no_answer)


def _broken(one: Examined, error: Exception) -> CertificateSeen:
    why = f"not genuine: it cannot be examined: {type(error).__name__}: {str(error)[:200]}"
    return CertificateSeen(place=printable(one.place), genuine=False, counts=False, why=(printable(why),))


def _silent(policy: Policy, result: HarnessResult, times: CheckTimes, now: datetime) -> str:
    """Why a certificate says nothing of what is asked for, neither for nor against it; empty when it does."""
    if faults := planted_faults(result.effective):
        return f"a fault was planted in its engines on purpose: {', '.join(faults)}"
    vllm = _vllm(result)
    if vllm is not None and parse_release(vllm) is not None and not policy.speaks_of(vllm):
        return f"it is of vLLM {vllm}, and {policy.vllm!r} is asked for"
    # By the latest time: a failure is as old as that at least.
    if times.latest is not None and (why := age_problem(policy, times.latest, now)):
        return f"it is {why}"
    return ""


def _against(
    policy: Policy, one: Examined, result: HarnessResult, times: CheckTimes, now: datetime
) -> list[str]:
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
    if result.scope.endpoint is None and (why := _release_problem(policy, _vllm(result))):
        found.append(why)
    if not times.complete:
        found.append("it does not say when it ran")
    elif times.newest is not None and times.newest - now > CLOCK_SKEW:
        when = times.newest.isoformat(timespec="seconds").replace("+00:00", "Z")
        found.append(f"it ran in the future ({when}): a clock is wrong, or it was made up")
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


def _release_problem(policy: Policy, vllm: str | None) -> str:
    """Why passes with this release of vLLM do not count; empty when they do."""
    if vllm is None:
        return "it does not say which vLLM ran"
    version = parse_release(vllm)
    if version is None:
        return f"its vLLM is {vllm[:80]!r}, which is not a version (PEP 440)"
    if policy.accepts(vllm):
        return ""
    if version.is_prerelease:
        return (
            f"it is of the pre-release {vllm} of vLLM, whose passes do not count: the policy says neither "
            f"allow_prereleases nor names one in {policy.vllm!r}"
        )
    return f"it is of vLLM {vllm}, and {policy.vllm!r} is asked for: only a failure with it counts"


def _judge(policy: Policy, wanted: Requirement, opinions: Sequence[tuple[str, Opinion]]) -> RequirementSeen:
    def told(state: str) -> list[str]:
        return [f"{place}: {says.why}" for place, says in opinions if says.state == state]

    met = [place for place, says in opinions if says.state == "met"]
    failed, lacking, no_answer = told("failed"), told("lacking"), told("no_answer")
    if failed:
        against = f" (whatever {', '.join(met)} says)" if met else ""
        return RequirementSeen(
            id=wanted.id,
            state="failed",
            why=(*failed, *no_answer, *lacking),
            would_meet="another vLLM or bi-harness, for which no check fails: a run in which the failure was "
            f"not seen does not undo it{against}. A failure that someone answers for needs a waiver, and "
            "allow_waivers in the policy",
        )
    if met:
        return RequirementSeen(id=wanted.id, state="met", met_by=tuple(met))
    command = _command(policy, wanted)
    if no_answer and not lacking:
        return RequirementSeen(id=wanted.id, state="inconclusive", why=tuple(no_answer), would_meet=command)
    why_not = (*lacking, *no_answer) or ("no certificate that counts is of it",)
    return RequirementSeen(id=wanted.id, state="unmet", why=why_not, would_meet=command)


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
