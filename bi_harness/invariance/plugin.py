"""The entry point that vLLM calls in each of its processes (group ``vllm.general_plugins``)."""

from __future__ import annotations

import json
import os
from pathlib import Path

from bi_harness.invariance.faults import registry

CPU_INVARIANCE_VARIABLE = "BI_HARNESS_CPU_INVARIANCE"
CPU_NVFP4_VARIABLE = "BI_HARNESS_CPU_NVFP4"
"""Whether vLLM's NVFP4 emulation is to be offered on a CPU, where vLLM itself offers no NVFP4 kernel."""


def register() -> None:
    """Switch on what the environment asks for. vLLM may call it several times in a process.

    Raises:
        RuntimeError: when invariance was asked for and this vLLM has not the functions it patches. vLLM
            logs a plugin's exception and carries on, so the worker reads ``cpu.active()`` back and refuses.
        ValueError: for a fault that there is not. The worker reads ``planted()`` back and refuses, too.
    """
    from bi_harness.engine import step_probe

    folder = os.environ.get(step_probe.STEP_LOG_VARIABLE)
    if folder:
        step_probe.install(folder)
    if os.environ.get(CPU_NVFP4_VARIABLE) == "1":
        from bi_harness.invariance import cpu_nvfp4

        cpu_nvfp4.offer()
    if os.environ.get(CPU_INVARIANCE_VARIABLE) == "1":
        from bi_harness.invariance import cpu

        cpu.enable()
    if fault := os.environ.get(registry.PLANT_VARIABLE):
        registry.plant(fault)
    if folder:
        # A server answers from a process that no worker can speak for.
        told = {"planted_fault": registry.planted()}
        Path(folder, f"plugin-{os.getpid()}.json").write_text(json.dumps(told), encoding="utf-8")
