"""NVFP4 weights for checkpoints made on the spot, as the compressed-tensors library packs them.

Linear layers become packed fp4 with an fp8 scale for every 16 values and one float32 scale for each layer
(``weight_packed``, ``weight_scale``, ``weight_global_scale``); embeddings, norms, routers and the ``lm_head``
stay as they are. Worker side: standard library, torch, safetensors, compressed-tensors alone.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

ACTIVATION_LIMIT = 64.0
"""The largest activation that the input scales have room for. Those of synthetic weights are a few units, so
it never clips, and unlike a calibration it gives every host the same checkpoint."""

IGNORED = ("lm_head", "re:.*mlp\\.gate$", "re:.*block_sparse_moe\\.gate$")
"""What compressed-tensors is told to leave alone, by module name."""

_QUANTIZED = re.compile(r"\.(?:[qkvo]_proj|(?:gate|up|down)_proj|w[123])\.weight$")
# vLLM fuses these and takes one global scale for them, so they have to be scaled alike.
_FUSED = (
    (re.compile(r"\.[qkv]_proj\.weight$"), ".qkv"),
    (re.compile(r"\.(?:gate|up)_proj\.weight$"), ".gate_up"),
    (re.compile(r"\.w[13]\.weight$"), ".w13"),
)


def quantize(folder: Path) -> int:
    """Rewrite the checkpoint in ``folder`` with NVFP4 weights; how many matrices were quantized.

    Raises:
        ValueError: it has no matrix to quantize, or one whose rows are no multiple of 16 long.
    """
    import torch
    from compressed_tensors.compressors import BaseCompressor
    from compressed_tensors.quantization import QuantizationConfig, QuantizationStatus, preset_name_to_scheme
    from compressed_tensors.quantization.utils import calculate_qparams, generate_gparam
    from safetensors.torch import load_file, save_file

    scheme = preset_name_to_scheme("NVFP4", ["Linear"])
    compressor: Any = BaseCompressor.get_value_from_registry("nvfp4-pack-quantized")
    files = {path: load_file(path) for path in sorted(folder.glob("*.safetensors"))}
    weights = {name: tensor for tensors in files.values() for name, tensor in tensors.items()}
    chosen = {name: tensor for name, tensor in weights.items() if _QUANTIZED.search(name)}
    if not chosen:
        raise ValueError("the model has no linear layer that NVFP4 is for")
    largest: dict[str, Any] = {}
    for name, tensor in chosen.items():
        if tensor.shape[-1] % 16:
            raise ValueError(f"{name} has rows of {tensor.shape[-1]}; NVFP4 needs a multiple of 16")
        amax = tensor.float().abs().max()
        largest[_fused(name)] = torch.maximum(largest.get(_fused(name), amax), amax)
    limit = torch.tensor(ACTIVATION_LIMIT)
    input_scale = generate_gparam(-limit, limit)
    for path, tensors in files.items():
        packed: dict[str, Any] = {}
        for name, tensor in tensors.items():
            if name not in chosen:
                packed[name] = tensor
                continue
            amax = largest[_fused(name)]
            weight_scale = generate_gparam(-amax, amax)
            groups = tensor.float().unflatten(-1, (-1, 16))
            scales, _ = calculate_qparams(
                groups.amin(-1), groups.amax(-1), scheme.weights, global_scale=weight_scale
            )
            state = compressor.compress(
                {"weight": tensor.float(), "weight_scale": scales, "weight_global_scale": weight_scale},
                scheme,
            )
            state["input_global_scale"] = input_scale.clone()
            module = name.removesuffix(".weight")
            packed |= {f"{module}.{key}": value.contiguous() for key, value in state.items()}
        save_file(packed, path, metadata={"format": "pt"})
    for index in folder.glob("*.index.json"):
        _rewrite_index(index, files)
    settings = QuantizationConfig(
        config_groups={"group_0": scheme},
        ignore=list(IGNORED),
        format="nvfp4-pack-quantized",
        quantization_status=QuantizationStatus.COMPRESSED,
    )
    config_path = folder / "config.json"
    config = json.loads(config_path.read_text(encoding="utf-8"))
    config["quantization_config"] = {
        "quant_method": "compressed-tensors",
        **json.loads(settings.model_dump_json()),
    }
    config_path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    return len(chosen)


def _fused(name: str) -> str:
    """What shares a scale with it."""
    for pattern, together in _FUSED:
        if pattern.search(name):
            return pattern.sub(together, name)
    return name


def _rewrite_index(index: Path, files: dict[Path, Any]) -> None:
    from safetensors import safe_open

    where: dict[str, str] = {}
    for path in files:
        with safe_open(path, framework="pt") as opened:
            where |= dict.fromkeys(opened.keys(), path.name)
    told = json.loads(index.read_text(encoding="utf-8"))
    told["weight_map"] = where
    index.write_text(json.dumps(told, indent=2, sort_keys=True) + "\n", encoding="utf-8")
