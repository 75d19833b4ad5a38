"""Operators' distance from float64: small for what is right, and large for what only looks like it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from bi_harness.engine.ops import sampling, softmax  # noqa: E402
from bi_harness.engine.ops.base import Setting, second_runner  # noqa: E402
from bi_harness.engine.ops.gemm import _Batched, _Product, weights  # noqa: E402

DIMS = {"hidden": 96, "intermediate": 160, "vocab": 500, "eps": 1e-6}


def setting(dtype: str = "bfloat16") -> Setting:
    return Setting("cpu", 3, DIMS, dtype)


def product(dtype: str, change: Callable[[Any], Any] = lambda out: out) -> float:
    weight = weights(setting(dtype), 64, 160)
    made = _Product(setting(dtype), "x", 64, 160, weight, lambda x: change(x @ weight.T))
    rows = made.subjects(8, torch.Generator().manual_seed(1))
    return made.error(rows, made.call(rows))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_a_product_is_right_and_nearly_one_is_wrong(dtype: str) -> None:
    assert product(dtype) <= 1
    assert product(dtype, torch.zeros_like) > 1
    assert product(dtype, torch.ones_like) > 1
    assert product(dtype, lambda out: out * 1.02) > 1
    assert product(dtype, lambda out: out.roll(1, dims=0)) > 1  # another row's result


def test_a_batched_product_has_a_row_of_each() -> None:
    made = _Batched(setting(), 3, 16, 48)
    rows = made.subjects(5, torch.Generator().manual_seed(1))
    (out,) = made.call(rows)
    assert out.shape == (5, 3, 16)
    assert made.error(rows, (out,)) <= 1
    assert made.error(rows, (out.flip(1),)) > 1


def test_reductions_are_right_and_constants_are_not() -> None:
    for make in (softmax._softmax, softmax._mean):
        made = make(setting("float32"))
        rows = made.subjects(6, torch.Generator().manual_seed(1))
        (out,) = made.call(rows)
        assert made.error(rows, (out,)) <= 1
        assert made.error(rows, (torch.zeros_like(out),)) > 1
        assert made.error(rows, (out * 1.001,)) > 1


def filtered(rows: tuple[Any, ...]) -> Any:
    """Top-k and top-p, plainly."""
    logits, k, p = rows
    out = torch.full_like(logits, -torch.inf)
    for i in range(len(logits)):
        order = logits[i].argsort(descending=True)[: int(k[i])]
        probabilities = logits[i][order].softmax(dim=-1)
        before = probabilities.cumsum(dim=-1) - probabilities
        kept = order[before < p[i]]
        out[i, kept] = logits[i, kept]
    return out


def made_filter() -> Any:
    made = sampling._Filter.__new__(sampling._Filter)
    made._setting, made._vocab = setting("float32"), DIMS["vocab"]
    return made


def test_what_top_k_and_top_p_leave() -> None:
    made = made_filter()
    rows = made.subjects(24, torch.Generator().manual_seed(1))
    # With k alone, with p alone, and with both.
    assert {(bool(a), bool(b)) for a, b in zip(rows[1] < DIMS["vocab"], rows[2] < 1, strict=True)} == {
        (True, False),
        (False, True),
        (True, True),
    }
    right = filtered(rows)
    assert made.error(rows, (right,)) <= 1
    assert made.error(rows, (rows[0],)) > 1  # nothing was cut off
    assert made.error(rows, (torch.full_like(right, -torch.inf),)) > 1
    alone = torch.full_like(right, -torch.inf).scatter(
        1, rows[0].argmax(dim=1, keepdim=True), rows[0].amax(dim=1, keepdim=True)
    )
    assert made.error(rows, (alone,)) > 1  # too much was
    changed = torch.where(right > -torch.inf, right + 1, right)
    assert made.error(rows, (changed,)) > 1


def test_a_drawn_token_must_be_one_that_is_left() -> None:
    made = sampling._Sample.__new__(sampling._Sample)
    made._setting, made._vocab = setting("float32"), DIMS["vocab"]
    rows = made.subjects(24, torch.Generator().manual_seed(1))
    assert rows[3].tolist() == list(range(24))
    best, worst = rows[0].argmax(dim=1, keepdim=True), rows[0].argmin(dim=1, keepdim=True)
    assert made.error(rows, (best,)) <= 1
    assert made.error(rows, (worst,)) > 1
    beside = made.rows(10, "zeros", torch.Generator().manual_seed(1))
    assert (beside[3] < 0).sum() == 5  # every second neighbour has no seed


def with_runner(second: bool, device: str = "cuda") -> Setting:
    return replace(setting("float32"), device=device, vllm_config=SimpleNamespace(use_v2_model_runner=second))


def test_the_second_runner_is_a_gpus_and_the_configuration_says_so() -> None:
    assert second_runner(with_runner(True))
    assert not second_runner(with_runner(False))
    assert not second_runner(with_runner(True, "cpu"))
    assert not second_runner(replace(setting(), device="cuda"))  # no configuration, or an older one


def test_logprobs_of_some_tokens_are_right_and_constants_are_not() -> None:
    made = softmax.TokenLogprobs(
        setting("float32"), "x", lambda x, ids: x.float().log_softmax(dim=-1).gather(1, ids), torch.bfloat16
    )
    rows = made.subjects(6, torch.Generator().manual_seed(1))
    assert rows[0].dtype == torch.bfloat16
    (out,) = made.call(rows)
    assert out.shape == (6, softmax.TOKENS)
    assert made.error(rows, (out,)) <= 1
    assert made.error(rows, (torch.zeros_like(out),)) > 1
    assert made.error(rows, (out * 1.001,)) > 1


def test_the_second_runner_draws_with_a_seed_and_a_position_of_each_row() -> None:
    asked: dict[str, Any] = {}

    def draw(logits: Any, which: Any, temperature: Any, seeds: Any, positions: Any, **others: Any) -> Any:
        asked.update(others)
        assert which.dtype == torch.int32
        assert which.tolist() == list(range(len(logits)))
        assert temperature.eq(1).all()
        assert positions.min() >= 0
        return logits.argmax(dim=1) + 0 * seeds

    made = sampling._Gumbel.__new__(sampling._Gumbel)
    made._setting, made._vocab, made._draw = setting("float32"), DIMS["vocab"], draw
    made._apply = lambda logits, k, p: filtered((logits, k, p))
    rows = made.subjects(12, torch.Generator().manual_seed(1))
    (tokens,) = made.call(rows)
    assert asked == {"apply_temperature": False}
    assert made.error(rows, (tokens,)) <= 1
    beside = made.rows(4, "random", torch.Generator().manual_seed(1))
    assert (made.call(beside)[0] < 0).view(-1).tolist() == [seed < 0 for seed in beside[3].tolist()]
