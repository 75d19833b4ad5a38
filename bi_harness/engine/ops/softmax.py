"""Reductions over a row: softmax, log-softmax as vLLM's sampler calls it, and the mean."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from bi_harness.engine.ops.accuracy import error
from bi_harness.engine.ops.base import BOTH, CUDA, Alike, Kind, Made, Op, Setting, find, second_runner
from bi_harness.engine.ops.gemm import FP32_EPS, values


class Reduction(Alike):
    """A function of a row of ``width`` values. Sums of many terms lose a little more in float32."""

    def __init__(
        self,
        setting: Setting,
        where: str,
        width: int,
        call: Callable[[Any], Any],
        right: Callable[[Any], Any],
        *,
        slack: Callable[[Any, Any], Any],
    ) -> None:
        self.where, self.shape, self._call, self._right = where, str(width), call, right
        self._setting, self._width, self._slack = setting, width, slack
        self.bound = "1 ULP of the result, and 64 of float32 of its scale"
        self.row_bytes = 4 * width

    def rows(self, count: int, kind: Kind, generator: Any) -> tuple[Any, ...]:
        # Logits of a model are spread wider than one.
        return (values(count, (self._width,), kind, generator, self._setting) * 4,)

    def call(self, rows: tuple[Any, ...]) -> tuple[Any, ...]:
        return (self._call(rows[0]),)

    def error(self, rows: tuple[Any, ...], results: tuple[Any, ...]) -> float:
        x = rows[0].cpu().double()
        expected = self._right(x)
        return error(results[0], expected, ulps=1, slack=64 * FP32_EPS * self._slack(x, expected))


TOKENS = 64
"""Of each row, whose logprobs the second runner is asked for: spread over the vocabulary."""


class TokenLogprobs(Alike):
    """Logprobs of some tokens, from logits in the dtype that the model gives them in.

    Args:
        call: of logits and token ids, ``[R, TOKENS]``.
        dtype: of the logits.
    """

    bound = "1 ULP of the result, and 64 of float32 of its scale"

    def __init__(self, setting: Setting, where: str, call: Callable[[Any, Any], Any], dtype: Any) -> None:
        import torch

        self.where, self._call, self._setting, self._dtype = where, call, setting, dtype
        self._vocab = setting.dims["vocab"]
        self.shape, self.row_bytes = str(self._vocab), 4 * self._vocab
        self._tokens = torch.linspace(
            0, self._vocab - 1, min(TOKENS, self._vocab), device=setting.device
        ).long()

    def rows(self, count: int, kind: Kind, generator: Any) -> tuple[Any, ...]:
        return ((values(count, (self._vocab,), kind, generator, self._setting) * 4).to(self._dtype),)

    def call(self, rows: tuple[Any, ...]) -> tuple[Any, ...]:
        return (self._call(rows[0], self._tokens.expand(len(rows[0]), -1).contiguous()),)

    def error(self, rows: tuple[Any, ...], results: tuple[Any, ...]) -> float:
        x = rows[0].cpu().double()
        expected = x.log_softmax(dim=-1)[:, self._tokens.cpu()]
        slack = 64 * FP32_EPS * (x.abs().amax(dim=-1, keepdim=True) + expected.abs())
        return error(results[0], expected, ulps=1, slack=slack)


def _sampler(setting: Setting) -> Made:
    import torch

    if second_runner(setting):
        call, where = find("vllm.v1.worker.gpu.sample.logprob:compute_token_logprobs")
        return TokenLogprobs(setting, where, call, setting.vllm_config.model_config.dtype)
    sampler, where = find("vllm.v1.sample.sampler:Sampler")
    # A plain function in some releases, a method in others.
    made = sampler()
    return Reduction(
        setting,
        f"{where}.compute_logprobs",
        setting.dims["vocab"],
        lambda x: made.compute_logprobs(x),
        lambda x: torch.log_softmax(x, dim=-1),
        slack=lambda x, right: x.abs().amax(dim=-1, keepdim=True) + right.abs(),
    )


def _softmax(setting: Setting) -> Made:
    import torch

    return Reduction(
        setting,
        "torch.softmax",
        setting.dims["vocab"],
        lambda x: x.softmax(dim=-1, dtype=torch.float32),
        lambda x: torch.softmax(x, dim=-1),
        slack=lambda x, right: right * (1 + x.abs().amax(dim=-1, keepdim=True)),
    )


def _mean(setting: Setting) -> Made:
    import torch

    return Reduction(
        setting,
        "torch.mean",
        setting.dims["hidden"],
        lambda x: torch.mean(x, dim=-1, keepdim=True),
        lambda x: x.mean(dim=-1, keepdim=True),
        slack=lambda x, right: x.abs().mean(dim=-1, keepdim=True),
    )


OPS = (
    # Logits are float32 before anything is made of them; the mean is inside of the native norms.
    Op(
        "log_softmax",
        "softmax",
        _sampler,
        ("float32",),
        promised=CUDA,
        called=BOTH,
        drawn={"vocab": 1},
        most_rows=1024,
    ),
    Op("softmax", "softmax", _softmax, ("float32",), promised=CUDA, called=BOTH, most_rows=1024),
    Op("mean", "softmax", _mean, promised=CUDA, drawn={"hidden": 1}, times=4),
)
