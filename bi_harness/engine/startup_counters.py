"""What the start of this process compiled, loaded and saved, as vLLM and torch counted it.

Worker side: torch and vLLM alone. What a release does not count is left out rather than guessed.
"""

from __future__ import annotations

import dataclasses
from typing import Any

SETTINGS = ("VLLM_USE_AOT_COMPILE", "VLLM_USE_MEGA_AOT_ARTIFACT")
"""Variables of vLLM that decide what a start saves."""


def read(vllm_config: Any) -> dict[str, Any]:
    """``{"compilation": {...}, "aot_autograd": {...}, "inductor": {...}, "layers": n, "settings": {...}}``.

    ``compilation`` has every field of vLLM's ``compilation_counter``; the other two are torch's counters of
    these names, which have only what happened, those of ``inductor`` as far as they are about caches.
    ``settings`` has the variables of ``SETTINGS`` that the release knows, as this process reads them: batch
    invariance overrides one of them.
    """
    from torch._dynamo.utils import counters
    from vllm import envs
    from vllm.compilation.counter import compilation_counter

    return {
        "compilation": _numbers(dataclasses.asdict(compilation_counter)),
        "aot_autograd": _numbers(counters["aot_autograd"]),
        "inductor": {k: v for k, v in _numbers(counters["inductor"]).items() if "cache" in k},
        "layers": int(vllm_config.model_config.hf_text_config.num_hidden_layers),
        "settings": {n: bool(getattr(envs, n)) for n in SETTINGS if n in envs.environment_variables},
    }


def _numbers(found: Any) -> dict[str, int]:
    return {str(name): int(value) for name, value in found.items() if isinstance(value, int)}
