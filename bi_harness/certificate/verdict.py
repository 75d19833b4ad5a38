"""From statuses to a verdict, and from a verdict to an exit code. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

from bi_harness.certificate.axes import unequal
from bi_harness.certificate.facts import facts_differ, facts_weakness
from bi_harness.certificate.modules import modules_weakness
from bi_harness.certificate.ops import ops_weakness, planted_controls
from bi_harness.certificate.records import CheckResult, Verdict
from bi_harness.certificate.statement import AxisComparison, ShardPart, Totals, WaiverUse
from bi_harness.certificate.waivers import must_go, waived_note
from bi_harness.compare.evidence import control_weakness, differs, weakness
from bi_harness.exits import ExitCode

_FIELD = {"pass": "passed", "fail": "failed"}


def totals(results: Iterable[CheckResult]) -> Totals:
    """How many checks have each status."""
    counts: dict[str, int] = {}
    for result in results:
        name = _FIELD.get(result.status, result.status)
        counts[name] = counts.get(name, 0) + 1
    return Totals(**counts)


def verdict(
    results: Sequence[CheckResult],
    *,
    complete: bool,
    axes: Sequence[AxisComparison] = (),
    waivers: Sequence[WaiverUse] = (),
) -> tuple[Verdict, str]:
    """The verdict of a device within a run's scope, and one sentence on what it rests on.

    One failure is ``NOT_CERTIFIED``, whatever the rest. ``CERTIFIED`` needs every check that was to run to
    have passed with evidence, or to have failed and be waived; a check that errs, is inconclusive or never
    ran leaves ``INCONCLUSIVE``, and so does a run in which nothing passed. A waiver that has expired or that
    names what passes is ``NOT_CERTIFIED``. Passes are not believed: their evidence is looked at again here.

    Args:
        results: every planned check.
        complete: whether the run came to its end.
        axes: the checks at several parallel sizes: bits that must be equal across them and are not are a
            failure too.
        waivers: what came of those that the run was given.
    """
    waiver = must_go(waivers, results)
    failed = [r for r in results if r.status == "fail"]
    if failed:
        why = f"{len(failed)} of {_ran(results)} checks failed: {_why_failed(failed)}"
        return "NOT_CERTIFIED", f"{why}; {waiver}" if waiver else why
    if difference := unequal(axes):
        return "NOT_CERTIFIED", difference
    if waiver:
        return "NOT_CERTIFIED", waiver
    if hollow := [r for r in results if r.status == "pass" and (why_hollow(r))]:
        first = hollow[0]
        return "INCONCLUSIVE", f"{first.cell} {first.check} reads pass, but {why_hollow(first)}"
    if not complete:
        return "INCONCLUSIVE", "the run did not come to its end"
    passed = [r for r in results if r.status == "pass"]
    open_ = [r for r in results if not _settled(r)]
    if open_:
        return "INCONCLUSIVE", f"{len(open_)} of {_ran(results)} checks gave no answer: {open_[0].reason}"
    waived = waived_note(results)
    if not passed:
        return "INCONCLUSIVE", f"nothing passed: {waived}" if waived else "no check ran"
    planted = sum(planted_controls(r.control_facts) > 0 for r in passed)
    in_part = f" ({planted} of them in part by a planted difference: see their facts)" if planted else ""
    if again := sum(r.planted_control is not None for r in passed):
        in_part += f" ({again} of them by a difference that was planted in it)"
    if waived:
        return "CERTIFIED", (
            f"{len(passed)} of {_ran(results)} checks passed, and the control of each diverged with "
            f"invariance off{in_part}; {waived}"
        )
    return "CERTIFIED", (
        f"all {len(passed)} checks passed, and the control of each diverged with invariance off{in_part}"
    )


def why_hollow(result: CheckResult) -> str:
    """Why a result that reads ``pass`` has no evidence for it; empty when it has."""
    if why := facts_differ(result.facts):
        return why
    # Beside evidence, facts may be there to be told alone.
    judged = any(fact.judged for fact in result.facts)
    if judged and (why := facts_weakness(result.facts, result.control_facts)):
        return why
    if why := ops_weakness(result.ops, result.facts, result.control_facts):
        return why
    if why := modules_weakness(result.modules, result.facts, result.control_facts):
        return why
    if result.evidence is None:
        return "" if judged else "it has no evidence"
    if not result.evidence.batches:
        return "nothing was compared"
    # Any divergence of the control will do here: the suite's own, stricter fraction was applied before.
    return (
        differs(result.evidence)
        or weakness(result.evidence)
        or control_weakness(result.evidence, result.control, 0.0, result.planted_control)
    )


def _settled(result: CheckResult) -> bool:
    """Whether a result of a run without failures leaves nothing open."""
    if result.status == "skip":
        # A skip is the plan's, by a rule; a check that skips itself has given no answer.
        return bool(result.rule)
    # One that reads waived and names no waiver is waived by nobody.
    return result.status == "pass" or (result.status == "waived" and result.waiver is not None)


def predicate_result(
    verdict_: Verdict, results: Iterable[CheckResult]
) -> Literal["PASSED", "WARNED", "FAILED"]:
    """What a reader who knows in-toto alone learns: a waived failure is never ``PASSED``."""
    if verdict_ != "CERTIFIED":
        return "FAILED"
    return "WARNED" if any(result.status == "waived" for result in results) else "PASSED"


def exit_code(verdict_: Verdict, *, interrupted: bool, shard: ShardPart | None = None) -> ExitCode:
    """What ``run``, ``report`` and ``merge`` end with.

    A shard in which everything passed ends with 0, though it certifies nothing: its step in CI did what it
    was for, and a step that fails would keep ``merge`` from its turn.
    """
    if verdict_ == "NOT_CERTIFIED":
        return ExitCode.NOT_CERTIFIED
    if interrupted:
        return ExitCode.INTERRUPTED
    done = verdict_ == "CERTIFIED" or (shard is not None and shard.passed)
    return ExitCode.CERTIFIED if done else ExitCode.INCONCLUSIVE


def _why_failed(failed: Sequence[CheckResult]) -> str:
    """Bits, unless every failure is of what engines said of themselves alone."""
    facts = [facts_differ(r.facts) for r in failed if r.evidence is None or not differs(r.evidence)]
    if len(facts) == len(failed) and all(facts):
        return facts[0]
    return "bits depend on the batch"


def _ran(results: Sequence[CheckResult]) -> int:
    return sum(1 for r in results if r.status != "skip")
