"""What an engine really runs, put together from what it says, and whether it is what was asked for.

Both sides, standard library alone: an engine's worker asks the vLLM in its own process, the client of a
server asks over HTTP. The rules are the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bi_harness.invariance.faults.registry import PLANT_VARIABLE

BACKEND_VARIANTS = {"FLASH_ATTN": ("FLASH_ATTN_DIFFKV",), "TRITON_ATTN": ("TRITON_ATTN_DIFFKV",)}
"""Attention backends that vLLM puts in place of the requested one for a model whose keys and values have
different head sizes (vLLM model_executor/models/mimo_v2.py and openpangu.py, 0.20.0 to 0.33.0)."""


class Refused(Exception):
    """The engine that came up is not the one that was asked for."""


def settings(vllm_config: Any) -> dict[str, Any]:
    """What vLLM's own configuration came out as; ``vllm_config`` is its ``VllmConfig``."""
    parallel = vllm_config.parallel_config
    return {
        "enforce_eager": bool(vllm_config.model_config.enforce_eager),
        "dtype": str(vllm_config.model_config.dtype).removeprefix("torch."),
        "quantization": vllm_config.model_config.quantization,
        "max_model_len": vllm_config.model_config.max_model_len,
        "max_num_seqs": vllm_config.scheduler_config.max_num_seqs,
        "max_num_batched_tokens": vllm_config.scheduler_config.max_num_batched_tokens,
        "lora": vllm_config.lora_config is not None,
        "block_size": vllm_config.cache_config.block_size,
        "kv_cache_dtype": str(vllm_config.cache_config.cache_dtype),
        "async_scheduling": bool(getattr(vllm_config.scheduler_config, "async_scheduling", False)),
        "model_runner": "V2" if getattr(vllm_config, "use_v2_model_runner", False) else "V1",
        "prefix_caching": bool(vllm_config.cache_config.enable_prefix_caching),
        "tensor_parallel_size": parallel.tensor_parallel_size,
        "data_parallel_size": parallel.data_parallel_size,
        "custom_all_reduce": not parallel.disable_custom_all_reduce,
        **_speculation(vllm_config),
        "logprobs_mode": str(vllm_config.model_config.logprobs_mode),
    }


def _speculation(vllm_config: Any) -> dict[str, Any]:
    """What drafts, as vLLM has it; nothing without speculative decoding."""
    config = vllm_config.speculative_config
    if config is None:
        return {}
    return {"speculation": {"method": str(config.method), "tokens": config.num_speculative_tokens}}


def gather_workers(answers: Sequence[Mapping[str, Any]], expected: int) -> dict[str, Any]:
    """What the workers run: that of the first, with how many there are and whether all say the same.

    Args:
        answers: of ``Readback.bi_harness_effective``, one a worker.
        expected: how many workers there must be.

    Raises:
        Refused: a worker is missing, or they do not agree on the invariance mode or the planted fault.
    """
    # What is a worker's own: everything else must be the same in all of them.
    ranks = [(answer["dp_rank"], answer["tp_rank"]) for answer in answers]
    shared = [{k: v for k, v in answer.items() if k not in ("dp_rank", "tp_rank")} for answer in answers]
    if len(set(ranks)) != expected:
        raise Refused(f"{expected} workers were asked for, and {len(set(ranks))} answered: {sorted(ranks)}")
    if any(answer["invariance_by"] != shared[0]["invariance_by"] for answer in shared):
        raise Refused("invariance is not the same in all workers")
    if len({answer.get("planted_fault") for answer in shared}) > 1:
        raise Refused("a fault is planted in some of the workers")
    return {
        "invariance": bool(shared[0]["invariance_by"]),
        **shared[0],
        "workers": len(shared),
        "workers_agree": all(answer == shared[0] for answer in shared),
    }


def execution_of(effective: Mapping[str, Any]) -> str:
    """How an engine executes the model, from what it reports.

    Returns:
        ``compile`` with torch.compile, ``breakable`` or ``graphs`` with breakable or other CUDA graphs alone,
        ``eager`` with neither.
    """
    if effective["compilation_mode"] != "NONE":
        return "compile"
    if str(effective.get("cudagraph_mode", "NONE")).upper() == "NONE":
        return "eager"
    return "breakable" if effective.get("breakable_cudagraphs") else "graphs"


def execution_in_words(effective: Mapping[str, Any]) -> str:
    """What an engine runs in, in vLLM's words."""
    return (
        f"compilation mode {effective['compilation_mode']}, "
        f"CUDA graph mode {effective.get('cudagraph_mode')}, "
        f"breakable CUDA graphs {'on' if effective.get('breakable_cudagraphs') else 'off'}"
    )


def refuse_platform(found: str, config: Mapping[str, Any], *, vllm: str, python: str) -> None:
    """See that vLLM runs on the platform that was asked for.

    Raises:
        Refused: it does not.
    """
    if found != config["platform"]:
        raise Refused(
            f"vLLM {vllm} of {python} runs on {found!r}, not on "
            f"{config['platform']!r}: install the engine that fits the device"
        )


def refuse_other(effective: Mapping[str, Any], config: Mapping[str, Any], planted: str | None) -> None:
    """See that an engine is the one that was asked for.

    Args:
        effective: what it says it runs.
        config: what was asked for, as ``EngineConfig.for_worker`` gives it.
        planted: the fault that it was to have.

    Raises:
        Refused: in another invariance state, with another fault, or on another device, attention backend or
            compilation mode.
    """
    if effective["invariance"] != config["invariance"]:
        raise Refused(
            f"invariance was to be {'on' if config['invariance'] else 'off'} and is not: the plugin or "
            "vLLM did not take the setting"
        )
    if effective.get("planted_fault") != planted:
        raise Refused(
            f"{PLANT_VARIABLE}={planted or ''} is set, and planted is "
            f"{effective.get('planted_fault') or 'nothing'}: see the engine's log"
        )
    strangers = [d for d in effective["devices"] if d["capability"] != config["capability"]]
    if config["capability"] and (strangers or not effective["devices"]):
        raise Refused(
            f"asked for GPUs of capability {config['capability']}, and the engine has {strangers or 'none'}"
        )
    asked = config["llm"].get("attention_config", {}).get("backend")
    got = effective["attention_backends"]
    if asked and (not got or not set(got) <= {asked, *BACKEND_VARIANTS.get(asked, ())}):
        raise Refused(f"asked for attention backend {asked}, and the engine took {got or 'none'}")
    # A check may make its engine eager in another cell's mode.
    wanted = "eager" if config["llm"]["enforce_eager"] else config["execution"]
    if wanted is not None and wanted != execution_of(effective):
        raise Refused(
            f"asked for {wanted} mode, and the engine runs {execution_in_words(effective)}: `execution` of "
            "hardware.yaml says what this release needs for it"
        )
