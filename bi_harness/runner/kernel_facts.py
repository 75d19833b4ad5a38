"""The kernels that vLLM chose, as facts: asked of its selection, and read back from an engine's layers."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from packaging.version import Version

from bi_harness.certificate.records import Fact
from bi_harness.certificate.statement import EffectiveArm
from bi_harness.device.engine_probe import probe_engine
from bi_harness.engine.config import ArmName
from bi_harness.engine.kernel_choice import ask, cases, facts
from bi_harness.errors import EngineError, SpecError
from bi_harness.invariance.faults.registry import PLANT_VARIABLE
from bi_harness.matrix.cells import Cell
from bi_harness.runner.context import Context
from bi_harness.spec.hardware import DeviceSpec
from bi_harness.spec.load import SELECTION, Spec
from bi_harness.spec.selection import SelectionSpec

SELECTION_ENGINE = "selection"
"""What the process that is asked is called beside engines."""
READ_BACK = ("nvfp4_linear", "nvfp4_experts")
"""What an engine's effective configuration calls its kernels, with the number of layers that have each."""


def chosen_kernels(
    spec: Spec, context: Context, cell: Cell, arms: Sequence[ArmName]
) -> dict[ArmName, tuple[tuple[Fact, ...], EffectiveArm]]:
    """What vLLM's selection takes in every case of the suite's table, and what was asked, for each arm.

    The arms run side by side.

    Raises:
        SpecError: the suite has no table.
        EngineError: vLLM gave no answer.
    """
    table = _table(spec, cell)
    release = Version(probe_engine(context.engine_python).vllm_version or "0")
    device = spec.devices[cell.device]
    timeout_s = spec.suites[cell.suite].timeouts.start_s

    def of(arm: ArmName) -> tuple[tuple[Fact, ...], EffectiveArm]:
        env = {**os.environ, **device.engine_env}
        if arm == "control":
            env.pop(PLANT_VARIABLE, None)
        name = f"kernels-{arm}"
        asked = cases(table, release, invariant=arm == "treatment")
        answers = ask(
            context.engine_python,
            asked,
            env=env,
            folder=Path(context.folder) / name,
            log=Path(context.logs) / f"{name}.log",
            timeout_s=timeout_s,
        )
        if answers.vllm != release:
            raise EngineError(f"vLLM {release} is installed, and {answers.vllm} is what runs")
        planted = env.get(PLANT_VARIABLE) or None
        if answers.planted_fault != planted:
            raise EngineError(f"{planted or 'no fault'} was to be planted, and {answers.planted_fault} is")
        config = {
            "vllm": str(answers.vllm),
            "platform": device.kind,
            "invariance": arm == "treatment",
            "cases": len(asked),
            **({"planted_fault": planted} if planted else {}),
        }
        what = EffectiveArm(
            unit=cell.id, arm=arm, config=config, start_s=answers.seconds, engine=SELECTION_ENGINE
        )
        return facts(table, release, answers.chosen), what

    with ThreadPoolExecutor(len(arms)) as pool:
        return dict(zip(arms, pool.map(of, arms), strict=True))


def kernels_of(spec: Spec, cell: Cell, effective: Mapping[str, Any]) -> tuple[Fact, ...]:
    """The NVFP4 kernels of an engine's layers. On GPUs the linear ones are judged; elsewhere they are told.

    Args:
        effective: what the engine read back.

    Raises:
        EngineError: no layer has such a kernel: the checkpoint is not what it was to be.
    """
    found = {name: effective[name] for name in READ_BACK if effective.get(name)}
    if not found:
        raise EngineError(f"the engine of {cell.id} has no layer with an NVFP4 kernel")
    device, table = spec.devices[cell.device], _table(spec, cell)
    right = table.table(Version(effective["vllm"]))
    judged = right is not None and device.kind == "cuda"
    return tuple(
        Fact(
            name=name,
            found=", ".join(sorted(kernels)),
            expected=(right.right[host_of(device)],) if right and judged and name == READ_BACK[0] else (),
            source=right.source if right and judged else "",
        )
        for name, kernels in found.items()
    )


def host_of(device: DeviceSpec) -> str:
    """Which host of the table a device is."""
    major = int((device.capability or "0.0").partition(".")[0])
    return "blackwell" if major >= 10 else "hopper" if major == 9 else "other"


def _table(spec: Spec, cell: Cell) -> SelectionSpec:
    try:
        return spec.selection[cell.suite]
    except KeyError:
        folder = spec.paths.suites / cell.suite
        raise SpecError(f"{folder}: no {SELECTION}, by which {cell.id} is judged") from None
