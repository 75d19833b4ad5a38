"""A request as vLLM takes it. Worker side: standard library and vLLM alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bi_harness.workload.requests import Request


def prompt(request: Request) -> dict[str, Any]:
    """The prompt, with the name of the prefix cache's share that it may read."""
    ids: dict[str, Any] = {"prompt_token_ids": list(request.prompt)}
    return ids if request.cache is None else {**ids, "cache_salt": request.cache}


def sampling(request: Request) -> Any:
    """vLLM's ``SamplingParams``."""
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    return SamplingParams(
        n=request.n,
        max_tokens=request.max_tokens,
        temperature=request.temperature,
        seed=request.seed,
        top_p=request.top_p,
        top_k=request.top_k,
        min_p=request.min_p,
        presence_penalty=request.presence_penalty,
        frequency_penalty=request.frequency_penalty,
        repetition_penalty=request.repetition_penalty,
        logprobs=request.top_k_logprobs,
        prompt_logprobs=request.top_k_logprobs if request.score else None,
        skip_reading_prefix_cache=request.cache is None,
        ignore_eos=True,
        detokenize=False,
        output_kind=RequestOutputKind.FINAL_ONLY,
    )


def adapter(request: Request, folders: Sequence[str]) -> dict[str, Any]:
    """The LoRA argument of vLLM's calls; empty for a request without an adapter.

    Args:
        folders: of the adapters, the first one's first.
    """
    if not request.adapter:
        return {}
    from vllm.lora.request import LoRARequest

    name = f"adapter-{request.adapter}"
    return {"lora_request": LoRARequest(name, request.adapter, folders[request.adapter - 1])}
