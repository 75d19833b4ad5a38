"""NVFP4 linear layers on a CPU: the emulation that vLLM has, offered and made invariant."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest

from tests.invariance.plain import answer, python

# One worker of pytest-xdist runs them all, and measures once.
pytestmark = pytest.mark.xdist_group("cpu-nvfp4-layers")

BATCHES = (2, 7, 17, 33, 64, 129, 513)

# Patching is for good, so each measurement has a process of its own.
MEASURE = """
import json, sys
import torch
from types import SimpleNamespace
from bi_harness.invariance import cpu, cpu_nvfp4
from vllm.model_executor.kernels.linear import EmulationNvFp4LinearKernel
from vllm.model_executor.layers.quantization.utils.nvfp4_emulation_utils import ref_nvfp4_quant

patched, batches = json.loads(sys.argv[1])
if patched:
    cpu.enable()
kernel = EmulationNvFp4LinearKernel.__new__(EmulationNvFp4LinearKernel)
found = {"active": cpu.active(), "differing": {}}
for k, n in ((2048, 1024), (4096, 512)):
    torch.manual_seed(k)
    layer = SimpleNamespace(
        weight=torch.randint(0, 256, (n, k // 2), dtype=torch.uint8),
        weight_scale=(torch.rand(n, k // 16) * 4 + 1).to(torch.float8_e4m3fn),
        weight_global_scale=torch.tensor(1 / 448.0),
        input_global_scale_inv=torch.tensor(448.0 * 6 / 64),
    )
    rows = torch.randn(max(batches), k).bfloat16()
    bias = torch.randn(n).bfloat16()
    # Each call unpacks the weights, so no more rows run alone than the first few.
    alone = torch.cat([kernel.apply_weights(layer, row[None], bias) for row in rows[:5]])
    assert alone.isfinite().all() and alone.abs().max() > 0
    differing = []
    for size in batches:
        together = kernel.apply_weights(layer, rows[:size], bias)
        assert together.shape == (size, n)
        first = min(size, len(alone))
        if not torch.equal(together[:first].view(torch.int16), alone[:first].view(torch.int16)):
            differing.append(size)
    found["differing"][f"K={k}"] = differing
print("FOUND" + json.dumps(found))
"""


@cache
def measured(patched: bool) -> dict[str, Any]:
    return answer(MEASURE, patched, BATCHES)


def test_a_row_has_the_same_bits_alone_and_in_every_batch() -> None:
    found = measured(True)
    assert found["differing"] == {"K=2048": [], "K=4096": []}
    assert sum("EmulationNvFp4LinearKernel" in line for line in found["active"]) == 1


@pytest.mark.long
def test_without_the_mode_it_has_not() -> None:
    """Or the test above proves nothing on this host."""
    if not any(measured(False)["differing"].values()):
        pytest.skip("this CPU's kernel happens to be invariant in every shape that is tried")


@pytest.mark.long
def test_it_is_offered_where_vllm_lists_none_and_once() -> None:
    said = python("""
from vllm.model_executor.kernels import linear
from vllm.platforms import PlatformEnum
from bi_harness.invariance import cpu_nvfp4
print([k.__name__ for k in linear._POSSIBLE_NVFP4_KERNELS.get(PlatformEnum.CPU, [])])
cpu_nvfp4.offer()
cpu_nvfp4.offer()
print([k.__name__ for k in linear._POSSIBLE_NVFP4_KERNELS[PlatformEnum.CPU]])
print(type(linear.init_nvfp4_linear_kernel()).__name__)
""")
    assert said.splitlines()[-2:] == ["['EmulationNvFp4LinearKernel']", "EmulationNvFp4LinearKernel"]
