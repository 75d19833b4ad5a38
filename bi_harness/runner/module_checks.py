"""The modules of an engine's loaded model, audited while it is up, as what a check observes."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from pydantic import ValidationError

from bi_harness.certificate.modules import control_facts, facts, names
from bi_harness.certificate.records import Fact, ModuleResult
from bi_harness.compare.evidence import Arm, gather
from bi_harness.engine.arms import Generates, run_arm
from bi_harness.errors import EngineError
from bi_harness.spec.operators import ModuleAmount
from bi_harness.workload.checkplan import ArmPlan, together
from bi_harness.workload.plan import Workload

ALONE = "alone"


class Audited(Generates, Protocol):
    """An engine whose modules can be asked for."""

    def modules(self, ask: str, given: Mapping[str, Any], *, timeout_s: float) -> dict[str, Any]:
        """See ``EngineClient.modules``."""


@dataclass(frozen=True, slots=True)
class ModulesFound:
    """What one engine gave.

    Attributes:
        modules: those fed rows first, then those compared in sequences, then those not audited by themselves.
        facts: of each of them, and of the requests.
    """

    modules: tuple[ModuleResult, ...]
    facts: tuple[Fact, ...]


def audit(
    engine: Audited,
    workload: Workload,
    amount: ModuleAmount,
    *,
    control: bool,
    timeout_s: float,
    progress: Callable[[int, int], None] = lambda done, of: None,
) -> ModulesFound:
    """Audit an engine: requests run alone and together while its modules are looked at, then each type of
    module is fed rows.

    Raises:
        EngineError: the engine failed, answered nonsense, or a batch did not form.
    """
    deadline = time.monotonic() + timeout_s

    def ask(what: str, given: Mapping[str, Any]) -> dict[str, Any]:
        return engine.modules(what, given, timeout_s=max(0.0, deadline - time.monotonic()))

    effort = {**amount.effort(workload.seed), "planted": control}
    ask("begin", {"rows": amount.subjects})
    told = _requests(engine, workload, lambda name: ask("arm", {"name": name}), deadline)
    calls = ask("captured", {}).get("calls")
    if not isinstance(calls, list):
        raise EngineError(f"the audit did not tell what was called: {calls!r}"[:300])
    records = []
    for index in range(len(calls)):
        records.append(ask("measure", {**effort, "index": index}).get("record"))
        progress(index + 1, len(calls))
    rest = ask("rest", {"planted": control}).get("records")
    ask("end", {})
    if not isinstance(rest, list):
        raise EngineError(f"the audit did not tell what is left: {rest!r}"[:300])
    read = [_read(record) for record in [*records, *rest]]
    modules = tuple(module for module, _ in read)
    if not control:
        return ModulesFound(modules, (*facts(modules), *told))
    planted = {
        name: other for name, (_, other) in zip(names(modules), read, strict=True) if other is not None
    }
    return ModulesFound(modules, (*control_facts(modules, planted), *told))


def _requests(
    engine: Audited, workload: Workload, begins: Callable[[str], object], deadline: float
) -> tuple[Fact, ...]:
    """Run the requests alone and in batches of every size; what their own bits say is told, not judged."""
    subjects = workload.requests

    def run(plan: ArmPlan) -> Arm:
        begins(plan.name)
        return run_arm(engine, plan, timeout_s=max(0.0, deadline - time.monotonic()))[0]

    alone = run(together(ALONE, subjects, 1))
    batches = [run(together(f"together, {n}", subjects, n)) for n in workload.batch_sizes]
    for arm in batches:
        if arm.batch.max_requests < arm.batch.batch_size:
            raise EngineError(
                f"no batch of {arm.batch.batch_size} formed ({arm.batch.max_requests} requests at most): "
                "modules that keep something between tokens have nothing to be compared in"
            )
    evidence = gather(alone, batches, [len(request.prompt) for request in subjects])
    found = f"{evidence.differing_prompts} of {evidence.prompts}, by up to {evidence.max_ulp:,} ULP"
    return (Fact(name="requests whose logprobs or tokens differ together", found=found),)


def _read(record: Any) -> tuple[ModuleResult, tuple[str, ModuleResult] | None]:
    """A record, and what a planted difference gave, where one was measured."""
    try:
        data = dict(record)
        planted = data.pop("planted", None)
        module = ModuleResult.model_validate(data)
        if planted is None:
            return module, None
        changed = dict(planted)
        what = str(changed.pop("what"))
        return module, (what, ModuleResult.model_validate({**data, **changed}))
    except (ValidationError, TypeError, ValueError, KeyError) as error:
        raise EngineError(f"the audit answered with what is no module: {error}"[:1000]) from error
