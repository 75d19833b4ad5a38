"""What a suite's power rests on: the planted faults that its checks caught, and its false alarms. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Annotated, Literal

from pydantic import Field

from bi_harness.certificate.records import CheckResult, Count, Digest, Record
from bi_harness.certificate.statement import Power, Statement
from bi_harness.compare.evidence import differs, weakness


class FaultResult(Record):
    """What became of one planted fault.

    Attributes:
        id: of the registry.
        class_: the class of defect (``class`` in JSON).
        source: where it was seen.
        model: of ``models.yaml``, that it was tried on.
        caught: whether a check failed.
        checks: the checks that failed.
        first_request: how many requests were compared up to the first that differed.
        first_step: at which of its tokens, counted from 0.
        module: pattern of the module that it sits in; ``None`` for a fault that sits in none.
        localized: the module that ``localize`` named, empty where it found none; ``None`` where that was not
            tried.
        error: why the run gave no answer; empty when it did.
    """

    id: str
    class_: str = Field(alias="class")
    source: str
    model: str
    caught: bool
    checks: tuple[str, ...]
    first_request: Count | None
    first_step: Count | None
    module: str | None
    localized: str | None = None
    error: str = ""

    @property
    def localized_right(self) -> bool:
        """Whether the module that was named is the one that the fault sits in; of a fault that sits in none,
        whether none was named."""
        if self.localized is None:
            return False
        return not self.localized if self.module is None else in_module(self.module, self.localized)


class SelfTest(Record):
    """The result of ``bi-harness selftest``.

    Attributes:
        schema_: the version of this schema.
        suite: that was tried.
        suite_digest: of what gives the suite its power, see ``runner.power_digest``.
        device, mode, profile, vllm: what it ran on.
        started, finished: UTC, ISO 8601.
        faults: in the order of the registry.
        score: share of the faults that were caught, in [0, 1]; ``None`` when none was tried.
        clean_runs: runs without a fault that came to their end.
        false_alarms: those of them in which a check failed.
        unsound: why a run without a fault gave no answer, a line for each such run.
        localization: share of the faults that sit in a module, were caught and were looked into, whose module
            was named, in [0, 1]; ``None`` of none.
    """

    schema_: Literal["bi-harness/selftest/1"] = Field(default="bi-harness/selftest/1", alias="schema")
    suite: str
    suite_digest: Digest
    device: str
    mode: str
    profile: str
    vllm: str
    started: str
    finished: str
    faults: tuple[FaultResult, ...]
    score: Annotated[float, Field(ge=0, le=1)] | None
    clean_runs: Count
    false_alarms: Count
    unsound: tuple[str, ...] = ()
    localization: Annotated[float, Field(ge=0, le=1)] | None = None

    @property
    def caught(self) -> int:
        """How many faults a check caught."""
        return sum(fault.caught for fault in self.faults)

    def to_json(self) -> str:
        """The file's text."""
        return self.model_dump_json(indent=2, by_alias=True) + "\n"


class PowerCheck(Record):
    """Whether the self-test that is recorded with a suite holds for a release.

    Attributes:
        suite: its id.
        state: ``current``; ``stale``: recorded for another state of the suite; ``missing``; ``unreadable``.
        faults, caught: planted faults in the record, and those of them that a check caught.
        score: share of those faults that were caught, in [0, 1]; ``None`` of none.
        untried: ids of the suite's planted faults that the record does not have.
        clean_runs, false_alarms: runs without a fault, and those of them in which a check failed.
        vllm: the release that it was recorded with; empty without a record.
        measured: UTC, ISO 8601; empty without a record.
        problems: why the record does not hold, one sentence each; empty if it does.
    """

    suite: str
    state: Literal["current", "stale", "missing", "unreadable"]
    faults: Count = 0
    caught: Count = 0
    score: Annotated[float, Field(ge=0, le=1)] | None = None
    untried: tuple[str, ...] = ()
    clean_runs: Count = 0
    false_alarms: Count = 0
    vllm: str = ""
    measured: str = ""
    problems: tuple[str, ...]


def check_selftest(
    suite: str, recorded: SelfTest | None, *, digest_now: str, faults: Sequence[str], clean_runs: int
) -> PowerCheck:
    """Check the self-test that is recorded with a suite.

    Args:
        suite: its id.
        recorded: the self-test; ``None`` if there is none.
        digest_now: ``runner.power_digest`` of the suite.
        faults: ids of the planted faults that are for the suite.
        clean_runs: that a record must have, at least.
    """
    if not faults:
        return PowerCheck(suite=suite, state="missing", problems=("No planted fault is for this suite.",))
    if recorded is None:
        problems = (f"It has no recorded self-test; its faults are {', '.join(faults)}.",)
        return PowerCheck(suite=suite, state="missing", untried=tuple(faults), problems=problems)
    current = recorded.suite_digest == digest_now
    tried = {fault.id: fault for fault in recorded.faults}
    untried = tuple(fault for fault in faults if fault not in tried)
    missed = [fault.id for fault in recorded.faults if not fault.caught]
    problems = (
        *(() if current else ("The suite has changed since its self-test.",)),
        *((f"The self-test does not have the faults {', '.join(untried)}.",) if untried else ()),
        *(f"The fault {fault} no longer exists." for fault in tried if fault not in faults),
        *((f"No check caught {', '.join(missed)}.",) if missed else ()),
        *(f"A clean run gave no answer: {line}." for line in recorded.unsound),
        *(
            (f"It has {recorded.clean_runs} clean runs; {clean_runs} are required.",)
            if recorded.clean_runs < clean_runs
            else ()
        ),
        *(("A check failed without a fault (false alarm).",) if recorded.false_alarms else ()),
    )
    return PowerCheck(
        suite=suite,
        state="current" if current else "stale",
        faults=len(tried),
        caught=recorded.caught,
        score=recorded.score,
        untried=untried,
        clean_runs=recorded.clean_runs,
        false_alarms=recorded.false_alarms,
        vllm=recorded.vllm,
        measured=recorded.finished,
        problems=problems,
    )


def without_answer(statement: Statement, fault: str | None) -> str:
    """Why a selftest's run shows nothing of its fault (or of having none); empty when it does.

    Every engine must have had exactly that fault, and every check must have compared what it is there to
    compare. That no control ran is as it should be.
    """
    result = statement.predicate.bi_harness
    if result.interrupted:
        return "it was interrupted"
    if not result.effective:
        return "no engine started: " + (result.checks[0].reason if result.checks else "no check was planned")
    if not result.checks:
        return "it had no check"
    for arm in result.effective:
        if (got := arm.config.get("planted_fault")) != fault:
            return (
                f"the {arm.arm} engine of {arm.unit} has {got or 'no fault'} planted, not {fault or 'none'}"
            )
    for check in result.checks:
        # A skip by a rule is the plan's: what was left out cannot have answered, and others did.
        if check.status == "fail" or (check.status == "skip" and check.rule):
            continue
        judged = any(fact.judged for fact in check.facts)
        if check.status == "error" or not (check.evidence or judged):
            return f"{check.check}: {check.status}: {check.reason}"
        # A fault may keep a batch from forming no more than anything else.
        if check.evidence is not None and (why := weakness(check.evidence)):
            return f"{check.check}: {why}"
    if not any(check.evidence or check.facts for check in result.checks):
        return f"{result.checks[0].check}: {result.checks[0].status}: {result.checks[0].reason}"
    return ""


def failed(statement: Statement) -> list[CheckResult]:
    """The checks in which bits differed."""
    return [check for check in statement.predicate.bi_harness.checks if check.status == "fail"]


def first_difference(checks: Sequence[CheckResult]) -> tuple[int, int] | None:
    """How many requests were compared up to the first that differed, and at which of its tokens it did.

    Args:
        checks: of one run, in the order in which they ran.
    """
    before = 0
    for check in checks:
        evidence = check.evidence
        if evidence is None:
            continue
        batched = evidence.batches[1:]
        if differs(evidence) and (first := evidence.first_divergence) is not None:
            earlier = batched[: max(0, (first.arm or 1) - 1)]
            return before + sum(b.prompts for b in earlier) + first.prompt + 1, first.step
        before += sum(b.prompts for b in batched)
    return None


def score(faults: Sequence[FaultResult]) -> float | None:
    """The share that was caught, in [0, 1]; ``None`` of none."""
    return sum(fault.caught for fault in faults) / len(faults) if faults else None


def localization_score(faults: Sequence[FaultResult]) -> float | None:
    """The share of those in a module that were looked into, whose module was named; ``None`` of none."""
    tried = [fault for fault in faults if fault.module is not None and fault.localized is not None]
    return sum(fault.localized_right for fault in tried) / len(tried) if tried else None


def in_module(pattern: str, module: str) -> bool:
    """Whether a module is one that a fault's pattern names, or lies in one.

    Args:
        pattern: with ``*`` for any letters and ``{a,b}`` for either.
        module: qualified name.
    """
    found = re.search(r"\{([^{}]*)\}", pattern)
    if found is not None:
        before, after = pattern[: found.start()], pattern[found.end() :]
        return any(in_module(f"{before}{word}{after}", module) for word in found[1].split(","))
    return fnmatchcase(module, pattern) or fnmatchcase(module, f"{pattern}.*")


def power_of(tried: SelfTest, digest_now: str) -> Power:
    """What a certificate says of it."""
    return Power(
        suite=tried.suite,
        faults=len(tried.faults),
        caught=tried.caught,
        clean_runs=tried.clean_runs,
        false_alarms=tried.false_alarms,
        device=tried.device,
        vllm=tried.vllm,
        measured=tried.finished,
        current=tried.suite_digest == digest_now,
    )
