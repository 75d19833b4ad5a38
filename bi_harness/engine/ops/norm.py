"""Norms: vLLM's layers as engines call them, and the C++ kernels below them, quantized ones included.

Which way a layer takes (torch, a Triton kernel, a C++ kernel) is vLLM's choice by platform, mode and release.
"""

from __future__ import annotations

from typing import Any

from bi_harness.engine.ops.accuracy import error
from bi_harness.engine.ops.base import BOTH, CUDA, Alike, Kind, Made, Missing, Op, Setting, find
from bi_harness.engine.ops.gemm import FP32_EPS, values

SCALE = 0.05
"""Of static FP8 quantization: normal values times it stay inside FP8's range."""


class _Norm(Alike):
    """A norm over the last axis of ``x``, of ``width`` values in ``groups`` of a row each."""

    bound = "3 ULP of the result, and 64 of float32"

    def __init__(self, setting: Setting, where: str, width: int, groups: int = 0) -> None:
        import torch

        self.where, self._setting = where, setting
        self._axes = (groups, width) if groups else (width,)
        self.shape = " x ".join(map(str, self._axes))
        self.row_bytes = 4 * width * max(1, groups)
        stream = torch.Generator(setting.device).manual_seed(setting.seed + 2)
        drawn = torch.randn(width, generator=stream, device=setting.device)
        self.weight = (1 + 0.1 * drawn).to(getattr(torch, setting.dtype))
        self.eps = float(setting.dims["eps"])

    def rows(self, count: int, kind: Kind, generator: Any) -> tuple[Any, ...]:
        return (values(count, self._axes, kind, generator, self._setting),)

    def expected(self, x: Any) -> Any:
        """In float64, of float64."""
        import torch

        mean = (x * x).mean(dim=-1, keepdim=True)
        return x * torch.rsqrt(mean + self.eps) * self.weight.cpu().double()


class _Layer(_Norm):
    """``RMSNorm`` of vLLM's layers."""

    def __init__(self, setting: Setting, width: int, groups: int = 0) -> None:
        import torch

        layer, where = find("vllm.model_executor.layers.layernorm:RMSNorm")
        super().__init__(setting, where, width, groups)
        # On the device from the start, as engines make it.
        with torch.device(setting.device):
            self._layer = layer(width, eps=self.eps, dtype=getattr(torch, setting.dtype))
        self._layer.weight.data.copy_(self.weight)
        self.where = f"{where}.{_way(self._layer)}"

    def call(self, rows: tuple[Any, ...]) -> tuple[Any, ...]:
        return (self._layer(rows[0]),)

    def error(self, rows: tuple[Any, ...], results: tuple[Any, ...]) -> float:
        expected = self.expected(rows[0].cpu().double())
        return error(results[0], expected, ulps=3, slack=64 * FP32_EPS * expected.abs())


class _FusedAdd(_Layer):
    """The same with the residual added before: gives the norm and the sum."""

    def rows(self, count: int, kind: Kind, generator: Any) -> tuple[Any, ...]:
        return tuple(values(count, self._axes, kind, generator, self._setting) for _ in range(2))

    def call(self, rows: tuple[Any, ...]) -> tuple[Any, ...]:
        found = self._layer(rows[0], rows[1])
        return tuple(found)

    def error(self, rows: tuple[Any, ...], results: tuple[Any, ...]) -> float:
        x, residual = (part.cpu().double() for part in rows)
        # Some kernels round the sum before the norm, some do not: half an ULP of the larger summand.
        rounding = (x.abs() + residual.abs()) * _eps(results[0]) / 2
        total = self.expected(x + residual)
        size = (x + residual).square().mean(dim=-1, keepdim=True).sqrt()
        slack = 64 * FP32_EPS * total.abs() + 2 * rounding / size
        return max(
            error(results[0], total, ulps=3, slack=slack),
            error(results[1], x + residual, ulps=1, slack=FP32_EPS * rounding),
        )


class _Kernel(_Norm):
    """The C++ kernel below the layer."""

    def __init__(self, setting: Setting, width: int) -> None:
        import torch

        self._op = _kernel("rms_norm", setting)
        super().__init__(setting, "torch.ops._C.rms_norm", width)
        self._empty = torch.empty_like

    def call(self, rows: tuple[Any, ...]) -> tuple[Any, ...]:
        out = self._empty(rows[0])
        self._op(out, rows[0], self.weight, self.eps)
        return (out,)

    def error(self, rows: tuple[Any, ...], results: tuple[Any, ...]) -> float:
        expected = self.expected(rows[0].cpu().double())
        return error(results[0], expected, ulps=3, slack=64 * FP32_EPS * expected.abs())


class _Static(_Norm):
    """A norm whose result is quantized to FP8 with a given scale."""

    bound = "1 ULP of FP8"

    def __init__(self, setting: Setting, width: int, *, residual: bool) -> None:
        import torch

        name = f"{'fused_add_' if residual else ''}rms_norm_static_fp8_quant"
        self._op, self._residual = _kernel(name, setting), residual
        super().__init__(setting, f"torch.ops._C.{name}", width)
        self._dtype = find("vllm.platforms:current_platform")[0].fp8_dtype()
        self._scale = torch.full((1,), SCALE, device=setting.device)

    def rows(self, count: int, kind: Kind, generator: Any) -> tuple[Any, ...]:
        parts = 2 if self._residual else 1
        return tuple(values(count, self._axes, kind, generator, self._setting) for _ in range(parts))

    def call(self, rows: tuple[Any, ...]) -> tuple[Any, ...]:
        import torch

        out = torch.empty(rows[0].shape, dtype=self._dtype, device=rows[0].device)
        if self._residual:
            self._op(out, rows[0], rows[1], self.weight, self._scale, self.eps)
            return out, rows[1]
        self._op(out, rows[0], self.weight, self._scale, self.eps)
        return (out,)

    def error(self, rows: tuple[Any, ...], results: tuple[Any, ...]) -> float:
        total = sum(part.cpu().double() for part in rows)
        return _fp8_error(results[0], self.expected(total) / SCALE)


class _PerToken(_Norm):
    """A norm whose result is quantized to FP8 with a scale for each row."""

    bound = "1 ULP of FP8, scales to 1%"

    def __init__(self, setting: Setting, width: int) -> None:
        _kernel("rms_norm_dynamic_per_token_quant", setting)
        self._op, where = find("vllm._custom_ops:rms_norm_dynamic_per_token_quant")
        super().__init__(setting, where, width)
        self._dtype = find("vllm.platforms:current_platform")[0].fp8_dtype()

    def call(self, rows: tuple[Any, ...]) -> tuple[Any, ...]:
        out, scales = self._op(rows[0], self.weight, self.eps, self._dtype)
        return out, scales

    def error(self, rows: tuple[Any, ...], results: tuple[Any, ...]) -> float:
        import torch

        expected = self.expected(rows[0].cpu().double())
        scales = results[1].cpu().double()
        right = expected.abs().amax(dim=-1, keepdim=True) / torch.finfo(self._dtype).max
        return max(
            _fp8_error(results[0], expected / scales), ((scales / right - 1).abs().max() / 0.01).item()
        )


def _fp8_error(result: Any, expected: Any) -> float:
    import torch

    most = torch.finfo(result.dtype).max
    found, expected = result.float().cpu().double(), expected.clamp(-most, most)
    step = torch.maximum(expected.abs() * torch.finfo(result.dtype).eps, torch.tensor(2.0**-9))
    worst = ((found - expected).abs() / step).max().item()
    return float("inf") if worst != worst else float(worst)


def _eps(values: Any) -> float:
    import torch

    return float(torch.finfo(values.dtype).eps)


def _kernel(name: str, setting: Setting) -> Any:
    import torch

    if setting.device == "cpu":
        raise Missing(f"torch.ops._C.{name} is a GPU's kernel; vLLM on a CPU takes torch's operators")
    find("vllm._custom_ops:rms_norm")  # loads the library
    try:
        return getattr(torch.ops._C, name)
    except AttributeError:
        raise Missing(f"this vLLM has no torch.ops._C.{name}") from None


def _way(layer: Any) -> str:
    """Which of a custom operator's ways it takes on this platform."""
    return str(getattr(getattr(layer, "_forward_method", None), "__name__", "forward"))


def _qk(setting: Setting) -> Made:
    return _Layer(setting, setting.dims["head_dim"], setting.dims["heads"])


FLOAT = ("float32",)
HALF = ("bfloat16", "float16")
WIDTH = {"hidden": 8}

TIMES = 4
"""Sums of 64 in place of torch's turn a bit of a bfloat16 result in 0.5% of rows that are 2,048 wide,
and in 0.02% of those that are 256 wide (measured)."""

OPS = (
    Op(
        "rms_norm",
        "norm",
        lambda s: _Layer(s, s.dims["hidden"]),
        promised=CUDA,
        called=BOTH,
        drawn=WIDTH,
        times=TIMES,
        also=FLOAT,
    ),
    Op(
        "fused_add_rms_norm",
        "norm",
        lambda s: _FusedAdd(s, s.dims["hidden"]),
        promised=CUDA,
        called=BOTH,
        drawn=WIDTH,
        times=TIMES,
        also=FLOAT,
    ),
    Op("qk_rms_norm", "norm", _qk, promised=CUDA, called=BOTH, times=TIMES, also=FLOAT),
    # Below the layer, and fused for quantized checkpoints in compile mode: no eager engine calls them.
    Op("rms_norm_kernel", "norm", lambda s: _Kernel(s, s.dims["hidden"]), times=TIMES),
    Op(
        "rms_norm_static_fp8",
        "norm",
        lambda s: _Static(s, s.dims["hidden"], residual=False),
        HALF,
        times=TIMES,
    ),
    Op(
        "fused_add_rms_norm_static_fp8",
        "norm",
        lambda s: _Static(s, s.dims["hidden"], residual=True),
        HALF,
        times=TIMES,
    ),
    Op("rms_norm_per_token_fp8", "norm", lambda s: _PerToken(s, s.dims["hidden"]), HALF, times=TIMES),
)
