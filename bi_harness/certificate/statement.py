"""The certificate: an in-toto Statement whose predicate is a test result.

Source of the outer shape: in-toto attestation framework, Statement v1 and predicate ``test-result`` v0.1.
What bi-harness adds sits under ``predicate.bi_harness``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal

from pydantic import FailFast, Field, SerializerFunctionWrapHandler, model_serializer

from bi_harness.certificate.free_parts import Device, Free
from bi_harness.certificate.localized import Localization
from bi_harness.certificate.records import (
    CheckResult,
    Count,
    Digest,
    PositiveCount,
    Record,
    Verdict,
    Waiver,
)
from bi_harness.matrix.shards import MOST as MAX_SHARDS

# Of a list that somebody filled with mistakes, one is told: pydantic takes a kilobyte for each.
Names = Annotated[tuple[str, ...], FailFast()]


class ResourceDescriptor(Record):
    """in-toto's name + digest of a thing: a wheel, a checkpoint, a YAML file."""

    name: str
    digest: dict[str, str] = Field(default_factory=dict)
    uri: str | None = None
    annotations: dict[str, str] = Field(default_factory=dict)


class EffectiveArm(Record):
    """What one engine said of itself after its start.

    Attributes:
        unit: the unit it served.
        arm: ``treatment`` (invariance on) or ``control`` (off).
        config: read back from the engine: attention backends, mode, dtype, sizes, threads, ...
        start_s: seconds from process start to ready.
        engine: which of the unit's engines: empty for the one that its checks share, else the check that has
            it for itself, or ``restarted``.
        preloaded: that its process was forked from one that had imported vLLM for several.
    """

    unit: str
    arm: Literal["treatment", "control"]
    config: Free
    start_s: float
    engine: str = ""
    preloaded: Literal[True] | None = None

    @model_serializer(mode="wrap")
    def _preloaded_where_it_was(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        data: dict[str, Any] = handler(self)
        if self.preloaded is None:
            del data["preloaded"]  # as with the scope's endpoint
        return data


def planted_faults(arms: Iterable[EffectiveArm]) -> tuple[str, ...]:
    """The faults that were planted in these engines, as they said themselves; each once."""
    found = (arm.config.get("planted_fault") for arm in arms)
    return tuple(dict.fromkeys(str(fault) for fault in found if fault))


class Power(Record):
    """What a suite is known to catch: its last self-test, made with the suite and not by this run.

    Attributes:
        suite: its id.
        faults, caught: planted faults, and those of them that a check caught.
        clean_runs, false_alarms: runs without a fault, and those of them in which a check failed.
        device, vllm: what it was tried on.
        measured: UTC, ISO 8601.
        current: whether what decides is still the same as in that self-test: the suite's checks, what they
            send, how it is compared (``runner.power_digest``).
    """

    suite: str
    faults: Count
    caught: Count
    clean_runs: Count
    false_alarms: Count
    device: str
    vllm: str
    measured: str
    current: bool


class AxisComparison(Record):
    """One check at two sizes of a parallel axis.

    Attributes:
        name: ``dp_digest_equal`` or ``tp_digest_equal``.
        check: its id.
        cells: the smaller size's cell and the larger one's.
        equal: whether all observations have the same bits.
        required: whether they must have.
    """

    name: str
    check: str
    cells: tuple[str, str]
    equal: bool
    required: bool


WaiverState = Literal["in_force", "expired", "stale", "no_answer", "not_in_run"]


class WaiverUse(Record):
    """A waiver that the run was given, and what came of it.

    Attributes:
        waiver: as it was given.
        state: ``in_force``: what it names failed, and is waived; ``expired``: its last day was over when the
            run started; ``stale``: something that it names passed; ``no_answer``: what it names gave none;
            ``not_in_run``: it names no check that was to run.
        checks: ``cell::check`` of all it names that was to run, in plan order; not their results.
    """

    waiver: Waiver
    state: WaiverState
    checks: tuple[str, ...] = ()


class Totals(Record):
    """How many checks have each status."""

    passed: Count = 0
    failed: Count = 0
    inconclusive: Count = 0
    error: Count = 0
    skip: Count = 0
    waived: Count = 0


class EndpointScope(Record):
    """A run against a server that was running already.

    Nothing of its process was looked at: neither its invariance mode nor its configuration is verified.

    Attributes:
        url: its base URL, without credentials.
        control: that of the control, where it was running already, too; ``None`` for one that the harness
            started with invariance off.
    """

    url: str
    control: str | None = None


def unverified(endpoint: EndpointScope) -> str:
    """What a verdict on an endpoint must say beside itself."""
    return f"endpoint {endpoint.url}: invariance mode and configuration not verified by bi-harness"


DIRTY = "made by a bi-harness with changes that no commit has (dirty)"
"""What a verdict must say beside itself when the harness was not as committed or released."""


def is_dirty(provenance: Mapping[str, Any]) -> bool:
    """Whether the harness had changes when it ran; not known counts as no, and the gate asks for more."""
    harness = provenance.get("harness")
    return isinstance(harness, Mapping) and harness.get("dirty") is True


class Scope(Record):
    """What was asked for: a verdict never speaks of more than this.

    Attributes:
        profile: ``smoke``, ``nightly`` or ``release``.
        filters: the selection flags in use (``model``, ``suite``, ``k``, ...); empty for everything.
        weights: ``named`` or ``synthetic``, as asked; ``models`` says what ran.
        models: for each model, the weights that ran: a repository and revision, or how they were made.
        layers: the number of layers asked for, ``None`` for the model's own.
        seed: the workload's seed.
        endpoint: the server that was certified where bi-harness did not start it; ``None`` where it did.
    """

    profile: str
    filters: dict[str, str]
    weights: str
    models: dict[str, str] = Field(default_factory=dict)
    layers: Count | None
    seed: Count
    endpoint: EndpointScope | None = None

    @model_serializer(mode="wrap")
    def _endpoint_where_one_is(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        data: dict[str, Any] = handler(self)
        if self.endpoint is None:
            # Certificates of before there were any stay what they are, byte for byte.
            del data["endpoint"]
        return data


class Reopened(Record):
    """A check that ran again when the run was resumed, and what came of it before.

    Attributes:
        cell, check: which.
        status: of its earlier result; ``none`` where it had none.
        reason: of that, or what became of its unit.
    """

    cell: str
    check: str
    status: Literal["none", "error", "skip", "pass"]
    reason: str = ""


class Resumption(Record):
    """A time at which the run was resumed.

    Attributes:
        time: UTC, ISO 8601.
        kept: checks that kept their results.
        torn: bytes of a line that was cut off, and was dropped from the journal.
        host: the name of the host that it went on on.
        reopened: the checks that were left to run, and what they had to show before.
    """

    time: str
    kept: Count
    torn: Count = 0
    host: str = ""
    reopened: tuple[Reopened, ...]


class ShardPart(Record):
    """Where a certificate is of a part of a run, which part. Such a one is never CERTIFIED: see ``merge``.

    Attributes:
        index: from 1.
        count: how many parts there are.
        plan: digest of the whole run's plan, the same in all parts.
        passed: whether this part did what it was for: every check of it passed or was waived, and the run
            came to its end; or there was nothing in it to run.
    """

    index: PositiveCount
    count: Annotated[int, Field(ge=2, le=MAX_SHARDS)]
    plan: Digest
    passed: bool


class Loss(Record):
    """A time at which the node of a unit was lost, which is no verdict on anything.

    Attributes:
        time: UTC, ISO 8601.
        unit: what ran there.
        host: the node's name of itself.
        reason: what became of it.
        reopened: the checks that the unit had left to run, elsewhere, and what they had to show before.
    """

    time: str
    unit: str
    host: str
    reason: str
    reopened: tuple[Reopened, ...]


class HarnessResult(Record):
    """``predicate.bi_harness``.

    Attributes:
        schema_: the version of this schema (``schema`` in JSON).
        verdict: of the device, within ``scope``.
        why: one sentence that says what the verdict rests on.
        device: id in ``hardware.yaml``, and what the host said it is.
        run_id: name of the run's folder.
        started, finished: UTC, ISO 8601; ``finished`` is ``None`` for a run that was cut off.
        interrupted: whether the run was stopped before its end.
        scope: what was asked for.
        totals: checks by status.
        effective: what each engine said it ran.
        provenance: versions, digests, the command; see ``docs`` of the provenance module.
        checks: every planned check, run or skipped, in plan order.
        power: what the suites are known to catch; a suite without a self-test is not in it.
        axes: the checks that ran at several parallel sizes.
        waivers: those that the run was given, in the file's order.
        resumed: the times at which the run was resumed, after it was cut off or left checks open.
        shard: which part of a run this is; ``None`` for a whole one.
        localized: where failures begin, of those that were looked into.
        lost: the times at which a unit lost its node, in runs on several hosts.
    """

    schema_: Literal["bi-harness/certificate/1"] = Field(default="bi-harness/certificate/1", alias="schema")
    verdict: Verdict
    why: str
    device: Device
    run_id: str
    started: str
    finished: str | None
    interrupted: bool
    scope: Scope
    totals: Totals
    effective: Annotated[tuple[EffectiveArm, ...], FailFast()]
    provenance: Free
    checks: Annotated[tuple[CheckResult, ...], FailFast()]
    power: tuple[Power, ...] = ()
    axes: tuple[AxisComparison, ...] = ()
    waivers: tuple[WaiverUse, ...] = ()

    resumed: tuple[Resumption, ...] = ()
    shard: ShardPart | None = None
    localized: Annotated[tuple[Localization, ...], FailFast()] = ()
    lost: tuple[Loss, ...] = ()

    @model_serializer(mode="wrap")
    def _some_where_there_are_any(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        data: dict[str, Any] = handler(self)
        for name in ("waivers", "resumed", "shard", "localized", "lost"):
            if not getattr(self, name):
                # As with the scope's endpoint: other certificates stay what they always were, byte for byte.
                data.pop(name, None)
        return data


class Predicate(Record):
    """in-toto ``test-result``: PASSED only for CERTIFIED without a waived failure, WARNED for CERTIFIED with
    one; anything else is FAILED to a generic consumer."""

    result: Literal["PASSED", "WARNED", "FAILED"]
    configuration: tuple[ResourceDescriptor, ...]
    passedTests: Names
    warnedTests: Names
    failedTests: Names
    bi_harness: HarnessResult


class Statement(Record):
    """``certificate.json``."""

    type_: Literal["https://in-toto.io/Statement/v1"] = Field(
        default="https://in-toto.io/Statement/v1", alias="_type"
    )
    subject: Annotated[tuple[ResourceDescriptor, ...], FailFast()]
    predicateType: Literal["https://in-toto.io/attestation/test-result/v0.1"] = (
        "https://in-toto.io/attestation/test-result/v0.1"
    )
    predicate: Predicate

    def to_json(self) -> str:
        """The canonical file text: two-space indent, keys in schema order, a newline at the end."""
        return self.model_dump_json(indent=2, by_alias=True) + "\n"
