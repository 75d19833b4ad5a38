"""What turns token ids and positions into values: the embedding, and rotary position embeddings."""

from __future__ import annotations

from typing import Any

from bi_harness.engine.ops.accuracy import error
from bi_harness.engine.ops.base import BOTH, Alike, Kind, Made, Op, Setting, find
from bi_harness.engine.ops.gemm import FP32_EPS, values, weights

ANGLE = 6
"""ULP of float32 that an angle may be off: a power, its inverse and a product, each rounded (a GPU's power is
right to 4)."""


class _Embedding(Alike):
    bound = "equal"

    def __init__(self, setting: Setting) -> None:
        import torch

        method, where = find("vllm.model_executor.layers.vocab_parallel_embedding:UnquantizedEmbeddingMethod")
        d = setting.dims
        self._vocab, self._setting = d["vocab"], setting
        self._method, self._layer = method(), torch.nn.Module()
        self._layer.weight = torch.nn.Parameter(
            weights(setting, d["vocab"], d["hidden"]), requires_grad=False
        )
        self.where, self.shape = f"{where}.embedding", f"{d['vocab']} of {d['hidden']}"
        self.row_bytes = 4 * d["hidden"]

    def rows(self, count: int, kind: Kind, generator: Any) -> tuple[Any, ...]:
        import torch

        low = self._vocab - 1 if kind == "large" else 0
        high = 1 if kind == "zeros" else self._vocab
        device = self._setting.device
        return (torch.randint(low, high, (count,), generator=generator, device=device),)

    def call(self, rows: tuple[Any, ...]) -> tuple[Any, ...]:
        return (self._method.embedding(self._layer, rows[0]),)

    def error(self, rows: tuple[Any, ...], results: tuple[Any, ...]) -> float:
        table = self._layer.weight.data
        return 0.0 if results[0].equal(table.index_select(0, rows[0])) else float("inf")


class _Rotary(Alike):
    bound = "3 ULP of the result, and of the pair that it turns"

    def __init__(self, setting: Setting) -> None:
        import torch

        layer, where = find(
            "vllm.model_executor.layers.rotary_embedding:RotaryEmbedding",
            "vllm.model_executor.layers.rotary_embedding.base:RotaryEmbedding",
        )
        d = setting.dims
        dtype = getattr(torch, setting.dtype)
        self._dim, self._heads, self._kv_heads = d["head_dim"], d["heads"], d["kv_heads"]
        self._positions, self._base, self._setting = d["positions"], float(d["rope_theta"]), setting
        # On the device from the start, as engines make it: its table is computed there.
        with torch.device(setting.device):
            self._layer = layer(self._dim, self._dim, self._positions, self._base, True, dtype)
        way = getattr(getattr(self._layer, "_forward_method", None), "__name__", "forward")
        self.where = f"{where}.{way}"
        self.shape = f"{self._heads} and {self._kv_heads} heads of {self._dim}"
        self.row_bytes = 4 * self._dim * self._heads

    def rows(self, count: int, kind: Kind, generator: Any) -> tuple[Any, ...]:
        import torch

        low, high = {"zeros": (0, 1), "large": (self._positions - 1, self._positions)}.get(
            kind, (0, self._positions)
        )
        where = torch.randint(low, high, (count,), generator=generator, device=self._setting.device)
        query, key = (
            values(count, (heads * self._dim,), kind, generator, self._setting)
            for heads in (self._heads, self._kv_heads)
        )
        return where, query, key

    def call(self, rows: tuple[Any, ...]) -> tuple[Any, ...]:
        query, key = self._layer(*rows)
        return query, key

    def error(self, rows: tuple[Any, ...], results: tuple[Any, ...]) -> float:
        import torch

        half = self._dim // 2
        speeds = self._base ** (-torch.arange(0, half, dtype=torch.float64) / half)
        angle = rows[0].cpu().double()[:, None, None] * speeds
        worst = 0.0
        eps = torch.finfo(rows[1].dtype).eps
        for given, found in zip(rows[1:], results, strict=True):
            x = given.cpu().double().view(len(given), -1, self._dim)
            one, other = x[..., :half], x[..., half:]
            right = torch.cat(
                (one * angle.cos() - other * angle.sin(), other * angle.cos() + one * angle.sin()), dim=-1
            )
            # The table of sines has the dtype's precision, and float32's of large angles.
            pair = (one.abs() + other.abs()).repeat(1, 1, 2)
            turned = angle.repeat(1, 1, 2)
            slack = pair * (2 * eps + ANGLE * FP32_EPS * turned)
            worst = max(worst, error(found.view(right.shape), right, ulps=3, slack=slack))
        return worst


def _embedding(setting: Setting) -> Made:
    return _Embedding(setting)


def _rotary(setting: Setting) -> Made:
    return _Rotary(setting)


OPS = (
    Op("embedding", "position", _embedding, called=BOTH),
    Op("rotary", "position", _rotary, called=BOTH),
)
