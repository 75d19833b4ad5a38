"""What the OpenAI API answers, as observations. Pure.

What the API carries, read in vLLM 0.32.0 and measured: token ids (``return_token_ids``), and every logprob
as the shortest decimal that gives the same float64, which holds the engine's float32: bits arrive whole,
streamed or not. Minus infinity arrives as -9999. What it does not carry is the rank: a step's logprobs come
with the sampled token first and the others in the order of their rank, so that among equal logprobs the
sampled one's place is not known. So the order here is by logprob, and by id among equals (``in_api_order``).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bi_harness.compare.observations import Observations
from bi_harness.workload.requests import Request

_MARK = "token_id:"


class Garbled(ValueError):
    """An answer that is not one to the request."""


@dataclass(frozen=True, slots=True)
class Step:
    """One generated token: its id, its logprob, and every logprob that came with it by id."""

    token: int
    logprob: float
    others: Mapping[int, float]


def completion_steps(choice: Mapping[str, Any]) -> list[Step]:
    """The steps of one choice of ``/v1/completions``, or of a chunk of it.

    Raises:
        Garbled: fields are missing or do not fit each other.
    """
    try:
        told, tokens = choice["logprobs"] or {}, choice["token_ids"] or ()
        names, own, tops = (
            told.get("tokens", ()),
            told.get("token_logprobs", ()),
            told.get("top_logprobs", ()),
        )
        steps = [
            Step(_id(name), _float32(value), {_id(n): _float32(v) for n, v in top.items()})
            for name, value, top in zip(names, own, tops, strict=True)
        ]
        if [step.token for step in steps] != list(tokens):
            raise ValueError(f"token ids {list(tokens)} with logprobs of {[s.token for s in steps]}")
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise Garbled(f"a completion's choice does not fit: {type(error).__name__}: {error}") from error
    return steps


def chat_steps(choice: Mapping[str, Any]) -> list[Step]:
    """The steps of one choice of ``/v1/chat/completions``, or of a chunk of it.

    Raises:
        Garbled: fields are missing or do not fit each other.
    """
    try:
        content = (choice.get("logprobs") or {}).get("content") or ()
        steps = [
            Step(
                _id(entry["token"]),
                _float32(entry["logprob"]),
                {_id(top["token"]): _float32(top["logprob"]) for top in entry["top_logprobs"]},
            )
            for entry in content
        ]
        if [step.token for step in steps] != list(choice.get("token_ids") or ()):
            raise ValueError(f"token ids {choice.get('token_ids')} with {len(steps)} logprobs")
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise Garbled(f"a chat completion's choice does not fit: {type(error).__name__}: {error}") from error
    return steps


def _id(name: Any) -> int:
    if not isinstance(name, str) or not name.startswith(_MARK):
        raise ValueError(f"{name!r} is no token id: the server does not know return_tokens_as_token_ids")
    return int(name.removeprefix(_MARK))


def _float32(value: Any) -> float:
    """``value`` where it is a float32's.

    Raises:
        ValueError: it is no number, or has other digits than a float32: bits cannot be compared.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"logprob {value!r} is no finite number")
    if float(np.float32(value)) != value:
        raise ValueError(f"logprob {value!r} is no float32: this server rounds, so bits cannot be compared")
    return float(value)


def observations(answers: Sequence[Sequence[Step]], requests: Sequence[Request]) -> Observations:
    """One row a request, shapes as in ``Observations``: column 0 the sampled token, then the ``top_k`` others
    by logprob and id.

    Raises:
        Garbled: a step has fewer logprobs than were asked for, or another one of its own token.
    """
    longest = max(request.max_tokens for request in requests)
    width = max(request.top_k_logprobs for request in requests) + 1
    tokens = np.full((len(requests), longest), -1, np.int32)
    lengths = np.zeros(len(requests), np.int32)
    ids = np.full((len(requests), longest, width), -1, np.int32)
    logprobs = np.zeros((len(requests), longest, width), np.float32)
    for row, (steps, request) in enumerate(zip(answers, requests, strict=True)):
        if len(steps) > request.max_tokens:
            raise Garbled(f"{len(steps)} tokens for a request of {request.max_tokens}")
        lengths[row] = len(steps)
        for index, step in enumerate(steps):
            if len(step.others) < request.top_k_logprobs:
                raise Garbled(f"{len(step.others)} logprobs of {request.top_k_logprobs} in step {index}")
            if step.others.get(step.token, step.logprob) != step.logprob:
                raise Garbled(f"two logprobs of token {step.token} in step {index}")
            others = dict(step.others)
            if len(others) > request.top_k_logprobs:
                # Of completions: the sampled token, which is not among the top k. A chat is asked for one
                # logprob more, since it counts the sampled token in.
                others.pop(step.token, None)
            ranked = sorted(others.items(), key=lambda item: (-item[1], item[0]))
            columns = [(step.token, step.logprob), *ranked[: request.top_k_logprobs]]
            tokens[row, index] = step.token
            for column, (other, value) in enumerate(columns):
                ids[row, index, column], logprobs[row, index, column] = other, value
    return Observations(tokens, lengths, ids, logprobs)


def in_api_order(found: Observations) -> Observations:
    """The same with each step's columns after the first by logprob and, among equals, by id: an engine's own
    order among equals is not told by the API."""
    ids, logprobs = found.ids.copy(), found.logprobs.copy()
    # Padding (-1) goes last; lexsort's last key counts first.
    order = np.lexsort((ids[..., 1:], -logprobs[..., 1:], ids[..., 1:] < 0), axis=-1)
    ids[..., 1:] = np.take_along_axis(ids[..., 1:], order, axis=-1)
    logprobs[..., 1:] = np.take_along_axis(logprobs[..., 1:], order, axis=-1)
    return Observations(found.tokens, found.lengths, ids, logprobs)


def chat_text(prompt: Sequence[int]) -> str:
    """A text that stands for token ids in a chat: a printable character each, so that a byte-level tokenizer
    makes as many tokens of it, and others fewer."""
    return "".join(chr(33 + token % 94) for token in prompt)
