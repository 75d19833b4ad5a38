"""The CPU invariance mode on a real vLLM's own functions: no engine, but its layers and kernels."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest

from tests.invariance.plain import answer, python

# One worker of pytest-xdist runs them all, and measures once.
pytestmark = pytest.mark.xdist_group("cpu-layers")

BATCHES = (2, 3, 7, 16, 17, 33, 64, 65, 96, 256, 257, 513)

# Patching is for good, so each measurement has a process of its own. Compared are the first rows of
# every batch and the last of each size up to its own, since a kernel may treat the tail apart.
MEASURE = """
import json, sys
import torch
from bi_harness.invariance import cpu
from vllm.config import VllmConfig, set_current_vllm_config
from vllm.model_executor.layers import linear, vocab_parallel_embedding
from vllm.plugins import load_general_plugins

patched, batches = json.loads(sys.argv[1])
classes = {
    "linear": linear.UnquantizedLinearMethod,
    "lm_head": vocab_parallel_embedding.UnquantizedEmbeddingMethod,
}
before = {name: kind.apply for name, kind in classes.items()}
if patched:
    cpu.enable()
    once = {name: kind.apply for name, kind in classes.items()}
    cpu.enable()
    assert once == {name: kind.apply for name, kind in classes.items()}, "patched twice"
    assert all(once[name] is not before[name] for name in classes)
    assert once["linear"].__wrapped__ is before["linear"]

def same_bits(a, b):
    kind = torch.int16 if a.dtype == torch.bfloat16 else torch.int32
    return torch.equal(a.contiguous().view(kind), b.contiguous().view(kind))

found = {"active": cpu.active(), "differing": {}}
with set_current_vllm_config(VllmConfig()), torch.no_grad():
    for name, kind in classes.items():
        for dtype in (torch.bfloat16, torch.float32):
            for k, n in ((256, 4096), (2048, 256), (4096, 1024)):
                torch.manual_seed(k)
                method, layer = kind(), torch.nn.Module()
                # As create_weights() makes it, but for the loader, which wants a process group.
                layer.weight = torch.nn.Parameter((torch.randn(n, k) / k**0.5).to(dtype), requires_grad=False)
                method.process_weights_after_loading(layer)
                rows = torch.randn(max(batches), k).to(dtype)
                some = sorted({0, 1, 2, *(size - 1 for size in batches)})
                alone = torch.cat([method.apply(layer, rows[i : i + 1]) for i in some])
                differing = []
                for size in batches:
                    together = method.apply(layer, rows[:size])
                    assert together.shape == (size, n)
                    inside = [i for i in some if i < size]
                    together, reference = together[inside], alone[: len(inside)]
                    assert torch.allclose(together.float(), reference.float(), rtol=0.05, atol=0.05)
                    if not same_bits(together, reference):
                        differing.append(size)
                label = f"{name} {str(dtype)[6:]} K={k}"
                found["differing"][label] = differing
print("FOUND" + json.dumps(found))
"""


@cache
def measured(patched: bool) -> dict[str, Any]:
    return answer(MEASURE, patched, BATCHES)


def test_a_row_has_the_same_bits_alone_and_in_every_batch() -> None:
    found = measured(True)
    assert len(found["differing"]) == 12
    assert {label: sizes for label, sizes in found["differing"].items() if sizes} == {}


@pytest.mark.long
def test_without_the_mode_it_has_not() -> None:
    """Or the test above proves nothing on this host."""
    found = measured(False)
    if not any(found["differing"].values()):
        pytest.skip("this CPU's kernels happen to be invariant in every shape that is tried")


def test_the_mode_says_what_it_patched_and_stock_says_nothing() -> None:
    assert measured(False)["active"] == []
    active = measured(True)["active"]
    assert len(active) == len(set(active)) >= 4
    for name in (
        "UnquantizedLinearMethod",
        "UnquantizedEmbeddingMethod",
        "enable_kv_split=False",
        "CPUAttentionMetadataBuilder.build",
        "expand_batch_to_tokens",
    ):
        assert sum(name in line for line in active) == 1


@pytest.mark.long
def test_attention_never_splits_the_keys_and_refuses_what_it_does_not_know() -> None:
    said = python("""
from vllm import _custom_ops
seen = []
_custom_ops.cpu_attn_get_scheduler_metadata = lambda *a, **k: seen.append((a, k)) or "metadata"
from bi_harness.invariance import cpu
cpu.enable()
assert _custom_ops.cpu_attn_get_scheduler_metadata(enable_kv_split=True, num_reqs=3) == "metadata"
assert seen == [((), {"enable_kv_split": False, "num_reqs": 3})], seen
try:
    _custom_ops.cpu_attn_get_scheduler_metadata(3, True)
except RuntimeError as error:
    print(error)
assert len(seen) == 1
""")
    assert "enable_kv_split is not passed by name" in said


def test_vllm_passes_the_split_by_name() -> None:
    """The signature that the patch is written for is the one that this vLLM has."""
    said = python("""
import inspect
from vllm import _custom_ops
print(list(inspect.signature(_custom_ops.cpu_attn_get_scheduler_metadata).parameters))
""")
    assert "enable_kv_split" in said


TOKENS = """
from dataclasses import dataclass, replace
from types import SimpleNamespace
import torch
from vllm.v1.attention.backends import cpu_attn
seen = []
def build(self, common_prefix_len, common, fast_build=False):
    seen.append(common)
    return "metadata"
cpu_attn.CPUAttentionMetadataBuilder.build = build
from bi_harness.invariance import cpu
cpu.enable()

@dataclass
class Common:
    num_reqs: int
    num_actual_tokens: int
    max_query_len: int
    query_start_loc: torch.Tensor
    seq_lens: torch.Tensor
    block_table_tensor: torch.Tensor
    causal: object = True

# Two requests, and a third that is padding: a chunk of 3 tokens after 7, and a decode of the fifth token.
common = Common(
    2, 4, 3, torch.tensor([0, 3, 4, 4], dtype=torch.int32), torch.tensor([10, 5, 0], dtype=torch.int32),
    torch.tensor([[1, 2], [3, 4], [0, 0]], dtype=torch.int32),
)
decoder = SimpleNamespace(is_cross_attention=False, is_encoder_only_attention=False)
wrapped = cpu_attn.CPUAttentionMetadataBuilder.build
"""


@pytest.mark.long
def test_every_token_attends_to_the_keys_up_to_itself_as_a_request_of_its_own() -> None:
    said = python(
        TOKENS
        + """
assert wrapped(decoder, 0, common) == "metadata"
(split,) = seen
print([split.num_reqs, split.max_query_len, split.query_start_loc.tolist(), split.seq_lens.tolist()])
print(split.block_table_tensor.tolist())
assert split.seq_lens.dtype == split.query_start_loc.dtype == torch.int32
assert common.num_reqs == 2 and common.query_start_loc.tolist() == [0, 3, 4, 4], "the runner's own is changed"
"""
    )
    assert said.splitlines()[-2:] == [
        "[4, 1, [0, 1, 2, 3, 4], [8, 9, 10, 5]]",
        "[[1, 2], [1, 2], [1, 2], [3, 4]]",
    ]


@pytest.mark.long
def test_attention_that_is_not_causal_is_left_alone() -> None:
    python(
        TOKENS
        + """
for builder, given in (
    (SimpleNamespace(is_cross_attention=True, is_encoder_only_attention=False), common),
    (SimpleNamespace(is_cross_attention=False, is_encoder_only_attention=True), common),
    (decoder, replace(common, causal=False)),
):
    wrapped(builder, 0, given)
    assert seen.pop() is given
"""
    )


EXPAND = """
import json, sys
import torch
from bi_harness.invariance import cpu
from vllm.platforms import current_platform
from vllm.v1.sample import rejection_sampler

(patched,) = json.loads(sys.argv[1])
current_platform.import_kernels()
current_platform.register_triton_kernel_overrides()
if patched:
    cpu.enable()

def expanded(values, *replaced):
    held = [torch.full((6,), 7.5) for _ in range(64)]
    del held  # what new memory is likely to hold
    counts = torch.tensor([2, 5, 6], dtype=torch.int32)
    return rejection_sampler.expand_batch_to_tokens(values, counts, 6, *replaced).tolist()

print("FOUND" + json.dumps({
    "temperature": expanded(torch.tensor([0.75, 0.0, 1.5]), 0, 1),
    "top_k": expanded(torch.tensor([3, 9, 4], dtype=torch.int32)),
    "nothing": expanded(torch.tensor([0.5, 0.25, 0.125])),
}))
"""


@pytest.mark.long
def test_what_verified_tokens_are_sampled_with_is_what_was_asked_for() -> None:
    assert answer(EXPAND, True) == {
        "temperature": [0.75, 0.75, 1.0, 1.0, 1.0, 1.5],
        "top_k": [3, 3, 9, 9, 9, 4],
        "nothing": [0.5, 0.5, 0.25, 0.25, 0.25, 0.125],
    }


@pytest.mark.long
def test_stock_vllm_never_writes_it() -> None:
    """When this fails vLLM has mended it, and the mode need not."""
    assert answer(EXPAND, False)["temperature"] != [0.75, 0.75, 1.0, 1.0, 1.0, 1.5]
