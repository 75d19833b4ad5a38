"""Requests to an engine, and when they come. Used on both sides: standard library alone."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

Planted = Literal["together", "preempted", "cached", "split", "scored", "drafted"]
"""Which requests a planted difference is in: those that share a step with another one, that come back from a
preemption, that read the prefix cache, whose prefill is split, that are scored, or that have drafted
tokens."""


@dataclass(frozen=True, slots=True)
class Request:
    """One request, as token ids.

    Attributes:
        prompt: token ids.
        max_tokens: decode steps; end-of-sequence is ignored, so exactly so many are made.
        temperature: 0 for greedy.
        seed: of the request's own random stream; ``None`` for greedy.
        top_k_logprobs: how many logprobs a step reports beside the sampled token's own.
        top_p, top_k, min_p, presence_penalty, frequency_penalty, repetition_penalty: as in vLLM's
            ``SamplingParams``; off by default.
        n: sequences that it generates. Each is observed as a row of its own, with the seed ``seed + index``.
        score: number of tokens at the prompt's end whose logprobs are observed, as a prefill computes them,
            in place of those of generated tokens; 0 for an ordinary request.
        cache: requests with the same name share their prefixes through the prefix cache; without a name
            a request never reads the cache.
        adapter: LoRA adapter, counted from 1; 0 for the model itself.
        processed: whether the logprobs are those that the token is sampled from, after penalties, temperature
            and masks (vLLM's ``processed_logprobs``), in place of the model's own. All of a burst have the
            same.
    """

    prompt: tuple[int, ...]
    max_tokens: int
    temperature: float
    seed: int | None
    top_k_logprobs: int
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    n: int = 1
    score: int = 0
    cache: str | None = None
    adapter: int = 0
    processed: bool = False

    @property
    def observed(self) -> int:
        """Tokens of a row of its observation."""
        return self.score or self.max_tokens

    def to_json(self) -> dict[str, Any]:
        """A mapping of plain JSON types."""
        return {**asdict(self), "prompt": list(self.prompt)}

    @staticmethod
    def from_json(data: dict[str, Any]) -> Request:
        """The inverse of ``to_json``."""
        return Request(**{**data, "prompt": tuple(data["prompt"])})


@dataclass(frozen=True, slots=True)
class Member:
    """One request of a burst. Time is counted in engine steps, so that a schedule is the same in every run.

    Attributes:
        request: index of the request.
        arrival: it is submitted before this step of the burst (0: at once).
        abort: it is aborted before this step; ``None`` for never.
    """

    request: int
    arrival: int = 0
    abort: int | None = None

    def to_json(self) -> list[int | None]:
        """Three plain values."""
        return [self.request, self.arrival, self.abort]


@dataclass(frozen=True, slots=True)
class Limits:
    """What the scheduler is held to while some bursts run, so that one engine serves them all.

    Attributes:
        step_tokens: tokens of a step at most, in place of the engine's ``max_num_batched_tokens``: longer
            prefills are split.
        kv_growth: share of the blocks by which the burst's requests grow while they decode that stay free
            beside those of all their prompts; the other blocks are held back, so that requests are
            preempted. ``None`` for the whole cache.
        planted: the requests whose logprobs get a difference, in a control (``engine.planted_difference``);
            ``None`` for none.
    """

    step_tokens: int | None = None
    kv_growth: float | None = None
    planted: Planted | None = None
