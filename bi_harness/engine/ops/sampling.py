"""What is left of the logits by top-k and top-p, and the token that a seeded request then draws."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import cache
from typing import Any

from bi_harness.engine.ops.base import BOTH, Alike, Kind, Made, Op, Setting, find, second_runner
from bi_harness.engine.ops.gemm import values

MOST_ROWS = 1024
"""Engines sample for no more requests in one step."""
CLOSE = 1e-4
"""How far a sum of float32 probabilities may be from p."""

POSITIONS = 1021
"""Of the drawn tokens in their requests, by the seed."""


class _Filter(Alike):
    """``apply_top_k_top_p``: logits, of which some are minus infinity afterwards."""

    bound = f"the tokens that top-k and top-p leave, within {CLOSE:g} of p"

    def __init__(self, setting: Setting) -> None:
        self._apply, self.where = find("vllm.v1.sample.ops.topk_topp_sampler:apply_top_k_top_p")
        self._setting, self._vocab = setting, setting.dims["vocab"]
        self.shape, self.row_bytes = str(self._vocab), 16 * self._vocab

    def rows(self, count: int, kind: Kind, generator: Any) -> tuple[Any, ...]:
        """Logits, k (all of the vocabulary for none) and p (1 for none)."""
        import torch

        device = self._setting.device
        logits = values(count, (self._vocab,), kind, generator, self._setting) * 4
        k = torch.randint(1, 64, (count,), generator=generator, device=device, dtype=torch.int32)
        p = torch.rand(count, generator=generator, device=device) * 0.5 + 0.5
        which = torch.randint(0, 3, (count,), generator=generator, device=device)
        # Requests with k alone, with p alone, and with both, side by side.
        return logits, k.masked_fill(which == 1, self._vocab), p.masked_fill(which == 0, 1.0)

    def call(self, rows: tuple[Any, ...]) -> tuple[Any, ...]:
        return (self._apply(*rows),)

    def error(self, rows: tuple[Any, ...], results: tuple[Any, ...]) -> float:
        logits, kept = rows[0].cpu(), results[0].cpu() > -float("inf")
        if not results[0].cpu()[kept].equal(logits[kept]):
            return float("inf")
        by_k, above = _left(logits, rows[1].cpu(), rows[2].cpu())
        if (kept & ~by_k).any() or not kept.any(dim=1).all():
            return float("inf")
        # A token on the wrong side of p, by how much of the probability.
        wrong = by_k & (kept != (above > 0))
        return float((above.abs() * wrong).max()) / CLOSE


class _Sample(_Filter):
    """``TopKTopPSampler``: the drawn token of requests with a seed each, beside others without one."""

    bound = "a token that top-k and top-p leave"

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        sampler, self.where = find("vllm.v1.sample.ops.topk_topp_sampler:TopKTopPSampler")
        self._sampler = sampler()

    def subjects(self, count: int, generator: Any) -> tuple[Any, ...]:
        """Logits, k, p and the seed of each request."""
        import torch

        rows = super().rows(count, "random", generator)
        return (*rows, torch.arange(count, device=self._setting.device))

    def rows(self, count: int, kind: Kind, generator: Any) -> tuple[Any, ...]:
        """The same; every second one has no seed, which is -1."""
        import torch

        rows = super().rows(count, kind, generator)
        seeds = torch.arange(count, device=self._setting.device) + 1_000_000
        return (*rows, seeds.masked_fill(seeds % 2 == 1, -1))

    def call(self, rows: tuple[Any, ...]) -> tuple[Any, ...]:
        import torch

        logits, k, p, seeds = rows
        generators = {
            i: torch.Generator(self._setting.device).manual_seed(seed)
            for i, seed in enumerate(seeds.tolist())
            if seed >= 0
        }
        tokens = self._sampler(logits, generators, k, p)[0].view(-1, 1)
        # What has no seed is drawn anew each time, and is nobody's to compare.
        return (tokens.masked_fill((seeds < 0)[:, None], -1),)

    def error(self, rows: tuple[Any, ...], results: tuple[Any, ...]) -> float:
        by_k, above = _left(rows[0].cpu(), rows[1].cpu(), rows[2].cpu())
        token = results[0].cpu().long()
        if not by_k.gather(1, token).all():
            return float("inf")
        return float((-above.gather(1, token)).clamp(min=0).max()) / CLOSE


class _Gumbel(_Sample):
    """The same by the second runner's sampler: noise from a request's seed and the token's position.

    There a request without a seed has one that vLLM drew; here it has none, and is nobody's to compare.
    """

    def __init__(self, setting: Setting) -> None:
        _Filter.__init__(self, setting)
        self._draw, self.where = find("vllm.v1.worker.gpu.sample.gumbel:gumbel_sample")

    def call(self, rows: tuple[Any, ...]) -> tuple[Any, ...]:
        import torch

        logits, k, p, seeds = rows
        tokens = self._draw(
            self._apply(logits, k, p),
            torch.arange(len(logits), dtype=torch.int32, device=logits.device),
            torch.ones(len(logits), device=logits.device),
            seeds,
            seeds % POSITIONS,
            apply_temperature=False,
            **_drafting(self._draw),
        ).view(-1, 1)
        return (tokens.masked_fill((seeds < 0)[:, None], -1),)


@cache
def _drafting(draw: Callable[..., Any]) -> dict[str, bool]:
    """The argument that ``gumbel_sample`` requires since vLLM 0.33; nothing for a release without it."""
    return {"is_drafting": False} if "is_drafting" in inspect.signature(draw).parameters else {}


def _left(logits: Any, k: Any, p: Any) -> tuple[Any, Any]:
    """Which tokens k leaves; and by how much of the probability each is above what p cuts off, in float64.

    The most probable one is above it by 1, whatever p is.
    """
    import torch

    values, order = logits.double().sort(dim=-1)
    by_k = values >= values.gather(1, logits.shape[1] - k.long()[:, None])
    sums = values.masked_fill(~by_k, -float("inf")).softmax(dim=-1).cumsum(dim=-1)
    above = sums - (1 - p.double()[:, None])
    above[:, -1] = 1.0
    return torch.zeros_like(by_k).scatter(1, order, by_k), torch.zeros_like(above).scatter(1, order, above)


def _filter(setting: Setting) -> Made:
    return _Filter(setting)


def _sample(setting: Setting) -> Made:
    return _Gumbel(setting) if second_runner(setting) else _Sample(setting)


OPS = (
    Op("top_k_top_p", "sampling", _filter, ("float32",), called=BOTH, most_rows=MOST_ROWS),
    Op("sample", "sampling", _sample, ("float32",), called=BOTH, most_rows=MOST_ROWS),
)
