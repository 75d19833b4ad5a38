"""From a journal's events to the certificate. Pure: the same events give the same bytes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from bi_harness.certificate.attempts import TRIES, Key, Left, current, left, lost
from bi_harness.certificate.axes import across
from bi_harness.certificate.by_unit import unit_names, unit_of
from bi_harness.certificate.events import (
    CheckFinished,
    EngineReady,
    Event,
    Localized,
    Node,
    PlannedChecks,
    RunFinished,
    RunResumed,
    RunStarted,
    UnitFinished,
    UnitStarted,
)
from bi_harness.certificate.localized import Localization
from bi_harness.certificate.part import of_part
from bi_harness.certificate.possible import (
    impossible_localization,
    impossible_power,
    impossible_result,
)
from bi_harness.certificate.records import CheckResult
from bi_harness.certificate.statement import (
    DIRTY,
    EffectiveArm,
    EndpointScope,
    HarnessResult,
    Loss,
    Predicate,
    ResourceDescriptor,
    Resumption,
    ShardPart,
    Statement,
    is_dirty,
    planted_faults,
    unverified,
)
from bi_harness.certificate.verdict import predicate_result, totals, verdict
from bi_harness.certificate.waivers import apply
from bi_harness.errors import UsageError
from bi_harness.matrix.collector import no_collection


@dataclass
class _Fold:
    """What the events say, gathered in one pass."""

    results: dict[Key, CheckResult] = field(default_factory=dict)
    # Each with the number of its attempt, and how often its unit had lost its node in it.
    arms: list[tuple[tuple[int, int], EffectiveArm]] = field(default_factory=list)
    engines: list[dict[str, Any]] = field(default_factory=list)
    units: dict[str, UnitFinished] = field(default_factory=dict)
    localized: dict[Key, Localization] = field(default_factory=dict)
    finished: RunFinished | None = None
    resumed: list[Resumption] = field(default_factory=list)
    lost: list[Loss] = field(default_factory=list)
    # Of this attempt: where each unit runs, and how often it lost its node.
    nodes: dict[str, Node | None] = field(default_factory=dict)
    losses: dict[str, int] = field(default_factory=dict)
    done_before: frozenset[str] = frozenset()


@no_collection()
def build(events: Sequence[Event], journal_digest: str) -> Statement:
    """The certificate of a run.

    Args:
        events: of one journal, in order.
        journal_digest: sha256 of the journal's bytes, as 64 hexadecimal digits.

    Raises:
        UsageError: when the journal does not begin with ``run_started``, tells of two runs, goes on after its
            end without being resumed, plans or ends something twice, gives one check two results where the
            first one stands, or one that was not planned, or has evidence that no comparison can give.
    """
    start = _start(events)
    fold = _gather(start, events[1:])
    own = start.own
    arms = current(fold.arms, [p.cell for p in own])
    to_run = {(p.cell, check) for p in own if p.rule is None for check in p.checks}
    unplanned = fold.results.keys() - to_run
    results = tuple(result for planned in own for result in _results(planned, fold))
    if unplanned:
        raise UsageError(f"the journal has a result that was not planned: {sorted(unplanned)[0]}")
    results, waivers = apply(start.waivers, results, to_run, start.time)
    interrupted = fold.finished is None or fold.finished.interrupted
    axes = across(results)
    verdict_, why = verdict(results, complete=not interrupted, axes=axes, waivers=waivers)
    engine, disagreements = _engine_provenance(fold.engines)
    if verdict_ == "CERTIFIED" and (trouble := _unsound_end(start, fold) or "; ".join(disagreements)):
        verdict_, why = "INCONCLUSIVE", trouble
    if faults := planted_faults(arm for _, arm in fold.arms):
        # Its checks have no control either: whatever they say, it is not of the vLLM that users have.
        named = f"a fault was planted in its engines on purpose: {', '.join(faults)}"
        verdict_, why = (
            (verdict_, f"{why}; {named}") if verdict_ == "NOT_CERTIFIED" else ("INCONCLUSIVE", named)
        )
    shard: ShardPart | None = None
    if start.shard is not None:
        doubt = interrupted or faults or disagreements or _unsound_end(start, fold)
        verdict_, why, shard = of_part(start.shard, verdict_, why, results, sound=not doubt)
    if start.scope.endpoint is not None:
        why = f"{why}; {unverified(start.scope.endpoint)}"
    if is_dirty(start.provenance):
        why = f"{why}; {DIRTY}"
    provenance = _provenance(start, engine, disagreements, journal_digest)
    return Statement(
        subject=_subject(provenance, start.scope.endpoint),
        predicate=Predicate(
            result=predicate_result(verdict_, results),
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
                effective=arms,
                provenance=provenance,
                checks=results,
                power=start.power,
                axes=axes,
                waivers=waivers,
                resumed=tuple(fold.resumed),
                shard=shard,
                localized=tuple(
                    fold.localized[r.cell, r.check] for r in results if (r.cell, r.check) in fold.localized
                ),
                lost=tuple(fold.lost),
            ),
        ),
    )


def remaining(events: Sequence[Event]) -> Left:
    """What a journal leaves to be done.

    Raises:
        UsageError: as ``build``.
    """
    start = _start(events)
    fold = _gather(start, events[1:])
    return left(start, fold.results, fold.units)


def _start(events: Sequence[Event]) -> RunStarted:
    if not events or not isinstance(events[0], RunStarted):
        raise UsageError("the journal does not begin with run_started: it is not of a run, or was cut off")
    planned_checks = [(p.cell, check) for p in events[0].plan for check in p.checks]
    if len(set(planned_checks)) != len(planned_checks):
        raise UsageError("the journal plans a check twice")
    for power in events[0].power:
        if why := impossible_power(power):
            raise UsageError(f"the journal has an impossible self-test of {power.suite}: {why}")
    if shard := events[0].shard:
        if unknown := set(shard.units) - {p.unit for p in events[0].plan}:
            raise UsageError(f"the journal's shard has a unit that is not planned: {min(unknown)}")
        if shard.index > shard.count:
            raise UsageError(f"the journal is of shard {shard.index} of {shard.count}: there is none")
    return events[0]


def _gather(start: RunStarted, events: Sequence[Event]) -> _Fold:
    fold = _Fold()
    units = unit_names(start)
    for event in events:
        if isinstance(event, RunResumed):
            _reopen(start, fold, event)
            continue
        if fold.finished is not None:
            raise UsageError("the journal goes on after run_finished")
        if isinstance(event, RunStarted):
            raise UsageError("the journal tells of two runs")
        if isinstance(event, CheckFinished):
            key = (event.result.cell, event.result.check)
            if why := impossible_result(event.result):
                raise UsageError(f"the journal has impossible evidence of {key[1]} on {key[0]}: {why}")
            if key in fold.results:
                # No rerun until green: a second result is never taken, whatever it says.
                raise UsageError(f"the journal has two results of {key[1]} on {key[0]}")
            fold.results[key] = event.result
        elif isinstance(event, EngineReady):
            losses = fold.losses.get(unit_of(event, units) or "", 0)
            fold.arms.append(((len(fold.resumed), losses), event.arm))
            fold.engines.append(event.provenance)
        elif isinstance(event, UnitStarted):
            fold.nodes[event.unit] = event.node
        elif isinstance(event, UnitFinished):
            before = fold.units.get(event.unit)
            if (before is not None and before.outcome != "lost") or event.unit in fold.done_before:
                raise UsageError(f"the journal ends the unit {event.unit} twice")
            fold.units[event.unit] = event
            if event.outcome == "lost":
                _lose(start, fold, event)
            fold.nodes.pop(event.unit, None)
        elif isinstance(event, Localized):
            _take_localized(fold, event.localization)
        elif isinstance(event, RunFinished):
            fold.finished = event
    return fold


def _take_localized(fold: _Fold, told: Localization) -> None:
    """What is told of a failure, once; it is no result, and nothing follows from it."""
    key = (told.cell, told.check)
    result = fold.results.get(key)
    if result is None or result.status != "fail":
        raise UsageError(f"the journal localizes {key[1]} on {key[0]}, which had not failed")
    if key in fold.localized:
        raise UsageError(f"the journal localizes {key[1]} on {key[0]} twice")
    if why := impossible_localization(told):
        raise UsageError(f"the journal localizes {key[1]} on {key[0]} with impossible evidence: {why}")
    fold.localized[key] = told


def _lose(start: RunStarted, fold: _Fold, event: UnitFinished) -> None:
    """A unit's node went away: what has no verdict may have another result, and nothing else may."""
    node = fold.nodes.get(event.unit)
    if node is None:
        raise UsageError(f"the journal loses the unit {event.unit}, which ran on no node")
    fold.losses[event.unit] = fold.losses.get(event.unit, 0) + 1
    if fold.losses[event.unit] > TRIES:
        raise UsageError(f"the journal starts the unit {event.unit} more than {TRIES} times without a resume")
    reopened = lost(start, fold.results, event)
    for one in reopened:
        fold.results.pop((one.cell, one.check), None)
    fold.lost.append(
        Loss(time=event.time, unit=event.unit, host=node.host, reason=event.message, reopened=reopened)
    )


def _reopen(start: RunStarted, fold: _Fold, event: RunResumed) -> None:
    """Another attempt begins: what is left may have another result, and nothing else may."""
    # Of shards that were merged, one alone went on; what the others have stands.
    others: frozenset[str] = frozenset()
    if event.of is not None:
        if unknown := set(event.of) - {p.unit for p in start.own}:
            raise UsageError(f"the journal was resumed with a unit that is not planned: {min(unknown)}")
        others = frozenset(p.unit for p in start.own) - set(event.of)
        start = start.model_copy(update={"plan": start.part(event.of), "shard": None})
    rest = left(start, fold.results, fold.units)
    if (rest.kept, len(rest.reopened), rest.units) != (event.kept, event.left, event.units):
        raise UsageError(
            f"the journal was resumed with {event.kept} results and {event.left} checks left, and its lines "
            f"before that tell of {rest.kept} and {len(rest.reopened)}: lines are missing or were added"
        )
    for one in rest.reopened:
        fold.results.pop((one.cell, one.check), None)
    fold.units = {unit: ended for unit, ended in fold.units.items() if unit in rest.done | others}
    fold.done_before = (fold.done_before & others) | rest.done
    fold.nodes = {unit: node for unit, node in fold.nodes.items() if unit in others}
    fold.losses = {unit: count for unit, count in fold.losses.items() if unit in others}
    fold.finished = None
    fold.resumed.append(
        Resumption(time=event.time, kept=event.kept, torn=event.torn, host=event.host, reopened=rest.reopened)
    )


def _results(planned: PlannedChecks, fold: _Fold) -> list[CheckResult]:
    if planned.rule is not None:
        reason = f"{planned.reason} [{planned.source}]" if planned.source else planned.reason
        return [
            CheckResult(cell=planned.cell, check=check, status="skip", reason=reason, rule=planned.rule)
            for check in planned.checks
        ]
    return [
        _own_word(result)
        for check in planned.checks
        for result in [fold.results.get((planned.cell, check)) or _never_ran(planned, check, fold)]
    ]


def _own_word(result: CheckResult) -> CheckResult:
    """A unit's result without what is not a unit's to say."""
    said = result.reason or "without a reason"
    if result.status == "skip":
        # Only a rule skips, and it does so in the plan.
        reason = f"it skipped itself, and no rule excludes it: {said}"
    elif result.status == "waived" or result.waiver is not None:
        # Only a waiver that the run was given waives.
        reason = f"it waived itself: {said}"
    else:
        return result
    return result.model_copy(update={"status": "error", "reason": reason, "rule": None, "waiver": None})


def _unsound_end(start: RunStarted, fold: _Fold) -> str:
    """Why passes alone do not make this run sound: a unit that did not end well; empty when all did."""
    if start.scope.endpoint is None and any(arm.config.get("verified") is False for _, arm in fold.arms):
        return "an engine's configuration was not verified, and the run was not of an endpoint"
    for unit in dict.fromkeys(p.unit for p in start.own if p.rule is None):
        ended = fold.units.get(unit)
        if unit in fold.done_before and (ended is None or ended.outcome in ("interrupted", "lost")):
            continue  # It was cut off with nothing left to do: all its results were on disk.
        if ended is None:
            return f"the unit {unit} never ended"
        if ended.outcome == "lost":
            continue  # Cut off, too: were anything left to do, not all would have passed.
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
