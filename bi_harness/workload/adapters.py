"""LoRA adapters with random weights, made on the spot in the format of PEFT.

Only the attention's projections are adapted: every architecture with plain attention has them, and their
shapes follow from the model's configuration. ``make`` is worker side: torch and safetensors.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bi_harness.spec.models import ModelSpec

RANK = 8
SCALE = 0.1
"""Spread of the random weights: large enough to change what is generated, small enough to keep it finite."""


def adapter_spec(model: ModelSpec, layers: int, count: int) -> dict[str, Any]:
    """What ``make`` needs to know.

    Args:
        layers: of the checkpoint that runs.
        count: how many adapters, each with other weights.
    """
    config = model.config
    hidden, heads = int(config["hidden_size"]), int(config["num_attention_heads"])
    head = int(config.get("head_dim") or hidden // heads)
    kv = int(config.get("num_key_value_heads") or heads) * head
    return {
        "count": count,
        "layers": layers,
        "seed": model.seed,
        "shapes": {
            "q_proj": [hidden, heads * head],
            "k_proj": [hidden, kv],
            "v_proj": [hidden, kv],
            "o_proj": [heads * head, hidden],
        },
    }


def make(spec: Mapping[str, Any], folder: Path) -> list[str]:
    """Write the adapters below ``folder`` and return their folders, the first adapter's first."""
    import torch
    from safetensors.torch import save_file

    folders = []
    for number in range(1, spec["count"] + 1):
        generator = torch.Generator().manual_seed(spec["seed"] * 1000 + number)
        tensors = {}
        for layer in range(spec["layers"]):
            for name, (rows_in, rows_out) in spec["shapes"].items():
                prefix = f"base_model.model.model.layers.{layer}.self_attn.{name}"
                for part, shape in (("A", (RANK, rows_in)), ("B", (rows_out, RANK))):
                    weights = torch.randn(shape, generator=generator) * SCALE
                    tensors[f"{prefix}.lora_{part}.weight"] = weights.to(torch.bfloat16)
        place = folder / f"adapter-{number}"
        place.mkdir(parents=True, exist_ok=True)
        save_file(tensors, str(place / "adapter_model.safetensors"))
        config = {
            "peft_type": "LORA",
            "task_type": "CAUSAL_LM",
            "r": RANK,
            "lora_alpha": RANK,
            "bias": "none",
            "target_modules": list(spec["shapes"]),
        }
        (place / "adapter_config.json").write_text(json.dumps(config), encoding="utf-8")
        folders.append(str(place))
    return folders
