"""Faults in linear layers and norms. Each function patches classes of this process's vLLM."""

from __future__ import annotations

import inspect
import random
from collections.abc import Callable
from itertools import pairwise
from typing import Any

Apply = Callable[..., Any]


def norm_256() -> None:
    """RMSNorm by another order of summation from 256 tokens on."""
    import torch
    from vllm.model_executor.layers.layernorm import RMSNorm

    stock = RMSNorm.forward

    def forward(self: Any, x: Any, residual: Any = None) -> Any:
        if x.shape[0] < 256:
            return stock(self, x) if residual is None else stock(self, x, residual)
        wide = x.float()
        if residual is not None:
            wide = wide + residual.float()
            residual = wide.to(x.dtype)
        square = wide * wide
        total = torch.zeros_like(square[..., :1])
        for block in square.split(64, dim=-1):
            total = total + block.sum(dim=-1, keepdim=True)
        out = (wide * torch.rsqrt(total / x.shape[-1] + self.variance_epsilon)).to(x.dtype) * self.weight
        return out if residual is None else (out, residual)

    RMSNorm.forward = forward


def gemm_m16() -> None:
    """Split-K above 16 rows."""
    _linear(lambda apply, self, layer, x, bias: _split_k(apply, self, layer, x, bias, x.shape[0] > 16))


def gemm_m64() -> None:
    """Split-K above 64 rows."""
    _linear(lambda apply, self, layer, x, bias: _split_k(apply, self, layer, x, bias, x.shape[0] > 64))


def lm_head() -> None:
    """Split-K in the lm_head alone, and no padding."""
    from vllm.model_executor.layers.vocab_parallel_embedding import UnquantizedEmbeddingMethod

    stock = inspect.unwrap(UnquantizedEmbeddingMethod.apply)

    def apply(self: Any, layer: Any, x: Any, bias: Any = None) -> Any:
        return _split_k(stock, self, layer, x, bias, x.shape[0] > 1)

    UnquantizedEmbeddingMethod.apply = apply


def lm_head_m64() -> None:
    """Split-K in the lm_head alone, in batches that few engines ever have."""
    from vllm.model_executor.layers.vocab_parallel_embedding import UnquantizedEmbeddingMethod

    stock = UnquantizedEmbeddingMethod.apply

    def apply(self: Any, layer: Any, x: Any, bias: Any = None) -> Any:
        return _split_k(stock, self, layer, x, bias, x.shape[0] > 64)

    UnquantizedEmbeddingMethod.apply = apply


def one_projection() -> None:
    """The stock kernel in one projection."""
    _linear(
        lambda apply, self, layer, x, bias: inspect.unwrap(apply)(self, layer, x, bias),
        "layers.1.mlp.down_proj",
    )


def tensor_scale() -> None:
    """One int8 scale over all the rows of a step."""

    def quantized(apply: Apply, self: Any, layer: Any, x: Any, bias: Any) -> Any:
        scale = x.abs().max().float().clamp(min=1e-8) / 127
        return apply(self, layer, ((x.float() / scale).round() * scale).to(x.dtype), bias)

    _linear(quantized, "layers.2.mlp.gate_up_proj")


def atomics() -> None:
    """Parts of K are added in a random order, another one in each call and each process."""
    # A generator of its own: torch's would move the requests' random streams too.
    order = random.SystemRandom()

    def shuffled(apply: Apply, self: Any, layer: Any, x: Any, bias: Any) -> Any:
        if x.shape[0] == 1:
            return apply(self, layer, x, bias)
        edges = [x.shape[-1] * i // 4 for i in range(5)]
        parts = [_only(x, a, b) for a, b in pairwise(edges)]
        order.shuffle(parts)
        total = apply(self, layer, parts[0], bias)
        for part in parts[1:]:
            total = total + apply(self, layer, part, None)
        return total

    _linear(shuffled, "layers.0.mlp.down_proj")


def padded_rows() -> None:
    """What the last batch left in the padding is added to the last real row."""
    stale: list[Any] = []

    def leaking(apply: Apply, self: Any, layer: Any, x: Any, bias: Any) -> Any:
        out = apply(self, layer, x, bias)
        fresh = out[-1].clone()
        if stale and x.shape[0] > 1 and x.shape[0] % 16:
            out[-1] += stale[0] / 64
        stale[:] = [fresh]
        return out

    _linear(leaking, "layers.3.mlp.down_proj")


def _linear(change: Callable[[Apply, Any, Any, Any, Any], Any], name: str = "") -> None:
    """Run ``change`` in place of a linear layer: of all, or of those whose prefix ends with ``name``."""
    from vllm.model_executor.layers.linear import UnquantizedLinearMethod

    stock = UnquantizedLinearMethod.apply

    def apply(self: Any, layer: Any, x: Any, bias: Any = None) -> Any:
        if name and not str(getattr(layer, "prefix", "")).endswith(name):
            return stock(self, layer, x, bias)
        return change(stock, self, layer, x, bias)

    UnquantizedLinearMethod.apply = apply


def _split_k(apply: Apply, self: Any, layer: Any, x: Any, bias: Any, split: bool) -> Any:
    if not split:
        return apply(self, layer, x, bias)
    half = x.shape[-1] // 2
    first = apply(self, layer, _only(x, 0, half), bias)
    return first + apply(self, layer, _only(x, half, x.shape[-1]), None)


def _only(x: Any, start: int, end: int) -> Any:
    """``x`` with zeros outside of these columns: vLLM has repacked the weight, so it cannot be cut."""
    part = x.new_zeros(x.shape)
    part[..., start:end] = x[..., start:end]
    return part
