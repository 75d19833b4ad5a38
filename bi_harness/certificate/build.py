"""From a journal's events to the certificate. Pure: the same events give the same bytes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from bi_harness.certificate.axes import across
from bi_harness.certificate.events import (
    CheckFinished,
    EngineReady,
    Event,
    PlannedChecks,
    RunFinished,
    RunStarted,
    UnitFinished,
)
from bi_harness.certificate.records import CheckResult
from bi_harness.certificate.statement import (
    DIRTY,
    EffectiveArm,
    EndpointScope,
    HarnessResult,
    Predicate,
    ResourceDescriptor,
    Statement,
    is_dirty,
    planted_faults,
    unverified,
)
from bi_harness.certificate.verdict import totals, verdict
from bi_harness.errors import UsageError
from bi_harness.matrix.collector import no_collection

Key = tuple[str, str]


@dataclass
class _Fold:
    """What the events say, gathered in one pass."""

    results: dict[Key, CheckResult] = field(default_factory=dict)
    arms: list[EffectiveArm] = field(default_factory=list)
    engines: list[dict[str, Any]] = field(default_factory=list)
    units: dict[str, UnitFinished] = field(default_factory=dict)
    finished: RunFinished | None = None


@no_collection()
def build(events: Sequence[Event], journal_digest: str) -> Statement:
    """The certificate of a run.

    Args:
        events: of one journal, in order.
        journal_digest: sha256 of the journal's bytes, as 64 hexadecimal digits.

    Raises:
        UsageError: when the journal does not begin with ``run_started``, tells of two runs, goes on after its
            end, plans or ends something twice, gives one check two results, or one that was not planned.
    """
    if not events or not isinstance(events[0], RunStarted):
        raise UsageError("the journal does not begin with run_started: it is not of a run, or was cut off")
    start = events[0]
    fold = _gather(events[1:])
    planned_checks = [(p.cell, check) for p in start.plan for check in p.checks]
    if len(set(planned_checks)) != len(planned_checks):
        raise UsageError("the journal plans a check twice")
    to_run = {(p.cell, check) for p in start.plan if p.rule is None for check in p.checks}
    unplanned = fold.results.keys() - to_run
    results = tuple(result for planned in start.plan for result in _results(planned, fold))
    if unplanned:
        raise UsageError(f"the journal has a result that was not planned: {sorted(unplanned)[0]}")
    interrupted = fold.finished is None or fold.finished.interrupted
    axes = across(results)
    verdict_, why = verdict(results, complete=not interrupted, axes=axes)
    engine, disagreements = _engine_provenance(fold.engines)
    if verdict_ == "CERTIFIED" and (trouble := _unsound_end(start, fold) or "; ".join(disagreements)):
        verdict_, why = "INCONCLUSIVE", trouble
    if faults := planted_faults(fold.arms):
        # Its checks have no control either: whatever they say, it is not of the vLLM that users have.
        named = f"a fault was planted in its engines on purpose: {', '.join(faults)}"
        verdict_, why = (
            (verdict_, f"{why}; {named}") if verdict_ == "NOT_CERTIFIED" else ("INCONCLUSIVE", named)
        )
    if start.scope.endpoint is not None:
        why = f"{why}; {unverified(start.scope.endpoint)}"
    if is_dirty(start.provenance):
        why = f"{why}; {DIRTY}"
    provenance = _provenance(start, engine, disagreements, journal_digest)
    return Statement(
        subject=_subject(provenance, start.scope.endpoint),
        predicate=Predicate(
            result="PASSED" if verdict_ == "CERTIFIED" else "FAILED",
            configuration=_configuration(provenance),
            passedTests=_names(results, "pass"),
            warnedTests=_names(results, "waived"),
            failedTests=_names(results, "fail", "error", "inconclusive"),
            bi_harness=HarnessResult(
                verdict=verdict_,
                why=why,
                device=start.device,
                run_id=start.run_id,
                started=start.time,
                finished=fold.finished.time if fold.finished else None,
                interrupted=interrupted,
                scope=start.scope,
                totals=totals(results),
                effective=tuple(fold.arms),
                provenance=provenance,
                checks=results,
                power=start.power,
                axes=axes,
            ),
        ),
    )


def _gather(events: Sequence[Event]) -> _Fold:
    fold = _Fold()
    for event in events:
        if fold.finished is not None:
            raise UsageError("the journal goes on after run_finished")
        if isinstance(event, RunStarted):
            raise UsageError("the journal tells of two runs")
        if isinstance(event, CheckFinished):
            key = (event.result.cell, event.result.check)
            if key in fold.results:
                # No rerun until green: a second result is never taken, whatever it says.
                raise UsageError(f"the journal has two results of {key[1]} on {key[0]}")
            fold.results[key] = event.result
        elif isinstance(event, EngineReady):
            fold.arms.append(event.arm)
            fold.engines.append(event.provenance)
        elif isinstance(event, UnitFinished):
            if event.unit in fold.units:
                raise UsageError(f"the journal ends the unit {event.unit} twice")
            fold.units[event.unit] = event
        elif isinstance(event, RunFinished):
            fold.finished = event
    return fold


def _results(planned: PlannedChecks, fold: _Fold) -> list[CheckResult]:
    if planned.rule is not None:
        reason = f"{planned.reason} [{planned.source}]" if planned.source else planned.reason
        return [
            CheckResult(cell=planned.cell, check=check, status="skip", reason=reason, rule=planned.rule)
            for check in planned.checks
        ]
    return [
        _own_skip(result) if result.status == "skip" else result
        for check in planned.checks
        for result in [fold.results.get((planned.cell, check)) or _never_ran(planned, check, fold)]
    ]


def _own_skip(result: CheckResult) -> CheckResult:
    # Only a rule skips, and it does so in the plan.
    reason = f"it skipped itself, and no rule excludes it: {result.reason or 'without a reason'}"
    return result.model_copy(update={"status": "error", "reason": reason, "rule": None})


def _unsound_end(start: RunStarted, fold: _Fold) -> str:
    """Why passes alone do not make this run sound: a unit that did not end well; empty when all did."""
    if start.scope.endpoint is None and any(arm.config.get("verified") is False for arm in fold.arms):
        return "an engine's configuration was not verified, and the run was not of an endpoint"
    for unit in dict.fromkeys(p.unit for p in start.plan if p.rule is None):
        ended = fold.units.get(unit)
        if ended is None:
            return f"the unit {unit} never ended"
        if ended.outcome != "completed":
            return f"all checks of {unit} passed, but the unit itself did not end well: {ended.message}"
    return ""


def _never_ran(planned: PlannedChecks, check: str, fold: _Fold) -> CheckResult:
    unit = fold.units.get(planned.unit)
    if unit is None:
        reason = "it never ran: the run ended before its unit did"
    elif unit.message:
        reason = unit.message
    else:
        reason = "its unit ended without a result of it"
    return CheckResult(
        cell=planned.cell, check=check, status="error", reason=reason, log=unit.log if unit else None
    )


def _engine_provenance(engines: Sequence[dict[str, Any]]) -> tuple[dict[str, Any], list[str]]:
    """What all engines said of themselves, and where one said something else than those before it.

    A certificate is of one vLLM and one set of checkpoints: engines that disagree leave it inconclusive.
    """
    engine: dict[str, Any] = {"checkpoints": {}}
    disagreements: list[str] = []

    def note(where: dict[str, Any], key: str, value: Any, name: str) -> None:
        known = where.setdefault(key, value)
        if known != value:
            disagreements.append(f"the run's engines do not agree on {name}: {known} and {value}")

    for said in engines:
        for key, value in said.items():
            if key == "checkpoints":
                for model, digest in value.items():
                    note(engine[key], model, digest, f"the checkpoint of {model}")
            else:
                note(engine, key, value, key)
    return engine, list(dict.fromkeys(disagreements))


def _provenance(
    start: RunStarted, engine: dict[str, Any], disagreements: Sequence[str], journal_digest: str
) -> dict[str, Any]:
    checkpoints = engine.pop("checkpoints")
    if disagreements:
        engine = {**engine, "disagreements": list(disagreements)}
    digests = {**start.provenance.get("digests", {}), "journal": f"sha256:{journal_digest}"}
    if checkpoints:
        digests["checkpoints"] = dict(sorted(checkpoints.items()))
    return {**start.provenance, **engine, "digests": digests}


def _subject(
    provenance: dict[str, Any], endpoint: EndpointScope | None = None
) -> tuple[ResourceDescriptor, ...]:
    """What the verdict is about: the vLLM that ran, and the checkpoints it ran on; or a server, of which
    neither is known."""
    vllm = provenance.get("vllm", {})
    found = []
    if endpoint is not None:
        found.append(
            ResourceDescriptor(
                name=f"endpoint:{endpoint.url}",
                uri=endpoint.url,
                annotations={"verified": "neither invariance mode nor configuration"},
            )
        )
    if vllm.get("record_sha256"):
        found.append(
            ResourceDescriptor(
                name=f"{vllm.get('distribution', 'vllm')}-{vllm['version']}",
                digest={"sha256": vllm["record_sha256"]},
                annotations={"digest_of": "the installed distribution's RECORD"},
            )
        )
    for model, digest in provenance["digests"].get("checkpoints", {}).items():
        found.append(ResourceDescriptor(name=f"checkpoint:{model}", digest=_digest(digest)))
    return tuple(found)


def _configuration(provenance: dict[str, Any]) -> tuple[ResourceDescriptor, ...]:
    return tuple(
        ResourceDescriptor(name=name, digest=_digest(value))
        for name, value in sorted(provenance["digests"].items())
        if isinstance(value, str)
    )


def _digest(text: str) -> dict[str, str]:
    algorithm, _, value = text.partition(":")
    return {algorithm: value}


def _names(results: Sequence[CheckResult], *statuses: str) -> tuple[str, ...]:
    return tuple(f"{r.cell}::{r.check}" for r in results if r.status in statuses)
