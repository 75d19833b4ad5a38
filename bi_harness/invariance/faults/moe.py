"""Faults in mixture-of-experts layers.

They need the CPU invariance mode, whose opaque MoE op runs them uncompiled in compile mode, too: in a
compiled graph the number of tokens would be the one that it was traced with.
"""

from __future__ import annotations

from typing import Any


def moe_combine() -> None:
    """The experts' outputs are summed from the last to the first above 16 tokens."""
    from vllm.model_executor.layers.fused_moe.experts.cpu_moe import CPUUnquantizedExperts

    stock = CPUUnquantizedExperts.apply

    def apply(
        self: Any,
        output: Any,
        hidden_states: Any,
        w1: Any,
        w2: Any,
        topk_weights: Any,
        topk_ids: Any,
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        if hidden_states.shape[0] > 16:
            # The kernel adds in this order.
            topk_weights, topk_ids = topk_weights.flip(-1), topk_ids.flip(-1)
        return stock(self, output, hidden_states, w1, w2, topk_weights, topk_ids, *args, **kwargs)

    CPUUnquantizedExperts.apply = apply


def moe_routing() -> None:
    """Router logits keep three bits of mantissa above 16 tokens: close calls go to another expert."""
    import torch
    from vllm.model_executor.layers.fused_moe.router.cpu_router import CPURouter

    stock = CPURouter._compute_routing

    def compute_routing(self: Any, hidden_states: Any, router_logits: Any, *args: Any, **kwargs: Any) -> Any:
        if router_logits.shape[0] > 16:
            router_logits = router_logits.to(torch.float8_e4m3fn).to(router_logits.dtype)
        return stock(self, hidden_states, router_logits, *args, **kwargs)

    CPURouter._compute_routing = compute_routing
