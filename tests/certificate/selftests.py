"""Statements of a selftest's runs, and results of selftests, to break."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bi_harness.certificate.build import build
from bi_harness.certificate.events import Event
from bi_harness.certificate.power import FaultResult, SelfTest, score
from bi_harness.certificate.records import CheckResult
from bi_harness.certificate.statement import EffectiveArm, Statement
from tests.certificate.journals import DIGEST, JOURNAL, TIME, UNIT, end, ended, finished, planned, ready
from tests.certificate.journals import result as with_control
from tests.certificate.journals import started as run_started

UNTOLD = "no control"


def engine(fault: str | None = None, arm: str = "treatment", vllm: str = "0.32.0") -> Event:
    """An engine that says what is planted in it, as the worker does: nothing at all for no fault."""
    config = {"vllm": vllm, "invariance": arm == "treatment", **({"planted_fault": fault} if fault else {})}
    told = EffectiveArm(unit=UNIT, arm=arm, config=config, start_s=1.0)  # type: ignore[arg-type]
    return ready().model_copy(update={"arm": told})


def checked(status: Any = "inconclusive", check: str = "alone", **changes: Any) -> CheckResult:
    """A result as a run without a control gives it: equality alone is ``inconclusive``."""
    base = {"control": None, "reason": UNTOLD}
    return with_control(status, check, **{**base, **changes})


def ran(
    *results: CheckResult,
    engines: Sequence[Event] | None = None,
    fault: str | None = None,
    checks: tuple[str, ...] = (),
    interrupted: bool = False,
) -> Statement:
    """A run of the suite with one engine that has ``fault``; by default one check that found no difference.

    Args:
        engines: in place of that engine.
        checks: the plan's, where it has more than ``results``.
    """
    told = results or (checked(),)
    events: list[Event] = [run_started(planned(*(checks or [r.check for r in told])))]
    events += [engine(fault)] if engines is None else engines
    events += [finished(r) for r in told]
    return build([*events, ended(), end(interrupted)], JOURNAL)


def fault_result(id: str = "norm-256", **changes: Any) -> FaultResult:
    """A fault that was caught."""
    base: dict[str, Any] = {
        "id": id,
        "class": "RMSNorm block size by tokens",
        "source": "#48271",
        "model": "qwen3-tiny",
        "caught": True,
        "checks": ("bs1_vs_bsN", "needle"),
        "first_request": 12,
        "first_step": 3,
        "module": "model.layers.*.input_layernorm",
    }
    return FaultResult.model_validate({**base, **changes})


def missed(id: str = "one-ulp", **changes: Any) -> FaultResult:
    """A fault that no check caught."""
    nothing: dict[str, Any] = {"caught": False, "checks": (), "first_request": None, "first_step": None}
    return fault_result(id, **{**nothing, "module": None, **changes})


def tried(*faults: FaultResult, **changes: Any) -> SelfTest:
    """A selftest with 20 clean runs."""
    base: dict[str, Any] = {
        "suite": "batch_invariance",
        "suite_digest": DIGEST,
        "device": "cpu",
        "mode": "eager",
        "profile": "smoke",
        "vllm": "0.32.0",
        "started": TIME,
        "finished": "2026-01-14T10:00:00.000Z",
        "faults": faults,
        "score": score(faults),
        "clean_runs": 20,
        "false_alarms": 0,
    }
    return SelfTest.model_validate({**base, **changes})
