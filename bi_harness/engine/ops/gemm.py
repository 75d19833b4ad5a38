"""Matrix products: a model's linear layers through vLLM's own methods, and those of torch."""

from __future__ import annotations

from functools import partial
from typing import Any

from bi_harness.engine.ops.accuracy import error
from bi_harness.engine.ops.base import BOTH, CUDA, LARGE, Alike, Kind, Made, Op, Setting, find

FP32_EPS = 2.0**-23
COLUMNS = 2048
"""Of a result that are held against float64, at most."""


def values(count: int, shape: tuple[int, ...], kind: Kind, generator: Any, setting: Setting) -> Any:
    """Rows of that kind, in the setting's dtype."""
    import torch

    dtype = getattr(torch, setting.dtype)
    if kind == "zeros":
        return torch.zeros(count, *shape, dtype=dtype, device=setting.device)
    drawn = torch.randn(count, *shape, generator=generator, dtype=dtype, device=setting.device)
    # float16 ends at 65504: what is large there stays finite.
    return (drawn * LARGE).clamp(-6e4, 6e4) if kind == "large" else drawn


def weights(setting: Setting, *shape: int) -> Any:
    """A matrix whose products stay of order one, ``shape[-1]`` being summed over."""
    import torch

    stream = torch.Generator(setting.device).manual_seed(setting.seed + 1)
    drawn = torch.randn(*shape, generator=stream, dtype=torch.float32, device=setting.device)
    return (drawn / shape[-1] ** 0.5).to(getattr(torch, setting.dtype))


class _Product(Alike):
    """``call(x)`` with a weight ``[N, K]``; a row has ``K`` values."""

    def __init__(self, setting: Setting, where: str, n: int, k: int, weight: Any, call: Any) -> None:
        self.where, self.shape, self._call = where, f"{k} to {n}", call
        self._setting, self._k, self._n = setting, k, n
        self._columns = slice(0, n, max(1, n // COLUMNS))
        self._weight = weight[self._columns].cpu().double()
        self.bound = "1 ULP of the result, and 16 of float32 of the sum of |x w|"
        self.row_bytes = 4 * max(n, k)

    def rows(self, count: int, kind: Kind, generator: Any) -> tuple[Any, ...]:
        return (values(count, (self._k,), kind, generator, self._setting),)

    def call(self, rows: tuple[Any, ...]) -> tuple[Any, ...]:
        return (self._call(rows[0]),)

    def error(self, rows: tuple[Any, ...], results: tuple[Any, ...]) -> float:
        x, weight = rows[0].cpu().double(), self._weight
        expected = x @ weight.T
        slack = 16 * FP32_EPS * (x.abs() @ weight.T.abs())
        return error(results[0][:, self._columns], expected, ulps=1, slack=slack)


class _Batched(_Product):
    """``torch.bmm`` of ``B`` matrices; a row is that row of each."""

    def __init__(self, setting: Setting, b: int, n: int, k: int) -> None:
        import torch

        weight = weights(setting, b, k, n)
        super().__init__(setting, "torch.bmm", n, k, weight[0].T, None)
        self.shape, self._b, self._all = f"{b} times {k} to {n}", b, weight
        self.row_bytes = 4 * b * max(n, k)
        self._bmm = torch.bmm

    def rows(self, count: int, kind: Kind, generator: Any) -> tuple[Any, ...]:
        return (values(count, (self._b, self._k), kind, generator, self._setting),)

    def call(self, rows: tuple[Any, ...]) -> tuple[Any, ...]:
        import torch

        # Looked up anew: the mode puts its own in torch's place.
        return (torch.bmm(rows[0].transpose(0, 1).contiguous(), self._all).transpose(0, 1).contiguous(),)

    def error(self, rows: tuple[Any, ...], results: tuple[Any, ...]) -> float:
        x, weight = rows[0].cpu().double(), self._all.cpu().double()
        slack = 16 * FP32_EPS * _each(x.abs(), weight.abs())
        return error(results[0], _each(x, weight), ulps=1, slack=slack)


def _each(x: Any, weight: Any) -> Any:
    return (x.transpose(0, 1) @ weight).transpose(0, 1)


def _layer(names: tuple[str, ...], prefix: str, setting: Setting, n: int, k: int) -> Made:
    """A linear layer, as vLLM's method for unquantized ones applies it."""
    import torch

    method, where = find(*names)
    layer = torch.nn.Module()
    layer.prefix = prefix  # type: ignore[assignment]
    weight = weights(setting, n, k)
    layer.weight = torch.nn.Parameter(weight.clone(), requires_grad=False)
    applied = method()
    applied.process_weights_after_loading(layer)
    return _Product(setting, f"{where}.apply", n, k, weight, lambda x: applied.apply(layer, x))


def _linear(prefix: str, setting: Setting, n: int, k: int) -> Made:
    return _layer(("vllm.model_executor.layers.linear:UnquantizedLinearMethod",), prefix, setting, n, k)


def _qkv(setting: Setting) -> Made:
    d = setting.dims
    n = (d["heads"] + 2 * d["kv_heads"]) * d["head_dim"]
    return _linear("model.layers.0.self_attn.qkv_proj", setting, n, d["hidden"])


def _o(setting: Setting) -> Made:
    d = setting.dims
    return _linear("model.layers.0.self_attn.o_proj", setting, d["hidden"], d["heads"] * d["head_dim"])


def _gate_up(setting: Setting) -> Made:
    d = setting.dims
    return _linear("model.layers.2.mlp.gate_up_proj", setting, 2 * d["intermediate"], d["hidden"])


def _down(setting: Setting) -> Made:
    d = setting.dims
    return _linear("model.layers.1.mlp.down_proj", setting, d["hidden"], d["intermediate"])


def _lm_head(setting: Setting) -> Made:
    d = setting.dims
    name = "vllm.model_executor.layers.vocab_parallel_embedding:UnquantizedEmbeddingMethod"
    return _layer((name,), "lm_head", setting, d["vocab"], d["hidden"])


def _torch(name: str, setting: Setting) -> Made:
    import torch

    d = setting.dims
    n, k = d["hidden"], d["intermediate"]
    weight = weights(setting, n, k)
    right = weight.T
    bias = torch.zeros(n, dtype=weight.dtype, device=weight.device)
    calls = {
        "matmul": lambda x: torch.matmul(x, right),
        "mm": lambda x: torch.mm(x, right),
        "addmm": lambda x: torch.addmm(bias, x, right),
        "linear": lambda x: torch.nn.functional.linear(x, weight),
    }
    return _Product(setting, f"torch.{name}", n, k, weight, calls[name])


def _bmm(setting: Setting) -> Made:
    d = setting.dims
    return _Batched(setting, d["kv_heads"], d["head_dim"], d["hidden"] // 2)


OPS = (
    Op("linear_qkv", "gemm", _qkv, promised=BOTH, called=BOTH, drawn={"hidden": 16, "head_dim": 16}),
    Op("linear_o", "gemm", _o, promised=BOTH, called=BOTH),
    Op("linear_gate_up", "gemm", _gate_up, promised=BOTH, called=BOTH),
    Op(
        "linear_down",
        "gemm",
        _down,
        promised=BOTH,
        called=BOTH,
        drawn={"intermediate": 16, "hidden": 16},
    ),
    Op("lm_head", "gemm", _lm_head, promised=BOTH, called=BOTH),
    *(
        Op(f"torch_{name}", "gemm", partial(_torch, name), promised=CUDA)
        for name in ("mm", "matmul", "addmm", "linear")
    ),
    Op("torch_bmm", "gemm", _bmm, promised=CUDA),
)
