"""Speaks to a server that is already running, and that nobody here started.

Nothing of its process can be looked into: no effective configuration, no step log. What it tells of itself
(``/v1/models``, ``/version``, ``/metrics``) is taken down as its own word. Whether a batch formed is read
from its ``/metrics`` while the batch runs; a server that does not tell it gives no answer, and no pass.
"""

from __future__ import annotations

import asyncio
import json
import math
import re
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from bi_harness.engine.answers import Step
from bi_harness.engine.api import OpenAI, Speech, Unanswered
from bi_harness.engine.client import Ready
from bi_harness.engine.config import EngineConfig
from bi_harness.engine.protocol import StepSummary
from bi_harness.engine.server import Server
from bi_harness.errors import EngineError, EngineStartError, UsageError
from bi_harness.workload.requests import Request

KEYS = ("BI_HARNESS_API_KEY", "OPENAI_API_KEY")
"""Variables that the key is taken from, the first that is set."""

PROBE_TIMEOUT_S = 10.0
MAX_ANSWER = 16 * 1024 * 1024
"""Bytes of what a server says of itself: it is not ours, and could go on for ever."""

MAX_NAME = 200
SAMPLE_S = 0.02
QUIET_S = 2.0

RUNNING = "vllm:num_requests_running"
MADE = "vllm:generation_tokens_total"
STEPS = "vllm:iteration_tokens_total_count"
DRAFTED = "vllm:spec_decode_num_draft_tokens_total"
CACHED = ("vllm:prefix_cache_hits_total", "vllm:prefix_cache_hits")
_LINE = re.compile(r"^([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{.*\})? +([0-9.eE+-]+)(?: +[0-9]+)?$")


def endpoint_url(text: str) -> str:
    """The base URL without ``/v1`` and without a slash at its end.

    Raises:
        UsageError: it is no http(s) URL, or holds what must not be in a report (a name, a password, a query).
    """
    wrong = f"--endpoint {_shown(text)}"
    try:
        parts = urlsplit(text.strip())
        port = parts.port
    except ValueError as error:
        raise UsageError(f"{wrong}: not a URL: {error}") from error
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UsageError(f"{wrong}: give a URL such as http://127.0.0.1:8000/v1")
    if parts.username is not None or parts.password is not None or parts.query or parts.fragment:
        raise UsageError(
            f"{wrong}: the URL is written into reports: give neither a name nor a password nor a query in "
            f"it. An API key goes into {KEYS[0]} or {KEYS[1]}"
        )
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    path = parts.path.rstrip("/").removesuffix("/v1").rstrip("/")
    return f"{parts.scheme}://{host}{f':{port}' if port is not None else ''}{path}"


def _shown(text: str) -> str:
    """The URL for an error message: nothing before an ``@`` or after a ``?``."""
    head, at, tail = text.rpartition("@")
    scheme = f"{head.split('://', 1)[0]}://" if "://" in head else ""
    return re.split(r"[?#]", f"{scheme}...@{tail}" if at else text)[0][:200]


def metrics(text: str) -> dict[str, float]:
    """Prometheus' text, summed over labels (a server has a line for each data parallel rank).

    Raises:
        ValueError: a value is no number.
    """
    found: dict[str, float] = {}
    for line in text.splitlines():
        if match := _LINE.match(line):
            value = float(match[2])
            if not math.isfinite(value):
                raise ValueError(f"{match[1][:MAX_NAME]} is no number")
            found[match[1]] = found.get(match[1], 0.0) + value
    return found


def together(before: Mapping[str, float], after: Mapping[str, float], made: int) -> int:
    """How many requests ran in one engine step at least, since so many tokens took so few steps: each step
    gives a request one token. Others' traffic makes it fewer, never more.

    Args:
        before, after: the metrics around a burst, after it with all of its tokens.
        made: tokens that the burst's requests generated.

    Returns:
        0 where the metrics do not tell, or speculation may give several tokens in a step.
    """
    steps = after.get(STEPS, 0) - before.get(STEPS, 0)
    if steps < 1 or after.get(MADE, 0) - before.get(MADE, 0) < made or DRAFTED in after:
        return 0
    return -(-made // int(steps))


class EndpointClient(Server):
    """A running server.

    Args:
        config: of the cell that it stands in for; of the server itself nothing is known.
        url: see ``endpoint_url``.
        log: takes what became of requests.
        environ: the environment, for the API key.
    """

    def __init__(self, config: EngineConfig, url: str, log: Path, environ: Mapping[str, str]) -> None:
        super().__init__(config, log)
        self.url = url
        self._key = next((environ[name] for name in KEYS if environ.get(name)), "")
        self._model = ""
        self._seen: dict[str, float] = {}

    def spawn(self) -> None:
        """Nothing is started."""

    def wait_ready(self, timeout_s: float) -> Ready:
        """Ask the server who it is.

        Raises:
            EngineStartError: it does not answer, or serves no model or several.
        """
        began = time.monotonic()
        try:
            served = self._get_json("/v1/models").get("data") or []
            names = [model["id"] for model in served]
            longest = served[0].get("max_model_len") if served else None
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise EngineStartError(
                self._explain("does not answer as a server would", _said(error))
            ) from error
        # The first is the model itself; LoRA adapters follow it, and have a parent.
        models = [name for name, model in zip(names, served, strict=True) if not model.get("parent")]
        if len(models) != 1:
            named = ", ".join(str(name)[:MAX_NAME] for name in models[:10])
            raise EngineStartError(self._explain(f"serves {len(models)} models", named))
        name: object = models[0]
        if not isinstance(name, str) or len(name) > MAX_NAME or not name.isprintable():
            raise EngineStartError(self._explain("serves a model of no usable name", repr(name)[:MAX_NAME]))
        self._model = name
        if isinstance(longest, int) and longest < self.config.llm["max_model_len"]:
            raise EngineStartError(
                self._explain(
                    f"takes {longest} tokens at most",
                    f"the workload needs {self.config.llm['max_model_len']}: start it with a longer "
                    "--max-model-len, or choose a smaller --profile",
                )
            )
        self._seen = self._metrics()
        effective = {
            "endpoint": self.url,
            "verified": False,
            "model": self._model,
            "max_model_len": longest,
            "batches_seen": "its own /metrics" if self._tells() else "not at all",
        }
        return Ready(effective, {"vllm": {"version": self._version()}}, time.monotonic() - began)

    def _version(self) -> str:
        try:
            told = self._get_json("/version").get("version")
        except (OSError, ValueError, AttributeError):
            told = None
        known = isinstance(told, str) and told.isprintable() and len(told) <= MAX_NAME
        return f"{told} (as the endpoint says)" if known else "not known (an endpoint's)"

    def _tells(self) -> bool:
        return RUNNING in self._seen and any(name in self._seen for name in CACHED)

    def _metrics(self) -> dict[str, float]:
        try:
            return metrics(self._get("/metrics").decode("utf-8", "replace"))
        except (OSError, ValueError):
            return {}

    def _get_json(self, path: str) -> dict[str, Any]:
        try:
            data = json.loads(self._get(path))
        except RecursionError as error:
            raise ValueError(f"{path} answers with lists in lists without end") from error
        if not isinstance(data, dict):
            raise ValueError(f"{path} answers with no object")
        return data

    def _get(self, path: str) -> bytes:
        request = urllib.request.Request(f"{self.url}{path}")  # noqa: S310 - http(s), see endpoint_url
        if self._key:
            request.add_header("Authorization", f"Bearer {self._key}")
        with urllib.request.urlopen(request, timeout=PROBE_TIMEOUT_S) as answer:  # noqa: S310
            found: bytes = answer.read(MAX_ANSWER + 1)
            if len(found) > MAX_ANSWER:
                raise ValueError(f"{path} answers with more than {MAX_ANSWER >> 20} MiB")
            return found

    async def _burst(
        self, api: OpenAI, burst: Sequence[Request], speech: Speech
    ) -> tuple[list[list[Step]], StepSummary]:
        if not self._tells():
            raise Unanswered(
                "its /metrics does not tell how many requests run: whether batches formed cannot be seen, "
                "and equality would show nothing. Start it without --disable-log-stats, and let /metrics "
                "through",
                refused=True,
            )
        before = await self._quiet()
        answering = asyncio.ensure_future(api.burst(burst, speech))
        peak = 0
        try:
            while not answering.done():
                now = await asyncio.to_thread(self._metrics)
                peak = max(peak, int(now.get(RUNNING, 0)))
                await asyncio.wait({answering}, timeout=SAMPLE_S)
            found = answering.result()
        finally:
            answering.cancel()
            await asyncio.gather(answering, return_exceptions=True)
        made = sum(len(steps) for steps in found)
        after = await self._settled(before, made)
        if len(burst) == 1:
            # It ran, if too shortly to be seen; more than it is somebody else's traffic, and shows.
            peak = max(peak, 1 if after.get(MADE, 0) - before.get(MADE, 0) <= made else 2)
        else:
            # What ran before the burst is not counted.
            peak = max(0, peak - int(before.get(RUNNING, 0)), together(before, after, made))
        return found, StepSummary(
            steps=0,
            max_requests=peak,
            max_tokens=0,
            preemptions=0,
            split_prefills=0,
            cached_tokens=int(_cached(after) - _cached(before)),
        )

    async def _settled(self, before: Mapping[str, float], made: int) -> dict[str, float]:
        """The metrics once they count all of the burst's tokens: those of the last step come after it."""
        deadline = time.monotonic() + QUIET_S
        while True:
            found = await asyncio.to_thread(self._metrics)
            counted = MADE not in found or found[MADE] - before.get(MADE, 0) >= made
            if counted or time.monotonic() > deadline:
                return found
            await asyncio.sleep(SAMPLE_S)

    async def _quiet(self) -> dict[str, float]:
        """The metrics once nothing runs, or as they are when others keep it busy: a gauge that still shows
        the last burst would stand for the next one."""
        deadline = time.monotonic() + QUIET_S
        while (found := await asyncio.to_thread(self._metrics)).get(RUNNING, 0):
            if time.monotonic() > deadline:
                break
            await asyncio.sleep(SAMPLE_S)
        return found

    def _api(self, timeout_s: float) -> OpenAI:
        local = urlsplit(self.url).hostname in ("127.0.0.1", "::1", "localhost")
        return OpenAI(
            f"{self.url}/v1", self._model, self._key or "none", timeout_s=timeout_s, trust_env=not local
        )

    def _check_up(self) -> None:
        if not self._model:
            raise EngineError(f"the endpoint {self.url} was not asked who it is")

    def ask_to_stop(self) -> None:
        """Nothing: it is not ours."""

    def close(self) -> None:
        """Nothing: it is not ours."""

    def kill(self) -> None:
        """Nothing: it is not ours."""

    def _unanswered(self, error: Unanswered) -> EngineError:
        return EngineError(self._explain("failed", str(error)))

    def _explain(self, what: str, error: str | None) -> str:
        text = f"the {self.config.arm} endpoint {self.url} {what}: {error or 'it says nothing'}"
        with open(self.log, "a", encoding="utf-8") as log:
            log.write(f"{text}\n")
        return text


def _cached(found: Mapping[str, float]) -> float:
    return next((found[name] for name in CACHED if name in found), 0.0)


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


def without_keys(environ: Mapping[str, str]) -> dict[str, str]:
    """The environment of an engine of ours: an endpoint's key is none of its business."""
    return {name: value for name, value in environ.items() if name not in KEYS}
