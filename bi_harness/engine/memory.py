"""How much memory an engine's KV cache needs for a workload, and whether two engines fit. Pure."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bi_harness.spec.hardware import DeviceSpec
    from bi_harness.spec.models import ModelSpec

GIB = 1024**3
_BLOCK_TOKENS = 256
"""Requests are rounded up to so many tokens: no backend's KV block is larger."""

_SPARE_BLOCKS = 16
_SMALLEST = GIB // 4
_OVERHEAD_GIB = 8.0
"""For the CUDA context, activations, workspaces and CUDA graphs of one engine."""


def kv_cache_bytes(
    model: ModelSpec, *, layers: int, tp: int, max_num_seqs: int, max_model_len: int
) -> int | None:
    """Bytes of KV cache, on each GPU, that hold the largest batch with every request at its longest.

    Given to vLLM, it takes the place of memory profiling, which two engines on one GPU disturb for each
    other.

    Args:
        layers: layers that run (fewer than the model's own with ``--layers``).

    Returns:
        ``None`` for a hybrid model: its layers' states are not of one size, and vLLM must measure.
    """
    config = model.config
    if model.attention == "hybrid":
        return None
    if model.attention == "mla":
        width = int(config["kv_lora_rank"]) + int(config["qk_rope_head_dim"])  # not split over tp
    else:
        heads = int(config.get("num_key_value_heads", config["num_attention_heads"]))
        head_dim = int(config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"])
        width = 2 * max(1, heads // tp) * head_dim
    element = 4 if model.dtype == "float32" else 2
    blocks = max_num_seqs * -(-max_model_len // _BLOCK_TOKENS) + _SPARE_BLOCKS
    return max(_SMALLEST, blocks * _BLOCK_TOKENS * width * layers * element)


def two_fit(model: ModelSpec, device: DeviceSpec, *, layers: int, tp: int, kv_bytes: int | None) -> bool:
    """Whether treatment and control can be up at the same time.

    On a CPU they always share the host's memory. On GPUs each needs its share of the weights, its KV cache
    and some room; where they do not fit, or the KV cache is not known, one ends before the other starts.
    """
    if device.kind == "cpu":
        return True
    if kv_bytes is None:
        return False
    return 2 * engine_gib(model, layers=layers, tp=tp, kv_bytes=kv_bytes) <= device.memory_gib * 0.9


def engine_gib(model: ModelSpec, *, layers: int, tp: int, kv_bytes: int) -> float:
    """GiB of each GPU that one engine takes: its share of the weights, its KV cache, and some room."""
    return model.memory_gib * layers / model.layers / tp + kv_bytes / GIB + _OVERHEAD_GIB


def gpu_share(model: ModelSpec, device: DeviceSpec, *, layers: int, tp: int, kv_bytes: int) -> float:
    """``gpu_memory_utilization`` of an engine whose KV cache is given: the share of a GPU that it takes.

    vLLM then measures no memory, but still refuses to start where less than this share is free: with the
    share that an engine alone may have, no other could be on the GPU before it.
    """
    need = engine_gib(model, layers=layers, tp=tp, kv_bytes=kv_bytes) / device.memory_gib
    return min(0.9, math.ceil(need * 100) / 100)
