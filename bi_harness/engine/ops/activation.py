"""The activation of a gated feed-forward layer."""

from __future__ import annotations

from typing import Any

from bi_harness.engine.ops.accuracy import error
from bi_harness.engine.ops.base import BOTH, Alike, Kind, Made, Op, Setting, find
from bi_harness.engine.ops.gemm import FP32_EPS, values


class _SiluAndMul(Alike):
    bound = "3 ULP of the result"

    def __init__(self, setting: Setting) -> None:
        layer, where = find("vllm.model_executor.layers.activation:SiluAndMul")
        self._layer, self._setting = layer(), setting
        self._width = setting.dims["intermediate"]
        way = getattr(getattr(self._layer, "_forward_method", None), "__name__", "forward")
        self.where, self.shape = f"{where}.{way}", str(self._width)
        self.row_bytes = 8 * self._width

    def rows(self, count: int, kind: Kind, generator: Any) -> tuple[Any, ...]:
        return (values(count, (2 * self._width,), kind, generator, self._setting),)

    def call(self, rows: tuple[Any, ...]) -> tuple[Any, ...]:
        return (self._layer(rows[0]),)

    def error(self, rows: tuple[Any, ...], results: tuple[Any, ...]) -> float:
        import torch

        x = rows[0].cpu().double()
        gate, up = x.chunk(2, dim=-1)
        expected = gate * torch.sigmoid(gate) * up
        return error(results[0], expected, ulps=3, slack=8 * FP32_EPS * expected.abs())


def _made(setting: Setting) -> Made:
    return _SiluAndMul(setting)


OPS = (Op("silu_and_mul", "activation", _made, called=BOTH, drawn={"intermediate": 8}),)
