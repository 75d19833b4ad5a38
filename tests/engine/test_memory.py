"""How much KV cache a workload needs, and whether two engines fit."""

from __future__ import annotations

import pytest

from bi_harness.engine.memory import GIB, gpu_share, kv_cache_bytes, two_fit
from bi_harness.spec.load import Spec


def needed(spec: Spec, model: str, **changes: int) -> int | None:
    numbers = {"layers": spec.models[model].layers, "tp": 1, "max_num_seqs": 33, "max_model_len": 924}
    return kv_cache_bytes(spec.models[model], **{**numbers, **changes})  # type: ignore[arg-type]


def test_every_request_at_its_longest_fits(spec: Spec) -> None:
    model = spec.models["qwen3-8b"]
    a_token = 2 * 8 * 128 * 36 * 2  # K and V, KV heads, head size, layers, bytes
    for sequences, length in ((33, 924), (64, 4096), (128, 1)):
        found = kv_cache_bytes(model, layers=36, tp=1, max_num_seqs=sequences, max_model_len=length)
        assert found is not None
        blocks = sequences * (-(-length // 256))
        assert a_token * blocks * 256 <= found <= a_token * (blocks + 16) * 256


def test_small_models_get_a_floor(spec: Spec) -> None:
    assert needed(spec, "qwen3-moe-tiny") == GIB // 4


def test_it_grows_with_layers_and_shrinks_with_tp(spec: Spec) -> None:
    full = needed(spec, "qwen3-8b")
    assert full is not None
    assert needed(spec, "qwen3-8b", tp=2) == full // 2
    assert needed(spec, "qwen3-8b", layers=18) == full // 2
    # More ranks than KV heads: each has a copy of one.
    assert needed(spec, "qwen3-8b", tp=16) == needed(spec, "qwen3-8b", tp=8)


def test_float32_takes_twice_the_room(spec: Spec) -> None:
    long = {"max_num_seqs": 256, "max_model_len": 2048}
    half, single = needed(spec, "qwen3-tiny", **long), needed(spec, "qwen3-tiny-fp32", **long)
    assert half is not None
    assert single == 2 * half


def test_latent_attention_is_not_split_over_ranks(spec: Spec) -> None:
    full = needed(spec, "deepseek-v3", max_num_seqs=128)
    assert full == needed(spec, "deepseek-v3", max_num_seqs=128, tp=8)
    assert full == (128 * 4 + 16) * 256 * 576 * 61 * 2


def test_a_hybrid_model_is_left_to_vllm(spec: Spec) -> None:
    assert needed(spec, "qwen3-next-80b-a3b-instruct") is None


def test_a_shape_without_kv_heads_or_head_size_has_the_usual_ones(spec: Spec) -> None:
    model = spec.models["qwen3-8b"]
    bare = {k: v for k, v in model.config.items() if k not in ("num_key_value_heads", "head_dim")}
    found = kv_cache_bytes(
        model.model_copy(update={"config": bare}), layers=36, tp=1, max_num_seqs=33, max_model_len=924
    )
    full = needed(spec, "qwen3-8b")
    assert full is not None
    assert found == 4 * full  # 32 heads instead of 8


@pytest.mark.parametrize(
    ("model", "device", "tp", "kv_gib", "fit"),
    [
        ("qwen3-1.7b", "h200", 1, 5, True),
        ("qwen3-1.7b", "l4", 1, 5, False),
        ("qwen3-8b", "l4", 1, 1, False),
        ("qwen3-8b", "h100", 1, 5, True),
        ("qwen3-30b-a3b", "h100", 1, 5, False),
        ("qwen3-30b-a3b", "h200", 1, 5, False),
        ("qwen3-30b-a3b", "h200", 2, 5, True),
        ("qwen3-tiny", "cpu", 1, 100, True),
        ("qwen3-1.7b", "h200", 1, None, False),
    ],
)
def test_two_fit(spec: Spec, model: str, device: str, tp: int, kv_gib: int | None, fit: bool) -> None:
    found = spec.models[model]
    kv_bytes = None if kv_gib is None else kv_gib * GIB
    assert two_fit(found, spec.devices[device], layers=found.layers, tp=tp, kv_bytes=kv_bytes) is fit


def test_fewer_layers_may_make_two_fit(spec: Spec) -> None:
    found, device = spec.models["qwen3-30b-a3b"], spec.devices["h100"]
    assert not two_fit(found, device, layers=48, tp=1, kv_bytes=GIB)
    assert two_fit(found, device, layers=4, tp=1, kv_bytes=GIB)


def test_an_engine_asks_for_the_share_that_it_takes(spec: Spec) -> None:
    """vLLM refuses to start where less than this is free, so it must leave room for others."""

    def share(model: str, device: str, tp: int = 1, kv_gib: int = 1) -> float:
        return gpu_share(
            spec.models[model],
            spec.devices[device],
            layers=spec.models[model].layers,
            tp=tp,
            kv_bytes=kv_gib * GIB,
        )

    assert share("qwen3-1.7b", "h200") == 0.09  # 3.3 + 1 + 8 of 140 GiB
    assert share("qwen3-1.7b", "l4") == 0.55
    assert share("qwen3-30b-a3b", "h200", tp=2) < share("qwen3-30b-a3b", "h200")
    assert share("qwen3-1.7b", "l4", kv_gib=20) == 0.9
