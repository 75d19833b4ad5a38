"""Certificates to render: what real runs look like, and what no run should."""

from __future__ import annotations

import struct
from hashlib import sha256
from typing import Any

from bi_harness.certificate.records import (
    BatchReached,
    CheckResult,
    Divergence,
    Evidence,
    Fact,
    Status,
    Verdict,
    Waiver,
)
from bi_harness.certificate.statement import (
    EffectiveArm,
    HarnessResult,
    Predicate,
    ResourceDescriptor,
    Scope,
    Statement,
    Totals,
    WaiverUse,
)
from bi_harness.certificate.verdict import predicate_result

SUITE = "batch_invariance"
CHECKS = ("bs1_vs_bsN", "needle", "ragged_chunked_prefill", "decode_vs_prefill", "arrival_order")

HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(2)>"
ANSI = "\x1b[31mred\x1b[0m\x1b]0;title\x07 \u202egnp.exe\u202c nul\x00 bell\x07\r\nnext | `tick` **bold**"


def digest(seed: str) -> str:
    return f"sha256:{sha256(seed.encode()).hexdigest()}"


def bits(value: float) -> str:
    return "0x" + struct.pack(">f", value).hex()


def divergence(ulp: int = 3) -> Divergence:
    reference = -1.2345678
    pattern = f"0x{int(bits(reference), 16) + ulp:08x}"
    observed = struct.unpack(">f", bytes.fromhex(pattern[2:]))[0]
    return Divergence(
        prompt=11,
        prompt_tokens=1_733,
        batch_size=32,
        step=4,
        rank=0,
        reference_token=40_213,
        observed_token=40_213,
        reference_bits=bits(reference),
        observed_bits=pattern,
        reference_logprob=round(reference, 6),
        observed_logprob=round(observed, 6),
        ulp=ulp,
    )


def evidence(seed: str, differing: int = 0, prompts: int = 32, steps: int = 512) -> Evidence:
    return Evidence(
        prompts=prompts,
        steps=steps,
        values=steps * 6,
        differing_prompts=differing,
        differing_steps=differing * 7,
        differing_values=differing * 23,
        first_divergence=divergence() if differing else None,
        max_ulp=8_192 if differing else 0,
        max_abs=0.0009765625 if differing else 0.0,
        digest=digest(f"{seed} observed"),
        reference_digest=digest(seed if differing else f"{seed} observed"),
        upper95=min(1.0, differing * 7 / steps * 1.4) if differing else 0.00583,
        batches=(
            BatchReached(batch_size=1, prompts=prompts, steps=steps, max_requests=1, max_tokens=2_500),
            BatchReached(batch_size=32, prompts=prompts, steps=19, max_requests=32, max_tokens=8_192),
        ),
    )


def waiver(cell: str, name: str, **changes: Any) -> Waiver:
    base = {
        "cell": cell,
        "check": name,
        "reason": "RMSNorm block size, fixed upstream.",
        "link": "https://example.org/pull/7",
        "owner": "A. Reviewer",
        "expires": "2026-03-01",
    }
    return Waiver(**{**base, **changes})


def check(cell: str, name: str, status: Status = "pass", **changes: Any) -> CheckResult:
    differing = 8 if status in ("fail", "waived") else 0
    seed = f"{cell} {name}"
    base: dict[str, Any] = {"cell": cell, "check": name, "status": status, "duration_s": 14.25}
    if status in ("pass", "fail", "inconclusive", "waived"):
        base["evidence"] = evidence(seed, differing)
        base["control"] = evidence(f"{seed} control", 0 if status == "inconclusive" else 31)
    reasons: dict[Status, dict[str, Any]] = {
        "pass": {},
        "fail": {"reason": "8 of 32 prompts differ between batch size 1 and 32."},
        "inconclusive": {"reason": "The control did not diverge: the workload cannot tell."},
        "error": {"reason": "The engine died: CUDA out of memory.", "log": "logs/unit-3/engine.log"},
        "skip": {
            "reason": "EAGLE with DP runs eager below SM90.",
            "rule": "eagle-dp-eager-below-sm90",
            "duration_s": None,
        },
        "waived": {
            "reason": "8 of 32 prompts differ between batch size 1 and 32.",
            "waiver": waiver(cell, name) if status == "waived" else None,
        },
    }
    return CheckResult(**{**base, **reasons[status], **changes})


def totals(checks: tuple[CheckResult, ...]) -> Totals:
    def how_many(status: Status) -> int:
        return sum(item.status == status for item in checks)

    return Totals(
        passed=how_many("pass"),
        failed=how_many("fail"),
        inconclusive=how_many("inconclusive"),
        error=how_many("error"),
        skip=how_many("skip"),
        waived=how_many("waived"),
    )


def statement(verdict: Verdict, checks: tuple[CheckResult, ...], **changes: Any) -> Statement:
    base: dict[str, Any] = {
        "verdict": verdict,
        "why": "Every check passed on every cell, and every control diverged.",
        "device": {"id": "h200", "name": "NVIDIA H200", "capability": "9.0", "count": 2},
        "run_id": "20260114-091500-3f2a",
        "started": "2026-01-14T09:15:00+00:00",
        "finished": "2026-01-14T09:41:12+00:00",
        "interrupted": False,
        "scope": Scope(profile="nightly", filters={}, weights="synthetic", layers=None, seed=20_260_114),
        "totals": totals(checks),
        "effective": (),
        "provenance": provenance("0.25.1"),
        "checks": checks,
    }
    result = HarnessResult(**{**base, **changes})
    return Statement(
        subject=(
            ResourceDescriptor(
                name="vllm-0.25.1", digest={"sha256": digest("vllm")[7:]}, annotations={"kind": "wheel"}
            ),
        ),
        predicate=Predicate(
            result=predicate_result(verdict, checks),
            configuration=(
                ResourceDescriptor(name="models.yaml", digest={"sha256": digest("models")[7:]}),
                ResourceDescriptor(name="hardware.yaml", digest={"sha256": digest("hardware")[7:]}),
            ),
            passedTests=tuple(f"{item.cell}::{item.check}" for item in checks if item.status == "pass"),
            warnedTests=tuple(f"{item.cell}::{item.check}" for item in checks if item.status == "waived"),
            failedTests=tuple(
                f"{item.cell}::{item.check}" for item in checks if item.status in ("fail", "error")
            ),
            bi_harness=result,
        ),
    )


def provenance(version: str) -> dict[str, Any]:
    return {
        "harness": {
            "version": "0.4.0",
            "git_commit": "9f1c2b7d0e4a5b6c7d8e9f0a1b2c3d4e5f607182",
            "dirty": False,
        },
        "vllm": {"version": version, "commit": "4c8ae17f2"},
        "torch": "2.11.0+cu130",
        "python": "3.12.8",
        "driver": "580.95.05",
        "devices": [
            {"index": 0, "name": "NVIDIA H200", "uuid": "GPU-11111111", "memory_gib": 139.8},
            {"index": 1, "name": "NVIDIA H200", "uuid": "GPU-22222222", "memory_gib": 139.8},
        ],
        "packages": {"triton": "3.6.0", "flashinfer": None, "numpy": "2.3.1"},
        "digests": {
            "models.yaml": digest("models"),
            "suites": digest("suites"),
            "checkpoints": {"qwen3-1.7b": digest("checkpoint")},
            "journal": digest("journal"),
        },
        "command": ["bi-harness", "run", "--device", "h200", "--profile", "nightly", "--out", "reports"],
        "host": {"system": "Linux 6.1", "cpus": 16},
    }


def effective(unit: str) -> tuple[EffectiveArm, EffectiveArm]:
    shared = {
        "dtype": "bfloat16",
        "max_num_batched_tokens": 8_192,
        "max_num_seqs": 64,
        "parallel": {"tensor": 1, "data": 1},
        "enforce_eager": unit.endswith("eager"),
        "attention_backends": [unit.split("/")[2]],
    }
    return (
        EffectiveArm(unit=unit, arm="treatment", config={**shared, "batch_invariant": True}, start_s=31.4),
        EffectiveArm(unit=unit, arm="control", config={**shared, "batch_invariant": False}, start_s=12.2),
    )


def certified_cpu() -> Statement:
    """A small run that passed everywhere: two modes of one synthetic model on the CPU."""
    units = [f"cpu/tiny-qwen3/CPU_ATTN/tp1-dp1/{mode}" for mode in ("eager", "compile")]
    checks = tuple(check(f"{unit}/{SUITE}", name) for unit in units for name in CHECKS[:4])
    return statement(
        "CERTIFIED",
        checks,
        device={"id": "cpu", "name": "AMD EPYC 9654", "cpus": 2},
        scope=Scope(profile="smoke", filters={}, weights="synthetic", layers=4, seed=7),
        effective=tuple(arm for unit in units for arm in effective(unit)),
        provenance={**provenance("0.32.0"), "torch": "2.13.0+cpu", "driver": None, "devices": []},
    )


def startup_cpu() -> Statement:
    """Checks that judge what engines say of themselves: one right, one wrong, one with more than is shown."""
    unit = "cpu/tiny/CPU_ATTN/tp1-dp1/compile/compile_startup"
    facts = (
        Fact(name="cold: num_aot_compiles", found="1", expected=("1",), source="measured"),
        Fact(name="cold: kernels_built", found="16"),
        Fact(name="warm: num_aot_compiles", found="1", expected=("0", "1"), source="exception x [until] | y"),
        Fact(name="warm: kernels_built", found="0", expected=("0",), source="bi-harness"),
        Fact(name="warm: num_aot_artifacts_saved", found="1", expected=("0", "1")),
        Fact(name="cold: start", found="40.0 s"),
    )
    control = tuple(fact.model_copy(update={"found": "16"}) for fact in facts)
    wrong = facts[3].model_copy(update={"found": "16"})
    many = (
        Fact(name="last", found="9", expected=("8",)),
        *(Fact(name=f"n{i}", found="1") for i in range(300)),
    )
    other, third = unit.replace("tiny", "other"), unit.replace("tiny", "third")
    return statement(
        "NOT_CERTIFIED",
        (
            check(unit, "startup", facts=facts, control_facts=control),
            check(other, "startup", "fail", facts=(*facts[:3], wrong), control_facts=control, evidence=None),
            check(third, "startup", "fail", facts=many[1:] + many[:1]),
        ),
        device={"id": "cpu", "kind": "cpu", "name": "AMD EPYC 9654"},
        effective=tuple(
            EffectiveArm(
                unit=name,
                arm="treatment",
                config={"vllm": "0.32.0", "torch": "2.13.0+cpu"},
                start_s=40.0,
                engine="cold",
            )
            for name in (unit, other, third)
        ),
    )


def failing_h200() -> Statement:
    """The defect that the facts describe: eager fails, compiled passes; several suites and backends."""
    checks: list[CheckResult] = []
    arms: list[EffectiveArm] = []
    for model in ("qwen3-1.7b", "llama-3.2-1b"):
        for backend, parallel in (
            ("FLASH_ATTN", "tp1-dp1"),
            ("TRITON_ATTN", "tp1-dp1"),
            ("FLASH_ATTN", "tp2-dp1"),
        ):
            for mode in ("eager", "compile"):
                unit = f"h200/{model}/{backend}/{parallel}/{mode}"
                arms += effective(unit)
                for name in CHECKS:
                    broken = mode == "eager" and name in ("bs1_vs_bsN", "needle")
                    broken |= name == "decode_vs_prefill" and model == "qwen3-1.7b"
                    checks.append(check(f"{unit}/{SUITE}", name, "fail" if broken else "pass"))
                if parallel == "tp1-dp1":
                    status: Status = "skip" if backend == "TRITON_ATTN" else "pass"
                    skipped = {
                        "rule": "online-flash-only",
                        "reason": "The online suite runs on FLASH_ATTN only.",
                    }
                    for name in ("http_bs1_vs_bsN", "http_arrival"):
                        checks.append(
                            check(f"{unit}/online", name, status, **(skipped if status == "skip" else {}))
                        )
    return statement(
        "NOT_CERTIFIED",
        tuple(checks),
        why=f"{sum(item.status == 'fail' for item in checks)} checks found differing bits.",
        effective=tuple(arms),
    )


def mixed() -> Statement:
    """An interrupted, filtered run with an error, an inconclusive check, skips and a waiver."""
    eager = f"h200/qwen3-1.7b/FLASH_ATTN/tp1-dp1/eager/{SUITE}"
    compiled = f"h200/qwen3-1.7b/FLASH_ATTN/tp1-dp1/compile/{SUITE}"
    dp = "h200/qwen3-1.7b/FLASH_ATTN/tp1-dp2/compile/eagle_dp"
    checks = (
        check(eager, "bs1_vs_bsN", "waived"),
        check(eager, "needle", "error"),
        check(eager, "arrival_order", "inconclusive"),
        check(compiled, "bs1_vs_bsN"),
        check(compiled, "needle"),
        check(
            compiled, "arrival_order", "error", reason="The engine did not answer in 600 s.", evidence=None
        ),
        check(dp, "eagle_bs1_vs_bsN", "skip"),
        check(dp, "eagle_acceptance", "skip"),
    )
    return statement(
        "INCONCLUSIVE",
        checks,
        why="No bit differs outside the waiver, but 2 checks ended in an error and 1 is inconclusive.",
        interrupted=True,
        finished=None,
        scope=Scope(
            profile="release",
            filters={"model": "qwen3-1.7b", "suite": "batch_invariance,eagle_dp"},
            weights="named",
            layers=2,
            seed=1,
        ),
        effective=effective("h200/qwen3-1.7b/FLASH_ATTN/tp1-dp1/eager"),
        waivers=(
            WaiverUse(waiver=waiver(eager, "bs1_vs_bsN"), state="in_force", checks=(f"{eager}::bs1_vs_bsN",)),
            WaiverUse(waiver=waiver("b200/*", "needle"), state="not_in_run"),
        ),
    )


def waived_h200() -> Statement:
    """Certified but for one failure, which is waived; another waiver is of other devices."""
    unit = f"h200/qwen3-1.7b/FLASH_ATTN/tp1-dp1/compile/{SUITE}"
    return statement(
        "CERTIFIED",
        (check(unit, "bs1_vs_bsN"), check(unit, "sampling", "waived")),
        waivers=(
            WaiverUse(waiver=waiver(unit, "sampling"), state="in_force", checks=(f"{unit}::sampling",)),
            WaiverUse(waiver=waiver("b200/*", "needle"), state="not_in_run"),
        ),
    )


def stale_h200() -> Statement:
    """Nothing failed, but one waiver has expired, one is not needed, and one is of a check that erred."""
    unit = f"h200/qwen3-1.7b/FLASH_ATTN/tp1-dp1/compile/{SUITE}"
    old = {"expires": "2025-12-31"}
    return statement(
        "NOT_CERTIFIED",
        (check(unit, "bs1_vs_bsN"), check(unit, "needle"), check(unit, "sampling", "error")),
        waivers=(
            WaiverUse(waiver=waiver(unit, "sampling"), state="no_answer", checks=(f"{unit}::sampling",)),
            WaiverUse(waiver=waiver("h200/*", "bs1_vs_bsN"), state="stale", checks=(f"{unit}::bs1_vs_bsN",)),
            WaiverUse(waiver=waiver(unit, "needle", **old), state="expired", checks=(f"{unit}::needle",)),
        ),
    )


def hostile() -> Statement:
    """Markup, terminal escapes, a megabyte of text and ids of no known form, wherever text goes."""
    nasty = f"{HOSTILE}{ANSI}"
    million = "A" * 1_000_000
    not_finite = divergence().model_copy(
        update={
            "rank": -1,
            "reference_bits": "0x7fc00000",
            "observed_bits": "0xff800000",
            "reference_logprob": None,
            "observed_logprob": None,
            "reference_token": -1,
            "ulp": 2**32 - 1,
        }
    )
    checks = (
        check(nasty, nasty, "fail", reason=nasty, log=f"javascript:{HOSTILE}"),
        check(
            f"d/{HOSTILE}/b/tp1-dp1/eager/s",
            "x' ; rm -rf / #",
            "error",
            reason=million,
            log="logs/../../etc/passwd",
        ),
        check("", "", "skip", reason=nasty, rule=HOSTILE, duration_s=-1.0),
        check(million, million, "inconclusive", reason=ANSI),
        check(
            f"a/{nasty}/|`/tp9999999-dp1/eager/s",
            "```",
            "fail",
            evidence=evidence("x", 8).model_copy(
                update={"first_divergence": not_finite, "max_ulp": 10**5000, "batches": ()}
            ),
        ),
    )
    nested: Any = "bottom"
    for _ in range(14):
        nested = {HOSTILE: [nested]}
    return statement(
        "NOT_CERTIFIED",
        checks,
        why=nasty,
        device={"id": nasty, "name": HOSTILE, "more": {HOSTILE: nasty}},
        run_id=f"../../{nasty}",
        started=nasty,
        finished="not a time",
        scope=Scope(profile=nasty, filters={HOSTILE: nasty}, weights=HOSTILE, layers=0, seed=0).model_copy(
            update={"seed": 10**30}
        ),
        effective=(
            EffectiveArm(unit=nasty, arm="control", config={HOSTILE: nasty, "deep": nested}, start_s=-1e300),
            EffectiveArm(unit="u", arm="treatment", config={}, start_s=0.0),
        ),
        provenance={"vllm": {"version": nasty}, HOSTILE: nasty, "deep": nested, "million": million},
    )


def empty() -> Statement:
    """The least that the schema allows: cut off before the first check."""
    return statement(
        "INCONCLUSIVE",
        (),
        why="",
        device={},
        finished=None,
        interrupted=True,
        provenance={},
        started="",
        run_id="",
    )


ALL = {
    "certified_cpu": certified_cpu,
    "failing_h200": failing_h200,
    "mixed": mixed,
    "waived_h200": waived_h200,
    "stale_h200": stale_h200,
    "startup_cpu": startup_cpu,
    "hostile": hostile,
    "empty": empty,
}
