"""One request to an engine. Used on both sides: standard library alone."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Request:
    """One request, as token ids.

    Attributes:
        prompt: token ids.
        max_tokens: decode steps; end-of-sequence is ignored, so exactly so many are made.
        temperature: 0 for greedy.
        seed: of the request's own random stream; ``None`` for greedy.
        top_k_logprobs: how many logprobs a step reports beside the sampled token's own.
    """

    prompt: tuple[int, ...]
    max_tokens: int
    temperature: float
    seed: int | None
    top_k_logprobs: int

    def to_json(self) -> dict[str, Any]:
        """A mapping of plain JSON types."""
        return {**asdict(self), "prompt": list(self.prompt)}

    @staticmethod
    def from_json(data: dict[str, Any]) -> Request:
        """The inverse of ``to_json``."""
        return Request(**{**data, "prompt": tuple(data["prompt"])})
