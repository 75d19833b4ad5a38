"""What an engine's NVFP4 kernels are as facts."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from bi_harness.errors import EngineError, SpecError
from bi_harness.matrix.cells import Cell
from bi_harness.runner.kernel_facts import host_of, kernels_of
from bi_harness.spec.load import default_paths, load_spec

_paths = default_paths(environ={})
SHIPPED = load_spec(_paths.models, _paths.hardware, _paths.suites)
CPU = Cell("cpu", "qwen3-nvfp4-tiny", "CPU_ATTN", 1, 1, "eager", "nvfp4")
EFFECTIVE: dict[str, Any] = {"vllm": "0.32.0", "nvfp4_linear": {"EmulationNvFp4LinearKernel": 8}}


@pytest.mark.parametrize(
    ("device", "host"),
    [("cpu", "other"), ("a100", "other"), ("l4", "other"), ("h200", "hopper"), ("b200", "blackwell")],
)
def test_a_device_is_one_of_the_tables_hosts(device: str, host: str) -> None:
    assert host_of(SHIPPED.devices[device]) == host


def test_on_a_cpu_they_are_told() -> None:
    (fact,) = kernels_of(SHIPPED, CPU, EFFECTIVE)
    assert (fact.name, fact.found, fact.judged) == ("nvfp4_linear", "EmulationNvFp4LinearKernel", False)


@pytest.mark.parametrize(
    ("device", "kernel", "wrong"),
    [
        ("h200", "EmulationNvFp4LinearKernel", False),
        ("h200", "MarlinNvFp4LinearKernel", True),
        ("b200", "CutlassNvFp4LinearKernel", False),
        ("b200", "EmulationNvFp4LinearKernel", True),
    ],
)
def test_on_gpus_the_linear_ones_are_judged(device: str, kernel: str, wrong: bool) -> None:
    effective = {**EFFECTIVE, "nvfp4_linear": {kernel: 8}, "nvfp4_experts": {"MARLIN": 4}}
    linear, experts = kernels_of(SHIPPED, replace(CPU, device=device), effective)
    assert (linear.judged, linear.wrong) == (True, wrong)
    assert (experts.found, experts.judged) == ("MARLIN", False)


def test_two_kernels_in_one_engine_are_not_the_right_one() -> None:
    both = {**EFFECTIVE, "nvfp4_linear": {"EmulationNvFp4LinearKernel": 4, "MarlinNvFp4LinearKernel": 4}}
    (fact,) = kernels_of(SHIPPED, replace(CPU, device="h200"), both)
    assert fact.wrong


def test_a_checkpoint_that_is_not_nvfp4_is_an_error() -> None:
    with pytest.raises(EngineError, match="no layer with an NVFP4 kernel"):
        kernels_of(SHIPPED, CPU, {"vllm": "0.32.0", "nvfp4_linear": {}})


def test_a_suite_without_a_table_judges_nothing() -> None:
    with pytest.raises(SpecError, match=r"nvfp4: no selection.yaml, by which h200/qwen3-nvfp4-tiny/"):
        kernels_of(replace(SHIPPED, selection={}), replace(CPU, device="h200"), EFFECTIVE)
