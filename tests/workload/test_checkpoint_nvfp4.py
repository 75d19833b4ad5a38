"""NVFP4 weights of checkpoints made on the spot, read back with the library that defines the format."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("compressed_tensors")

import torch
from compressed_tensors.compressors import BaseCompressor
from compressed_tensors.quantization import QuantizationConfig, preset_name_to_scheme
from safetensors.torch import load_file

from bi_harness.workload.checkpoint import ensure

CONFIG: dict[str, Any] = {
    "model_type": "qwen3",
    "vocab_size": 512,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "tie_word_embeddings": False,
}
MOE = {
    **CONFIG,
    "model_type": "qwen3_moe",
    "moe_intermediate_size": 32,
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "decoder_sparse_step": 1,
}


def spec(config: dict[str, Any] = CONFIG, **more: Any) -> dict[str, Any]:
    return {"config": config, "dtype": "bfloat16", "seed": 3, "weight_scale": 1.0, **more}


def tensors(folder: Path) -> dict[str, Any]:
    return {name: t for path in folder.glob("*.safetensors") for name, t in load_file(path).items()}


@pytest.fixture(scope="module", params=["dense", "moe"])
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A checkpoint, plain and quantized."""
    config = CONFIG if request.param == "dense" else MOE
    root = tmp_path_factory.mktemp(request.param)
    ensure(spec(config), root / "plain")
    ensure(spec(config, quantize="nvfp4"), root / "nvfp4")
    return root / "plain", root / "nvfp4"


def test_linear_layers_are_packed_and_nothing_else_is(made: tuple[Path, Path]) -> None:
    plain, packed = tensors(made[0]), tensors(made[1])
    quantized = {name.removesuffix("_packed") for name in packed if name.endswith(".weight_packed")}
    left = {name for name in plain if name not in packed}
    assert quantized == left
    assert all("_proj." in name for name in quantized)
    for name in plain.keys() - quantized:
        assert torch.equal(plain[name], packed[name]), name


def test_what_is_packed_is_what_was_there(made: tuple[Path, Path]) -> None:
    plain, packed = tensors(made[0]), tensors(made[1])
    compressor = BaseCompressor.get_value_from_registry("nvfp4-pack-quantized")
    scheme = preset_name_to_scheme("NVFP4", ["Linear"])
    for name in [name for name in packed if name.endswith(".weight_packed")]:
        module = name.removesuffix(".weight_packed")
        keys = ("weight_packed", "weight_scale", "weight_global_scale")
        parts = {key: packed[f"{module}.{key}"] for key in keys}
        assert parts["weight_packed"].dtype == torch.uint8
        assert parts["weight_scale"].dtype == torch.float8_e4m3fn
        weight = plain[f"{module}.weight"].float()
        assert parts["weight_scale"].shape == (weight.shape[0], weight.shape[1] // 16)
        back = compressor.decompress(parts, scheme)["weight"].float()
        # Values of fp4 are at most a sixth of the group's largest apart, above 4 of 6.
        limit = weight.unflatten(-1, (-1, 16)).abs().amax(-1, keepdim=True).expand(*weight.shape[:1], -1, 16)
        assert ((back - weight).abs() <= limit.flatten(1) * 0.2).all()


def test_what_vllm_fuses_has_one_scale(made: tuple[Path, Path]) -> None:
    packed = tensors(made[1])
    for layer in range(2):
        names = [f"model.layers.{layer}.self_attn.{p}_proj.weight_global_scale" for p in "qkv"]
        assert len({float(packed[name]) for name in names}) == 1
    gates = [name for name in packed if name.endswith("gate_proj.weight_global_scale")]
    assert gates
    for name in gates:
        assert float(packed[name]) == float(packed[name.replace("gate_proj", "up_proj")])
        assert float(packed[name.replace("weight_global", "input_global")]) == 448 * 6 / 64


def test_the_configuration_is_one_of_the_library(made: tuple[Path, Path]) -> None:
    config = json.loads((made[1] / "config.json").read_text())["quantization_config"]
    assert config.pop("quant_method") == "compressed-tensors"
    read = QuantizationConfig.model_validate(config)
    assert read.format == "nvfp4-pack-quantized"
    assert "lm_head" in read.ignore


def test_it_is_the_same_each_time_and_another_than_the_plain_one(
    made: tuple[Path, Path], tmp_path: Path
) -> None:
    config = json.loads((made[0] / "config.json").read_text())
    again = ensure(
        spec(MOE if "num_experts_per_tok" in config else CONFIG, quantize="nvfp4"), tmp_path / "again"
    )
    first = json.loads((made[1] / "bi_harness.json").read_text())
    assert again["digest"] == first["digest"]
    assert first["digest"] != json.loads((made[0] / "bi_harness.json").read_text())["digest"]


def test_rows_that_are_no_multiple_of_16_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"rows of 136; NVFP4 needs a multiple of 16"):
        ensure(spec({**CONFIG, "intermediate_size": 136}, quantize="nvfp4"), tmp_path / "odd")
