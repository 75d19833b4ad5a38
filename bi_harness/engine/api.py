"""Requests over the OpenAI API, with the official client: several clients, so several pools of connections.

Nothing is ever sent twice: a second try could hide what the first one met.
"""

from __future__ import annotations

import asyncio
import itertools
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from bi_harness.engine.answers import Garbled, Step, chat_steps, chat_text, completion_steps
from bi_harness.workload.requests import Request

CLIENTS = 4
"""Clients that a burst's requests go through in turn."""

Api = Literal["completions", "chat"]
Streaming = Literal["never", "always", "alternate"]


class Unanswered(Exception):
    """A request without an answer: it was refused, or the server is gone.

    Attributes:
        refused: whether the server said so itself.
    """

    def __init__(self, message: str, *, refused: bool) -> None:
        super().__init__(message)
        self.refused = refused


@dataclass(frozen=True, slots=True)
class Speech:
    """How requests are put to a server.

    Attributes:
        api: which of the API's two ways to ask.
        stream: whether answers come token by token; ``alternate``: every second one of a burst does.
    """

    api: Api = "completions"
    stream: Streaming = "never"

    def streams(self, place: int) -> bool:
        """Whether the request at that place of its burst is streamed."""
        return self.stream == "always" or (self.stream == "alternate" and place % 2 == 1)


class OpenAI:
    """The clients of one server, within one event loop.

    Args:
        base_url: with ``/v1``.
        model: the name that the server goes by.
        key: the API key.
        timeout_s: for one request, from its start to its last byte.
        trust_env: whether the environment's proxies are used; never for a server on loopback.
    """

    def __init__(self, base_url: str, model: str, key: str, *, timeout_s: float, trust_env: bool) -> None:
        # Here and not above: the client takes a second to import, and most commands need none.
        from openai import AsyncOpenAI, DefaultAsyncHttpxClient

        self._model = model
        self._clients = [
            AsyncOpenAI(
                base_url=base_url,
                api_key=key,
                max_retries=0,
                timeout=timeout_s,
                http_client=DefaultAsyncHttpxClient(trust_env=trust_env),
            )
            for _ in range(CLIENTS)
        ]

    async def close(self) -> None:
        """Close the connections."""
        for client in self._clients:
            await client.close()

    async def burst(self, requests: Sequence[Request], speech: Speech) -> list[list[Step]]:
        """Send the requests at once, and wait for all answers.

        Raises:
            Unanswered: one has none. The others are cancelled.
            Garbled: one's answer makes no sense.
        """
        clients = itertools.cycle(self._clients)
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [
                    group.create_task(
                        _ask(client, self._model, request, speech, stream=speech.streams(place))
                    )
                    for place, (client, request) in enumerate(zip(clients, requests, strict=False))
                ]
        except BaseExceptionGroup as errors:
            raise errors.exceptions[0] from errors
        return [task.result() for task in tasks]


async def _ask(client: Any, model: str, request: Request, speech: Speech, *, stream: bool) -> list[Step]:
    import openai

    try:
        if speech.api == "chat":
            return await _chat(client, _chat_body(model, request), stream=stream)
        return await _complete(client, _completion_body(model, request), request, stream=stream)
    except openai.APIStatusError as error:
        did = "refused" if error.status_code < 500 else "failed at"
        raise Unanswered(
            f"it {did} a request: HTTP {error.status_code}: {error.message}", refused=True
        ) from error
    except openai.APIConnectionError as error:
        cause = error.__cause__ or error
        raise Unanswered(f"no answer: {type(cause).__name__}: {cause}", refused=False) from error
    except openai.APIError as error:
        raise Unanswered(f"it broke off a request: {error.message}", refused=True) from error
    except Garbled:
        raise
    except ValueError as error:  # JSON that is none, and what pydantic says of it
        raise Garbled(f"no JSON of the API: {error}") from error
    except Exception as error:  # a connection that breaks while a stream is read comes as the transport's own
        raise Unanswered(f"no answer: {type(error).__name__}: {error}", refused=False) from error


def _common(request: Request) -> dict[str, Any]:
    """The sampling parameters, as vLLM's API names those that OpenAI's has not."""
    return {
        "temperature": request.temperature,
        "top_p": request.top_p,
        "presence_penalty": request.presence_penalty,
        "frequency_penalty": request.frequency_penalty,
        **({"seed": request.seed} if request.seed is not None else {}),
        "extra_body": {
            "top_k": request.top_k,
            "min_p": request.min_p,
            "repetition_penalty": request.repetition_penalty,
            "ignore_eos": True,
            "return_token_ids": True,
            "return_tokens_as_token_ids": True,
            # No request reads what another left in the prefix cache: a hit would skip the very prefill that
            # is compared. The library's way (skip_reading_prefix_cache) is none of the API's.
            "cache_salt": secrets.token_hex(16),
        },
    }


def _completion_body(model: str, request: Request) -> dict[str, Any]:
    return {
        "model": model,
        "prompt": list(request.prompt),
        "max_tokens": request.max_tokens,
        "logprobs": request.top_k_logprobs,
        **_common(request),
    }


def _chat_body(model: str, request: Request) -> dict[str, Any]:
    return {
        "model": model,
        "messages": [{"role": "user", "content": chat_text(request.prompt)}],
        "max_tokens": request.max_tokens,
        "logprobs": True,
        "top_logprobs": request.top_k_logprobs + 1,
        **_common(request),
    }


async def _complete(client: Any, body: dict[str, Any], request: Request, *, stream: bool) -> list[Step]:
    if not stream:
        choice = _only(await client.completions.create(**body))
        _same_prompt(choice.get("prompt_token_ids"), request)
        return completion_steps(choice)
    steps: list[Step] = []
    prompt = None
    ended = False
    async for chunk in await client.completions.create(**body, stream=True):
        choice = _only(chunk)
        prompt = prompt or choice.get("prompt_token_ids")
        steps += completion_steps(choice)
        ended = ended or bool(choice.get("finish_reason"))
    _ended(ended)
    _same_prompt(prompt, request)
    return steps


async def _chat(client: Any, body: dict[str, Any], *, stream: bool) -> list[Step]:
    if not stream:
        return chat_steps(_only(await client.chat.completions.create(**body)))
    steps: list[Step] = []
    ended = False
    async for chunk in await client.chat.completions.create(**body, stream=True):
        choice = _only(chunk)
        if choice.get("logprobs"):  # the first chunk names the role alone
            steps += chat_steps(choice)
        ended = ended or bool(choice.get("finish_reason"))
    _ended(ended)
    return steps


def _only(answer: Any) -> dict[str, Any]:
    """The one choice of an answer or a chunk.

    Raises:
        Garbled: there is another number of them.
    """
    to_dict = getattr(answer, "to_dict", None)
    choices = to_dict(mode="python", exclude_unset=False).get("choices") if to_dict is not None else None
    if not isinstance(choices, list) or len(choices) != 1 or not isinstance(choices[0], dict):
        raise Garbled(f"not one choice: {str(answer)[:200]!r}")
    return choices[0]


def _same_prompt(told: Any, request: Request) -> None:
    if told is None or list(told) != list(request.prompt):
        raise Garbled("the server answered to another prompt than the one that was sent")


def _ended(ended: bool) -> None:
    if not ended:
        raise Garbled("a stream ended without a finish_reason")
