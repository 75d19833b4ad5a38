"""Faults of the process that takes requests over HTTP. Each function patches this process's vLLM."""

from __future__ import annotations

import contextvars
import struct
from collections.abc import AsyncIterator
from typing import Any

_streaming = contextvars.ContextVar("bi_harness_streaming", default=False)


def stream_logprobs() -> None:
    """The sampled token's logprob moves by a ULP on its way into a streamed completion."""
    from vllm.entrypoints.openai.completion.serving import OpenAIServingCompletion

    stream = OpenAIServingCompletion.completion_stream_generator
    create = OpenAIServingCompletion._create_completion_logprobs

    async def completion_stream_generator(self: Any, *args: Any, **kwargs: Any) -> AsyncIterator[str]:
        chunks = stream(self, *args, **kwargs)
        while True:
            # Set for the making of one chunk alone: whoever reads the stream shares the context.
            token = _streaming.set(True)
            try:
                chunk = await anext(chunks, None)
            finally:
                _streaming.reset(token)
            if chunk is None:
                return
            yield chunk

    def _create_completion_logprobs(self: Any, *args: Any, **kwargs: Any) -> Any:
        made = create(self, *args, **kwargs)
        if _streaming.get():
            for place, (name, value) in enumerate(zip(made.tokens, made.token_logprobs, strict=True)):
                if value is not None:
                    moved = _next_float32(value)
                    made.token_logprobs[place] = moved
                    if made.top_logprobs and name in (made.top_logprobs[place] or {}):
                        made.top_logprobs[place][name] = moved
        return made

    OpenAIServingCompletion.completion_stream_generator = completion_stream_generator
    OpenAIServingCompletion._create_completion_logprobs = _create_completion_logprobs


def _next_float32(value: float) -> float:
    """The float32 after ``value``, away from zero."""
    (bits,) = struct.unpack("<I", struct.pack("<f", value))
    return float(struct.unpack("<f", struct.pack("<I", bits + 1))[0])
