"""LoRA adapters: their shapes from the model's configuration (no torch), and the files themselves (torch)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bi_harness.spec.load import default_paths, load_spec
from bi_harness.spec.models import ModelSpec
from bi_harness.workload.adapters import RANK, adapter_spec, make

PATHS = default_paths(environ={})
MODELS = load_spec(PATHS.models, PATHS.hardware, PATHS.suites).models

CONFIG: dict[str, Any] = {
    "model_type": "qwen3",
    "vocab_size": 300,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
}


def model(seed: int = 5, **changes: Any) -> ModelSpec:
    """A model with these changes in its configuration; ``None`` leaves a key out."""
    config = {key: value for key, value in {**CONFIG, **changes}.items() if value is not None}
    return MODELS["qwen3-tiny"].model_copy(update={"config": config, "seed": seed})


def shapes(**changes: Any) -> dict[str, list[int]]:
    found: dict[str, list[int]] = adapter_spec(model(**changes), 2, 1)["shapes"]
    return found


def test_shapes_are_those_of_the_attentions_projections() -> None:
    assert shapes() == {"q_proj": [32, 64], "k_proj": [32, 32], "v_proj": [32, 32], "o_proj": [64, 32]}


@pytest.mark.parametrize(
    ("changes", "heads", "kv"),
    [
        ({"head_dim": None}, 32, 16),  # hidden_size / num_attention_heads
        ({"num_key_value_heads": None}, 64, 64),  # no grouped queries
        ({"num_key_value_heads": 1}, 64, 16),
        ({"head_dim": None, "num_key_value_heads": None}, 32, 32),
    ],
)
def test_what_a_configuration_leaves_out_is_as_in_transformers(
    changes: dict[str, Any], heads: int, kv: int
) -> None:
    assert shapes(**changes) == {
        "q_proj": [32, heads],
        "k_proj": [32, kv],
        "v_proj": [32, kv],
        "o_proj": [heads, 32],
    }


def test_a_key_that_is_null_is_as_one_that_is_not_there() -> None:
    null = MODELS["qwen3-tiny"].model_copy(
        update={"config": {**CONFIG, "head_dim": None, "num_key_value_heads": None}}
    )
    assert adapter_spec(null, 2, 1)["shapes"] == shapes(head_dim=None, num_key_value_heads=None)


@pytest.mark.parametrize("key", ["hidden_size", "num_attention_heads"])
def test_a_configuration_without_a_shape_is_an_error(key: str) -> None:
    with pytest.raises(KeyError, match=key):
        shapes(**{key: None})


def test_the_depth_is_that_of_the_checkpoint_that_runs() -> None:
    made = adapter_spec(model(), 1, 3)
    assert (made["layers"], made["count"], made["seed"]) == (1, 3, 5)


@pytest.mark.parametrize("name", sorted(id for id, m in MODELS.items() if m.attention == "mha"))
def test_every_shipped_model_with_plain_attention_has_shapes_that_travel_as_json(name: str) -> None:
    made = adapter_spec(MODELS[name], MODELS[name].layers, 3)
    assert json.loads(json.dumps(made)) == made
    assert all(size > 0 for shape in made["shapes"].values() for size in shape)
    into, out = made["shapes"]["q_proj"]
    assert made["shapes"]["o_proj"] == [out, into]


# From here on real adapters: torch and safetensors.


@pytest.fixture(scope="module")
def torch() -> Any:
    pytest.importorskip("safetensors")
    return pytest.importorskip("torch")


def tensors(folder: str) -> dict[str, Any]:
    from safetensors.torch import load_file

    found: dict[str, Any] = load_file(Path(folder) / "adapter_model.safetensors")
    return found


def weights(folder: str) -> bytes:
    return (Path(folder) / "adapter_model.safetensors").read_bytes()


def test_the_adapters_are_in_pefts_format(torch: Any, tmp_path: Path) -> None:
    spec = adapter_spec(model(), 2, 3)
    folders = make(spec, tmp_path / "new")
    assert folders == [str(tmp_path / "new" / f"adapter-{number}") for number in (1, 2, 3)]
    for folder in folders:
        config = json.loads((Path(folder) / "adapter_config.json").read_text())
        assert (config["peft_type"], config["r"], config["bias"]) == ("LORA", RANK, "none")
        assert config["target_modules"] == list(spec["shapes"])
        found = tensors(folder)
        assert len(found) == 2 * 4 * 2  # layers, projections, A and B
        for layer in (0, 1):
            for name, (into, out) in spec["shapes"].items():
                prefix = f"base_model.model.model.layers.{layer}.self_attn.{name}"
                assert tuple(found[f"{prefix}.lora_A.weight"].shape) == (RANK, into)
                assert tuple(found[f"{prefix}.lora_B.weight"].shape) == (out, RANK)
        for tensor in found.values():
            assert tensor.dtype == torch.bfloat16
            assert torch.isfinite(tensor).all()
            assert tensor.abs().max() > 0  # PEFT's own start, B at zero, would change nothing


def test_every_adapter_has_other_weights_in_every_tensor(torch: Any, tmp_path: Path) -> None:
    one, two = (tensors(folder) for folder in make(adapter_spec(model(), 2, 2), tmp_path))
    for name in one:
        assert not torch.equal(one[name], two[name])
    q = "base_model.model.model.layers.{}.self_attn.q_proj.lora_A.weight"
    assert not torch.equal(one[q.format(0)], one[q.format(1)])


def test_the_same_spec_gives_the_same_bytes_also_over_old_ones(torch: Any, tmp_path: Path) -> None:
    spec = adapter_spec(model(), 2, 2)
    first = [weights(folder) for folder in make(spec, tmp_path / "a")]
    for folder in ("a", "b"):
        assert [weights(f) for f in make(spec, tmp_path / folder)] == first


def test_one_adapter_more_leaves_the_others_as_they_were(torch: Any, tmp_path: Path) -> None:
    two = make(adapter_spec(model(), 2, 2), tmp_path / "two")
    three = make(adapter_spec(model(), 2, 3), tmp_path / "three")
    assert [weights(f) for f in two] == [weights(f) for f in three[:2]]


def test_another_seed_gives_other_bytes(torch: Any, tmp_path: Path) -> None:
    (one,) = make(adapter_spec(model(seed=5), 2, 1), tmp_path / "5")
    (two,) = make(adapter_spec(model(seed=6), 2, 1), tmp_path / "6")
    assert weights(one) != weights(two)


def test_none_asked_for_makes_none(torch: Any, tmp_path: Path) -> None:
    assert make(adapter_spec(model(), 2, 0), tmp_path) == []
    assert list(tmp_path.iterdir()) == []
