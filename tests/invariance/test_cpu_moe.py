"""Mixture of experts under the CPU invariance mode, on a real vLLM's gate, routing and experts' kernel."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest

from tests.invariance.plain import answer, python

# One worker of pytest-xdist runs them all, and measures once.
pytestmark = pytest.mark.xdist_group("cpu-moe-layers")

BATCHES = (2, 3, 7, 16, 17, 33, 64, 65, 257, 900)

# Patching is for good, so each measurement has a process of its own. The parts of a layer run as its forward
# runs them; the layer itself would want a process group.
MEASURE = """
import json, sys
from types import SimpleNamespace
import torch
from bi_harness.invariance import cpu
from vllm.config import VllmConfig, set_current_vllm_config
from vllm.model_executor.layers.fused_moe.activation import MoEActivation
from vllm.model_executor.layers.fused_moe.experts import cpu_moe
from vllm.model_executor.layers.fused_moe.router.cpu_router import CPURouter
from vllm.model_executor.layers.linear import UnquantizedLinearMethod
from vllm._custom_ops import cpu_prepack_moe_weight

patched, batches = json.loads(sys.argv[1])
if patched:
    cpu.enable()

EXPERTS, TOP_K, HIDDEN, WIDTH = 16, 4, 1536, 128
ROUTINGS = {
    "softmax": {},
    "grouped sigmoid": {
        "use_grouped_topk": True, "num_expert_group": 4, "topk_group": 2, "scoring_func": "sigmoid",
        "e_score_correction_bias": torch.linspace(-0.1, 0.1, EXPERTS),
    },
}

def same_bits(a, b):
    kind = torch.int16 if a.dtype == torch.bfloat16 else torch.int32
    return torch.equal(a.contiguous().view(kind), b.contiguous().view(kind))

def experts_class(dtype):
    amx = cpu_moe.X86CPUUnquantizedExperts
    stock = cpu_moe.CPUUnquantizedExperts
    return amx if amx._supports_current_device() and dtype == torch.bfloat16 else stock

def layer_of(dtype, router):
    draw = lambda *shape: (torch.randn(*shape) / shape[-1] ** 0.5).to(dtype)
    linear, gate = UnquantizedLinearMethod(), torch.nn.Module()
    gate.weight = torch.nn.Parameter(draw(EXPERTS, HIDDEN), requires_grad=False)
    linear.process_weights_after_loading(gate)
    kind = experts_class(dtype)
    experts = SimpleNamespace(isa=kind.isa, _use_zentorch=False, w1_bias=None, w2_bias=None)
    w13 = cpu_prepack_moe_weight(draw(EXPERTS, 2 * WIDTH, HIDDEN), kind.isa)
    w2 = cpu_prepack_moe_weight(draw(EXPERTS, HIDDEN, WIDTH), kind.isa)

    def layer(x):
        weights, ids = router.select_experts(x, linear.apply(gate, x), torch.int32)
        out = torch.empty_like(x)
        kind.apply(
            experts, out, x, w13, w2, weights, ids, MoEActivation.SILU, EXPERTS,
            None, None, None, None, None, None, False,
        )
        return weights, out

    return layer

found = {"active": cpu.active(), "differing": {}}
with set_current_vllm_config(VllmConfig()), torch.no_grad():
    for name, routing in ROUTINGS.items():
        for dtype in (torch.bfloat16, torch.float32):
            torch.manual_seed(0)
            layer = layer_of(dtype, CPURouter(top_k=TOP_K, global_num_experts=EXPERTS, **routing))
            rows = torch.randn(max(batches), HIDDEN).to(dtype)
            alone = [torch.cat(part) for part in zip(*(layer(rows[i : i + 1]) for i in range(len(rows))))]
            assert alone[1].isfinite().all() and alone[1].float().std() > 0.01
            found["differing"][f"{name} {str(dtype)[6:]}"] = [
                size
                for size in batches
                if not all(same_bits(a, b[:size]) for a, b in zip(layer(rows[:size]), alone))
            ]
print("FOUND" + json.dumps(found))
"""


@cache
def measured(patched: bool) -> dict[str, Any]:
    return answer(MEASURE, patched, BATCHES)


def test_a_row_has_the_same_bits_alone_and_in_every_batch() -> None:
    found = measured(True)
    assert len(found["differing"]) == 4
    assert {label: sizes for label, sizes in found["differing"].items() if sizes} == {}


@pytest.mark.long
def test_without_the_mode_it_has_not() -> None:
    """Or the test above proves nothing on this host."""
    found = measured(False)
    if not any(found["differing"].values()):
        pytest.skip("this CPU's kernels happen to be invariant in every shape that is tried")


def test_the_mode_says_what_it_patched() -> None:
    active = measured(True)["active"]
    for name in ("CPURouter._compute_routing", "MoERunner._select_forward"):
        assert sum(name in line for line in active) == 1


@pytest.mark.long
def test_the_layer_is_the_opaque_custom_op() -> None:
    """Inlined, the routing and every fault in it would be compiled for the number of tokens of the trace."""
    said = python("""
from types import SimpleNamespace
import torch
from bi_harness.invariance import cpu
from vllm.model_executor.layers.fused_moe.runner.moe_runner import MoERunner
stock = MoERunner._select_forward
cpu.enable()
for shared, op in ((None, torch.ops.vllm.moe_forward), (object(), torch.ops.vllm.moe_forward_shared)):
    runner = SimpleNamespace(shared_experts=shared, _shared_experts=shared)
    assert MoERunner._select_forward(runner) is op
    print(stock(runner) is op)
""")
    assert said.split()[-2:] == ["False", "False"]


@pytest.mark.long
def test_routing_in_blocks_passes_on_every_row_and_what_belongs_to_it() -> None:
    said = python("""
import torch
from vllm.model_executor.layers.fused_moe.router.cpu_router import CPURouter
seen = []
def compute_routing(self, hidden_states, router_logits, indices_type, *, input_ids=None):
    seen.append((len(hidden_states), len(router_logits), input_ids if input_ids is None else len(input_ids)))
    return router_logits[:, :2] + hidden_states[:, :2], router_logits[:, :2].int() + input_ids[:, None]
CPURouter._compute_routing = compute_routing
from bi_harness.invariance import cpu
cpu.enable()
x, logits, ids = torch.rand(130, 8), torch.arange(130.0 * 4).view(130, 4), torch.arange(130)
weights, experts = CPURouter._compute_routing(None, x, logits, torch.int32, input_ids=ids)
assert torch.equal(weights, logits[:, :2] + x[:, :2])
assert torch.equal(experts, logits[:, :2].int() + ids[:, None])
assert weights.is_contiguous() and experts.is_contiguous()
print(seen)
""")
    assert said.strip().splitlines()[-1] == str([(64, 64, 64)] * 3)


@pytest.mark.long
def test_a_vllm_with_half_of_it_is_refused() -> None:
    said = python("""
from vllm.model_executor.layers.fused_moe.router.cpu_router import CPURouter
del CPURouter._compute_routing
del CPURouter.__mro__[1]._compute_routing
from vllm.model_executor.layers.linear import UnquantizedLinearMethod
stock = UnquantizedLinearMethod.apply
from bi_harness.invariance import cpu
try:
    cpu.enable()
except RuntimeError as error:
    print(error)
assert cpu.active() == () and UnquantizedLinearMethod.apply is stock
""")
    assert "_compute_routing" in said


@pytest.mark.long
def test_a_vllm_without_experts_on_a_cpu_is_left_alone() -> None:
    said = python("""
import sys
from bi_harness.invariance import cpu
# What else is patched comes first: this vLLM's own modules import the router, too.
from vllm.model_executor.layers import linear, vocab_parallel_embedding
from vllm.v1.attention.backends import cpu_attn
sys.modules["vllm.model_executor.layers.fused_moe.router.cpu_router"] = None
cpu.enable()
print(any("MoE" in line or "Router" in line for line in cpu.active()), len(cpu.active()) > 2)
""")
    assert said.split()[-2:] == ["False", "True"]
