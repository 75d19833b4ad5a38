"""Faults in attention and in the KV cache. Each function patches classes of this process's vLLM.

They know a step by the model runner's batch, from before the invariance mode takes it apart.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Step:
    """What runs in one step.

    Attributes:
        starts: where each request's rows begin, and where the last one's end; ``[R + 1]``.
        computed: tokens of each request that were computed in earlier steps, ``[R]``.
        prompts: tokens of each request's prompt, ``[R]``.
        tokens: the first 128 token ids of each request, as bytes.
        resumed: the requests that come back after a preemption, by their place in the batch.
    """

    starts: list[int]
    computed: list[int]
    prompts: list[int]
    tokens: list[bytes]
    resumed: list[int]

    def rows(self, requests: list[int]) -> list[int]:
        """The rows of some requests."""
        return [row for i in requests for row in range(self.starts[i], self.starts[i + 1])]

    def length(self, request: int) -> int:
        """Rows of a request."""
        return self.starts[request + 1] - self.starts[request]


def split_kv() -> None:
    """Stock attention: what the invariance mode wraps is put back."""
    from vllm import _custom_ops
    from vllm.v1.attention.backends.cpu_attn import CPUAttentionMetadataBuilder

    CPUAttentionMetadataBuilder.build = inspect.unwrap(CPUAttentionMetadataBuilder.build)
    for name in ("cpu_attn_get_scheduler_metadata", "cpu_attention_with_kv_cache"):
        setattr(_custom_ops, name, _on_two_threads(inspect.unwrap(getattr(_custom_ops, name))))


def _on_two_threads(call: Callable[..., Any]) -> Callable[..., Any]:
    """The work is split for as many threads as there are, so that with one nothing would be."""
    import torch

    # vLLM puts a function that does nothing in its place later on.
    set_num_threads = torch.set_num_threads

    def called(*args: Any, **kwargs: Any) -> Any:
        threads = torch.get_num_threads()
        set_num_threads(max(2, threads))
        try:
            return call(*args, **kwargs)
        finally:
            set_num_threads(threads)

    return called


def neighbour_tile() -> None:
    """Decoding rows move by a ULP when the step's longest query has 10 tokens or more."""

    def rows(step: Step) -> list[int]:
        requests = range(len(step.computed))
        if max(step.length(i) for i in requests) < 10:
            return []
        return step.rows([i for i in requests if step.length(i) == 1])

    _move_by_a_ulp(rows)


def shared_prefix_cascade() -> None:
    """All rows move by a ULP when 8 requests of a step have the same first 128 tokens."""

    def rows(step: Step) -> list[int]:
        long = [text for text, length in zip(step.tokens, step.prompts, strict=True) if length >= 128]
        return list(range(step.starts[-1])) if any(long.count(text) >= 8 for text in set(long)) else []

    _move_by_a_ulp(rows)


def chunk_boundary() -> None:
    """The first row of a prefill's second and later chunks moves by a ULP."""

    def rows(step: Step) -> list[int]:
        pairs = enumerate(zip(step.computed, step.prompts, strict=True))
        return [step.starts[i] for i, (computed, prompt) in pairs if 0 < computed < prompt - 1]

    _move_by_a_ulp(rows)


def verify_together() -> None:
    """The rows of a decoding request that has several of them move by a ULP."""

    def rows(step: Step) -> list[int]:
        pairs = enumerate(zip(step.computed, step.prompts, strict=True))
        return step.rows([i for i, (computed, prompt) in pairs if computed >= prompt and step.length(i) > 1])

    _move_by_a_ulp(rows)


def recomputed() -> None:
    """The rows of a request that is recomputed after a preemption move by a ULP."""
    _move_by_a_ulp(lambda step: step.rows(step.resumed))


def stale_block() -> None:
    """The last block of a hit in the prefix cache has what the block before it in the cache has."""
    from vllm.v1.worker.gpu_model_runner import GPUModelRunner

    stock = GPUModelRunner.execute_model

    def execute_model(self: Any, scheduler_output: Any, *args: Any, **kwargs: Any) -> Any:
        for request in scheduler_output.scheduled_new_reqs:
            hit = request.num_computed_tokens // self.cache_config.block_size
            if hit:
                block, cache = request.block_ids[0][hit - 1], self.kv_caches[0]
                blocks = cache.movedim(list(cache.shape).index(self.cache_config.num_gpu_blocks), 0)
                blocks[block] = blocks[block - 1]
        return stock(self, scheduler_output, *args, **kwargs)

    GPUModelRunner.execute_model = execute_model


def _move_by_a_ulp(rows: Callable[[Step], list[int]]) -> None:
    """Flip the last bit of every layer's attention output in these rows of a step."""
    import torch
    from vllm.v1.attention.backends.cpu_attn import CPUAttentionBackendImpl
    from vllm.v1.worker.gpu_model_runner import GPUModelRunner

    execute, run_model = GPUModelRunner.execute_model, GPUModelRunner._model_forward
    attend = CPUAttentionBackendImpl.forward
    resumed: set[str] = set()
    chosen: list[int] = []

    def execute_model(self: Any, scheduler_output: Any, *args: Any, **kwargs: Any) -> Any:
        resumed.clear()
        resumed.update(scheduler_output.scheduled_cached_reqs.resumed_req_ids)
        return execute(self, scheduler_output, *args, **kwargs)

    def model_forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        batch = self.input_batch
        count = batch.num_reqs
        step = Step(
            starts=self.query_start_loc.np[: count + 1].tolist(),
            computed=batch.num_computed_tokens_cpu[:count].tolist(),
            prompts=batch.num_prompt_tokens[:count].tolist(),
            tokens=[batch.token_ids_cpu[i, :128].tobytes() for i in range(count)],
            resumed=sorted(batch.req_id_to_index[name] for name in resumed),
        )
        # Warm-up runs have no requests.
        chosen[:] = rows(step) if count else []
        try:
            return run_model(self, *args, **kwargs)
        finally:
            chosen.clear()

    def forward(
        self: Any,
        layer: Any,
        query: Any,
        key: Any,
        value: Any,
        kv_cache: Any,
        attn_metadata: Any,
        output: Any,
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        out = attend(self, layer, query, key, value, kv_cache, attn_metadata, output, *args, **kwargs)
        if chosen and attn_metadata is not None:
            bits = out.view(torch.int16 if out.element_size() == 2 else torch.int32)
            bits[chosen] ^= 1
        return out

    GPUModelRunner.execute_model = execute_model
    GPUModelRunner._model_forward = model_forward
    CPUAttentionBackendImpl.forward = forward
