"""The operators of a cell, measured with invariance on and off, as what a check observes."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from packaging.version import Version

from bi_harness.certificate.ops import HOLDS, PLANTED, fact, found, name
from bi_harness.certificate.records import Fact, OpResult
from bi_harness.certificate.statement import EffectiveArm
from bi_harness.device.engine_probe import probe_engine
from bi_harness.engine.config import ArmName
from bi_harness.engine.endpoint import without_keys
from bi_harness.engine.ops.base import Op
from bi_harness.engine.ops.table import OPS
from bi_harness.engine.ops_client import OpRecord, OpsClient, OpsSetup
from bi_harness.errors import EngineError
from bi_harness.invariance.faults.registry import PLANT_VARIABLE
from bi_harness.matrix.cells import Cell
from bi_harness.runner.caches import share_model_infos
from bi_harness.runner.context import Context
from bi_harness.runner.engines import safe_name
from bi_harness.runner.op_shapes import Limits, search
from bi_harness.spec.load import Spec
from bi_harness.spec.operators import Amount

OPS_ENGINE = "ops"
"""What the process that measures is called beside engines."""


@dataclass(frozen=True, slots=True)
class FamilyFound:
    """What one arm gave for one family.

    Attributes:
        ops: in the order of the table, drawn shapes after the model's own.
        facts: of each of them.
        errors: what could not be measured, each with its reason.
    """

    ops: tuple[OpResult, ...]
    facts: tuple[Fact, ...]
    errors: tuple[str, ...]


@dataclass(slots=True)
class ArmFound:
    """What one arm gave.

    Attributes:
        families: by name; those that the process did not live to measure are missing.
        effective: what the process ran; ``None`` where it did not come up.
        provenance: what was installed around it.
        error: why it ended before its time.
        log: of the process.
    """

    log: Path
    families: dict[str, FamilyFound] = field(default_factory=dict)
    effective: EffectiveArm | None = None
    provenance: dict[str, Any] = field(default_factory=dict)
    error: EngineError | None = None


def measure_ops(
    spec: Spec, context: Context, cell: Cell, families: Sequence[str], arms: Sequence[ArmName]
) -> dict[ArmName, ArmFound]:
    """Measure the operators of some families at the shape of the cell's model.

    The arms start side by side; on a CPU they measure in turn, since both take all its cores.

    Nothing is raised for a process that does not come up or dies: what it measured before counts.

    Raises:
        SpecError: the suite's profile is wrong.
    """
    suite = spec.suites[cell.suite]
    amount = Amount.of(suite, context.profile)
    release = Version(probe_engine(context.engine_python).vllm_version or "0")

    turns = threading.Lock() if spec.devices[cell.device].kind == "cpu" else nullcontext()

    def of(arm: ArmName) -> ArmFound:
        label = safe_name(f"{cell.id}-{arm}")
        result = ArmFound(log=Path(context.logs) / f"{label}.log")
        setup = ops_setup(spec, context, cell, arm)
        began = time.monotonic()
        try:
            with OpsClient(setup, Path(context.folder) / label, result.log) as client:
                effective, result.provenance = client.start(suite.timeouts.start_s)
                if Version(effective["vllm"]) != release:
                    raise EngineError(f"vLLM {release} is installed, and {effective['vllm']} is what runs")
                result.effective = EffectiveArm(
                    unit=cell.id,
                    arm=arm,
                    config=effective,
                    start_s=time.monotonic() - began,
                    engine=OPS_ENGINE,
                )
                with turns:
                    deadline = time.monotonic() + suite.timeouts.check_s
                    for family in families:
                        result.families[family] = _family(
                            client, family, amount, context.seed, control=arm == "control", deadline=deadline
                        )
        except EngineError as error:
            result.error = error
        return result

    with ThreadPoolExecutor(len(arms)) as pool:
        return dict(zip(arms, pool.map(of, arms), strict=True))


def ops_setup(spec: Spec, context: Context, cell: Cell, arm: ArmName) -> OpsSetup:
    """What the process of an arm is started with."""
    device, model = spec.devices[cell.device], spec.models[cell.model]
    switch = device.invariance.on if arm == "treatment" else device.invariance.off
    shared = Path(context.shared or Path(context.folder).parent / "shared")
    cache = Path(context.folder) / "ops-cache" / arm
    share_model_infos(cache, shared)
    env = {
        **without_keys(os.environ),
        **device.engine_env,
        **switch,
        "VLLM_CACHE_ROOT": str(cache),
        "TORCHINDUCTOR_CACHE_DIR": str(shared / "inductor"),
        "TRITON_CACHE_DIR": str(shared / "triton"),
        "HF_HUB_OFFLINE": "1",
        "PYTHONHASHSEED": "0",
    }
    if device.kind == "cpu":
        # Threads that wait by spinning take the cores from those that they wait for.
        env |= {"OMP_WAIT_POLICY": "PASSIVE", "KMP_BLOCKTIME": "0"}
    if arm == "control":
        # A fault is planted in what is tested; stock vLLM is the same with and without.
        env.pop(PLANT_VARIABLE, None)
    return OpsSetup(
        python=context.engine_python,
        device=device.kind,
        config=model.config,
        dtype="bfloat16" if model.dtype == "auto" else model.dtype,
        backend=cell.backend,
        max_model_len=model.max_model_len,
        env=env,
        invariance=arm == "treatment" and device.invariance.how != "none",
        capability=device.capability,
        planted=env.get(PLANT_VARIABLE) or None,
        ranks=cell.tp,
    )


def _family(
    client: OpsClient, family: str, amount: Amount, seed: int, *, control: bool, deadline: float
) -> FamilyFound:
    ops: list[OpResult] = []
    facts: list[Fact] = []
    errors: list[str] = []

    def take(record: OpRecord) -> None:
        result = record.result
        if record.error and result.judged:
            errors.append(f"{result.op} {result.dtype}: {record.error}")
            return
        if record.error:
            # What no engine of this model calls is told, and may fail to be.
            result = result.model_copy(update={"missing": f"it could not be measured: {record.error}"[:500]})
            record = OpRecord(result)
        ops.append(result)
        facts.append(_control_fact(record) if control else fact(result))

    for op in OPS:
        if op.family != family:
            continue
        records = client.measure(op.name, amount.effort(seed), planted=control, deadline=deadline)
        for record in records:
            take(record)
        judged = [r for r in records if r.result.judged and not r.error and not r.result.missing]
        if op.drawn and amount.drawn:
            for record in judged:
                take(_drawn(client, op, record.result.dtype, amount, seed, control, deadline))
    return FamilyFound(tuple(ops), tuple(facts), tuple(errors))


def _drawn(
    client: OpsClient, op: Op, dtype: str, amount: Amount, seed: int, control: bool, deadline: float
) -> OpRecord:
    def case(shape: Mapping[str, int], rows: int) -> OpRecord:
        return client.drawn(op.name, dtype, shape, rows, seed, planted=False, deadline=deadline)

    limits = Limits(amount.drawn, amount.drawn_width, min(amount.drawn_rows, op.most_rows), seed)
    result = search(op.drawn, limits, case)
    if not control or result.differing:
        return OpRecord(result)
    # Nothing drawn differs with invariance off: the smallest shape with a difference planted.
    smallest = dict(op.drawn)
    planted = client.drawn(op.name, dtype, smallest, 64, seed, planted=True, deadline=deadline)
    changed = planted.planted.model_copy(update={"drawn": 1}) if planted.planted is not None else None
    return OpRecord(result, planted=changed, planted_what=planted.planted_what)


def _control_fact(record: OpRecord) -> Fact:
    """What was found with invariance off; where no row differs, of a planted difference, and says so.

    An operator that is wrong, or unlike itself, has not shown that a difference by the batch would be seen.
    """
    result = record.result
    if result.missing or result.differing:
        return Fact(name=name(result), found=found(result))
    if record.planted is None or not record.planted.differing:
        return Fact(name=name(result), found=HOLDS)
    return Fact(name=name(result), found=f"{PLANTED}{record.planted_what}: {found(record.planted)}")
