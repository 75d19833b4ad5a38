"""Where the suite of operators runs."""

from __future__ import annotations

import pytest

from bi_harness.matrix.expand import expand
from bi_harness.matrix.select import select
from bi_harness.spec.load import default_paths, load_spec

PATHS = default_paths(environ={})
SPEC = load_spec(PATHS.models, PATHS.hardware, PATHS.suites)
ALL = ("gemm", "norm", "softmax", "attention", "activation", "position", "sampling")


def checks(device: str) -> dict[str, tuple[str, ...]]:
    """By cell."""
    plan = expand(
        SPEC, device, vllm_version="0.33.0", profile="release", weights="named", gpus=8, suites=("ops",)
    )
    selection = select(plan, SPEC)
    return {
        cell.cell.id: selection.checks[cell.cell.id]
        for cell in plan.cells
        if cell.cell.id in selection.checks
    }


def test_a_cpu_has_them_all_at_the_tiny_models_shape() -> None:
    assert checks("cpu") == {
        "cpu/qwen3-tiny/CPU_ATTN/tp1-dp1/eager/ops": ALL,
        "cpu/qwen3-tiny-ranks/CPU_ATTN/tp2-dp1/eager/ops": ("all_reduce",),
    }


@pytest.mark.parametrize("device", ["l4", "a100", "h100", "h200", "b200"])
def test_a_gpu_has_them_once_and_attention_for_each_backend(device: str) -> None:
    found = {cell: names for cell, names in checks(device).items() if names}
    assert found == {
        f"{device}/{model}/{backend}/tp1-dp1/eager/ops": ALL if backend == "FLASH_ATTN" else ("attention",)
        for model in ("qwen3-1.7b", "llama-3.2-1b-instruct")  # attention heads of 128, and of 64
        for backend in ("FLASH_ATTN", "TRITON_ATTN", "FLEX_ATTENTION")
    } | {f"{device}/qwen3-1.7b/FLASH_ATTN/tp2-dp1/eager/ops": ("all_reduce",)}
