"""vLLM in this process as an eager engine has it, without an engine: configuration, mode and plugins."""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bi_harness.engine.ops.base import Missing, find

MODE = (
    "vllm.model_executor.determinism.batch_invariant",
    "vllm.model_executor.layers.batch_invariant",
)
"""Where releases have vLLM's batch-invariant mode; older ones in the second place."""


MOST_REQUESTS = 1024
MOST_TOKENS = 16384


def open_vllm(
    folder: Path, *, config: Mapping[str, Any], dtype: str, backend: str | None, max_model_len: int
) -> Any:
    """Load the plugins, make the configuration that an eager engine of the model has, and switch on what the
    environment says, in the order of vLLM's workers.

    Args:
        folder: for the model's ``config.json``.
        config: the model's, as transformers has it.
        backend: of attention; ``None`` for vLLM's choice.

    Returns:
        The ``VllmConfig``.

    Raises:
        RuntimeError, ValueError: vLLM or transformers refuse the model.
    """
    _write_config(folder, config, dtype)
    vllm_config = engine_config(folder, dtype=dtype, backend=backend, max_model_len=max_model_len)
    priority: Any = getattr(vllm_config.kernel_config, "ir_op_priority", None)
    if hasattr(priority, "set_default"):
        priority.set_default()
        wrap = getattr(vllm_config.compilation_config, "ir_enable_torch_wrap", None)
        if wrap is not None:
            find("vllm.ir:set_default_torch_wrap")[0](wrap)
    _switch_on(vllm_config)
    return vllm_config


def engine_config(
    folder: Path, *, dtype: str, backend: str | None, max_model_len: int, tensor_parallel: int = 1
) -> Any:
    """Load the plugins, and make the configuration that an eager engine of the model in ``folder`` has.

    Raises:
        RuntimeError, ValueError: vLLM or transformers refuse the model.
    """
    from vllm.engine.arg_utils import EngineArgs
    from vllm.plugins import load_general_plugins

    load_general_plugins()
    return EngineArgs(
        model=str(folder),
        dtype=dtype,
        max_model_len=max_model_len,
        skip_tokenizer_init=True,
        enforce_eager=True,
        # What the largest batches of attention need: backends have buffers of these sizes.
        max_num_seqs=MOST_REQUESTS,
        max_num_batched_tokens=max(MOST_TOKENS, max_model_len),
        enable_prefix_caching=False,
        attention_config={"backend": backend} if backend is not None else {},  # type: ignore[arg-type]
        tensor_parallel_size=tensor_parallel,
    ).create_engine_config()


def dims(config: Mapping[str, Any]) -> dict[str, Any]:
    """The sizes of a dense model that operators need, from its configuration."""
    heads = int(config["num_attention_heads"])
    return {
        "hidden": int(config["hidden_size"]),
        "intermediate": int(config["intermediate_size"]),
        "heads": heads,
        "kv_heads": int(config.get("num_key_value_heads", heads)),
        "head_dim": int(config.get("head_dim") or config["hidden_size"] // heads),
        "vocab": int(config["vocab_size"]),
        "positions": int(config.get("max_position_embeddings", 2048)),
        "eps": float(config.get("rms_norm_eps", 1e-6)),
        "rope_theta": float(config.get("rope_theta", 10000)),
    }


def invariance_by() -> list[str]:
    """What makes this process's vLLM batch-invariant, read back; empty when nothing does."""
    from bi_harness.invariance import cpu

    found = list(cpu.active())
    from vllm import envs

    if getattr(envs, "VLLM_BATCH_INVARIANT", False):
        try:
            on, where = find(*(f"{module}:_batch_invariant_MODE" for module in MODE))
        except Missing:
            return found
        if on:
            found.append(f"VLLM_BATCH_INVARIANT=1 ({where} is on)")
    return found


def _switch_on(vllm_config: Any) -> None:
    """As a GPU's worker does before it makes anything. On a CPU the mode is a plugin, loaded already."""
    from vllm import envs

    if not getattr(envs, "VLLM_BATCH_INVARIANT", False):
        return
    init, where = find(*(f"{module}:init_batch_invariance" for module in MODE))
    if inspect.signature(init).parameters:
        # Releases before 0.20 ask for the attention backend, as the engine's configuration has it.
        chosen = vllm_config.attention_config.backend
        if chosen is None:
            raise RuntimeError(f"{where} of this vLLM needs an attention backend to be named")
        init(chosen)
    else:
        init()


def _write_config(folder: Path, config: Mapping[str, Any], dtype: str) -> None:
    from transformers import AutoConfig, AutoModelForCausalLM

    settings = dict(config)
    made = AutoConfig.for_model(settings.pop("model_type"), **settings)
    if not config.get("architectures"):
        made.architectures = [AutoModelForCausalLM._model_mapping[type(made)].__name__]
    folder.mkdir(parents=True, exist_ok=True)
    told = {**made.to_dict(), "torch_dtype": dtype, "dtype": dtype}
    (folder / "config.json").write_text(json.dumps(told, indent=2), encoding="utf-8")
