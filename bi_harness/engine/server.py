"""Drives one ``vllm serve`` of ours, over HTTP, with a time limit on everything."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from bi_harness.engine import process, step_limits
from bi_harness.engine.answers import Garbled, Step, observations
from bi_harness.engine.api import Api, OpenAI, Speech, Streaming, Unanswered
from bi_harness.engine.client import Burst, Ready, explain, log_tail
from bi_harness.engine.config import EngineConfig
from bi_harness.engine.effective import Refused, gather_workers, refuse_other, refuse_platform
from bi_harness.engine.protocol import StepSummary
from bi_harness.engine.serve_args import HOST, serve_arguments
from bi_harness.engine.site import with_site
from bi_harness.engine.step_probe import STEP_LOG_VARIABLE, StepLog
from bi_harness.errors import EngineDied, EngineError, EngineStartError, EngineTimeout, InfrastructureError
from bi_harness.invariance.faults.registry import PLANT_VARIABLE
from bi_harness.workload.requests import Limits, Member, Planted, Request

STOP_GRACE_S = 20.0
POLL_S = 0.2
PROBE_TIMEOUT_S = 5.0
RPC_TIMEOUT_S = 120.0
TAIL_LINES = 8

CHAT_TEMPLATE = """\
{%- for message in messages -%}
{{ message['role'] }}: {{ message['content'] }}
{% endfor -%}
"""
"""For every model alike: made checkpoints have none, and a chat is to be the same text everywhere."""


class Speaking:
    """A server that is spoken to in one way; the same interface as an engine's client.

    Args:
        whole: the server.
        speech: the way.
    """

    def __init__(self, whole: Server, speech: Speech) -> None:
        self.whole = whole
        self.speech = speech

    @property
    def config(self) -> EngineConfig:
        """The server's."""
        return self.whole.config

    @property
    def pid(self) -> int | None:
        """The server's."""
        return self.whole.pid

    @property
    def plants(self) -> bool:
        """The server's."""
        return self.whole.plants

    def generate(
        self,
        requests: Sequence[Request],
        bursts: Sequence[Sequence[int | Member]],
        *,
        timeout_s: float,
        progress: Callable[[int, int], None] = lambda done, of: None,
        limits: Limits | None = None,
    ) -> Burst:
        """As ``Server.generate``, in this way."""
        return self.whole.generate(
            requests, bursts, timeout_s=timeout_s, progress=progress, limits=limits, speech=self.speech
        )


class Server:
    """What is spoken to over the API, whoever started it. Subclasses say where it is and what it did.

    Args:
        config: what it is, or is to be.
        log: the file of its output, or of what became of it.
    """

    def __init__(self, config: EngineConfig, log: Path) -> None:
        self.config = config
        self.log = log
        self._speaking: dict[Speech, Speaking] = {}

    @property
    def pid(self) -> int | None:
        """Of its process; ``None`` where that is not ours."""
        return None

    @property
    def plants(self) -> bool:
        """Whether a difference can be planted in it: only in a server that bi-harness started."""
        return False

    @property
    def whole(self) -> Server:
        """This: what a view of it is of."""
        return self

    def speaking(self, api: Api = "completions", stream: Streaming = "never") -> Speaking:
        """This server, spoken to in another way. The same one each time, so that what requests gave alone in
        that way is known again."""
        return self._speaking.setdefault(Speech(api, stream), Speaking(self, Speech(api, stream)))

    def generate(
        self,
        requests: Sequence[Request],
        bursts: Sequence[Sequence[int | Member]],
        *,
        timeout_s: float,
        progress: Callable[[int, int], None] = lambda done, of: None,
        limits: Limits | None = None,
        speech: Speech | None = None,
    ) -> Burst:
        """Run bursts one after the other; the requests of a burst are sent at once, over several clients.

        Args, Returns: as ``EngineClient.generate``; completions that are not streamed by default.

        Raises:
            EngineDied, EngineTimeout, EngineError: what became of it; it is of no more use. A request that
                it refuses is one, with what it said.
            ValueError: a schedule, a limit or a kind of request that the API does not have.
        """
        speech = speech or Speech()
        members = [[m if isinstance(m, Member) else Member(m) for m in burst] for burst in bursts]
        order = [member.request for burst in members for member in burst]
        if sorted(order) != list(range(len(requests))):
            raise ValueError("every request must be in exactly one burst")
        planted = limits.planted if limits is not None else None
        if limits not in (None, Limits(planted=planted)) or any(
            m.arrival or m.abort is not None for burst in members for m in burst
        ):
            raise ValueError("a server takes no schedule by engine steps, and no limits")
        if planted is not None and not self.plants:
            raise ValueError("a difference is planted only in a server that bi-harness started")
        if any(r.n != 1 or r.score or r.adapter or r.processed or r.cache is not None for r in requests):
            raise ValueError(
                "over the API: requests with one sequence, and no score, adapter, cache name or "
                "processed logprobs"
            )
        self._check_up()
        began = time.monotonic()
        if planted is not None:
            self._plant(planted)
        try:
            answers, steps = asyncio.run(
                self._run(
                    [[requests[m.request] for m in burst] for burst in members], speech, timeout_s, progress
                )
            )
            found = observations(answers, [requests[i] for i in order]).reordered(order)
        except TimeoutError:
            self.kill()
            raise EngineTimeout(self._explain(f"did not finish within {timeout_s:.0f} s", None)) from None
        except Unanswered as error:
            raise self._unanswered(error) from error
        except Garbled as error:
            self.kill()
            raise EngineError(self._explain("answered with what makes no sense", str(error))) from error
        finally:
            if planted is not None:
                self._plant(None)
        return Burst(found, tuple(steps), time.monotonic() - began)

    async def _run(
        self,
        bursts: Sequence[Sequence[Request]],
        speech: Speech,
        timeout_s: float,
        progress: Callable[[int, int], None],
    ) -> tuple[list[list[Step]], list[StepSummary]]:
        api = self._api(timeout_s)
        answers: list[list[Step]] = []
        steps: list[StepSummary] = []
        try:
            async with asyncio.timeout(timeout_s):
                for number, burst in enumerate(bursts, start=1):
                    found, summary = await self._burst(api, burst, speech)
                    answers += found
                    steps.append(summary)
                    progress(number, len(bursts))
        finally:
            await api.close()
        return answers, steps

    async def _burst(
        self, api: OpenAI, burst: Sequence[Request], speech: Speech
    ) -> tuple[list[list[Step]], StepSummary]:
        raise NotImplementedError

    def _api(self, timeout_s: float) -> OpenAI:
        raise NotImplementedError

    def _check_up(self) -> None:
        """Raise ``EngineError`` where there is nothing to send to."""
        raise NotImplementedError

    def _plant(self, planted: Planted | None) -> None:
        """Plant a difference from the next engine step on, or end it. Called only where ``plants``."""
        raise NotImplementedError

    def kill(self) -> None:
        """End it at once, where it is ours to end."""
        raise NotImplementedError

    def _unanswered(self, error: Unanswered) -> EngineError:
        raise NotImplementedError

    def _explain(self, what: str, error: str | None) -> str:
        raise NotImplementedError


class ServerClient(Server):
    """One ``vllm serve`` in a process of its own, on loopback and a free port.

    The same interface as ``EngineClient``. Use as a context manager, or call ``close`` in the end: it returns
    only when every process is gone.

    Args:
        config: what to start.
        folder: for the configuration, the step log and the PYTHONPATH folder; made when missing.
        log: the file that takes all that the server prints.
        port: on loopback; a free one by default.
    """

    def __init__(self, config: EngineConfig, folder: Path, log: Path, *, port: int | None = None) -> None:
        super().__init__(config, log)
        self._folder = folder
        self._given = port
        self._port = 0
        self._held: socket.socket | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._below: set[int] = set()
        self._stopping = False
        # Nobody else's server goes by this name or takes this key.
        self._name = f"bi-harness-{secrets.token_hex(8)}"
        self._key = secrets.token_hex(16)
        self._steps = StepLog(str(folder / "steps"))
        self._bursts = 0

    def __enter__(self) -> ServerClient:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    @property
    def pid(self) -> int | None:
        """Of the server's process, which leads its session; ``None`` before the start and after the end."""
        return self._process.pid if self._process else None

    @property
    def plants(self) -> bool:
        """See ``Server``."""
        return True

    def _plant(self, planted: Planted | None) -> None:
        step_limits.write(str(self._folder / "steps"), step_tokens=None, free_blocks=None, planted=planted)

    @property
    def url(self) -> str:
        """Where it answers, without ``/v1``."""
        return f"http://{HOST}:{self._port}"

    def spawn(self) -> None:
        """Start the process and return at once; ``wait_ready`` says when it is a server.

        Raises:
            InfrastructureError: when the process cannot be started or there is no free port.
            UsageError: its arguments have no form on a command line.
        """
        self._stopping = False
        steps = self._folder / "steps"
        steps.mkdir(parents=True, exist_ok=True)
        config_path, template = self._folder / "engine.json", self._folder / "chat.jinja"
        config_path.write_text(json.dumps(self.config.for_worker(), indent=2), encoding="utf-8")
        template.write_text(CHAT_TEMPLATE, encoding="utf-8")
        self._port = self._given or self._hold_port()
        self._process = process.start(
            [
                *(self.config.python, "-m", "bi_harness.engine.serve", str(os.getpid()), str(config_path)),
                *serve_arguments(
                    self.config.llm, port=self._port, name=self._name, chat_template=str(template)
                ),
            ],
            env={
                **with_site(self.config.env, self._folder / "site"),
                STEP_LOG_VARIABLE: str(steps),
                # Not on the command line, which everybody on the host can read.
                "VLLM_API_KEY": self._key,
            },
            log=self.log,
        )

    def _hold_port(self) -> int:
        """A free port that nobody else is given until the server listens on it: bound here, too, which Linux
        allows while neither listens and both ask for it (SO_REUSEADDR, as vLLM does)."""
        held = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            held.bind((HOST, 0))
        except OSError as error:
            held.close()
            raise InfrastructureError(f"no free port on {HOST}: {error}") from error
        self._held = held
        return int(held.getsockname()[1])

    def wait_ready(self, timeout_s: float) -> Ready:
        """Wait until the server answers, and see that it is ours and what was asked for.

        Raises:
            EngineStartError: when it fails, dies, is another one, or runs something else.
            EngineTimeout: when it takes longer; it is killed.
        """
        began = time.monotonic()
        deadline = began + timeout_s
        running = self._must_run()
        while not self._healthy():
            self._below = process.sessions_below(running.pid) or self._below
            if running.poll() is not None:
                raise self._did_not_start(
                    f"ended before it was ready ({process.describe_exit(running.poll())})"
                )
            if time.monotonic() > deadline:
                self.kill()
                raise EngineTimeout(self._explain(f"was not ready after {timeout_s:.0f} s", None))
            time.sleep(POLL_S)
        self._release_port()
        self._below = process.sessions_below(running.pid) or self._below
        try:
            self._be_ours()
            effective, provenance = self._read_back(max(1.0, deadline - time.monotonic()))
        except (OSError, ValueError, KeyError, TypeError, Refused) as error:
            # One that died in between left a port that another may answer on.
            time.sleep(POLL_S)
            if running.poll() is not None:
                raise self._did_not_start(f"ended ({process.describe_exit(running.poll())})") from error
            raise self._did_not_start("is not what was asked for", str(error)) from error
        self._steps.read()
        return Ready(effective, provenance, time.monotonic() - began)

    def _healthy(self) -> bool:
        try:
            self._get("/health")
        except (OSError, ValueError):
            return False
        return True

    def _be_ours(self) -> None:
        """See that what answers on the port is the process that was started.

        Raises:
            Refused: it goes by another name.
        """
        names = [model.get("id") for model in self._get("/v1/models").get("data", ())]
        if names != [self._name]:
            raise Refused(f"another server answers on port {self._port}: it serves {names}")

    def _read_back(self, timeout_s: float) -> tuple[dict[str, Any], dict[str, Any]]:
        """What the server's workers say that they run, and the versions around them.

        Raises:
            OSError, ValueError, KeyError, TypeError: it does not say so.
            Refused: it is not what was asked for.
        """
        steps = self._folder / "steps"
        self._post("/collective_rpc", {"method": "bi_harness_server"}, min(timeout_s, RPC_TIMEOUT_S))
        told = [json.loads(p.read_text(encoding="utf-8")) for p in sorted(steps.glob("server-*.json"))]
        llm = self.config.llm
        sizes = int(llm.get("tensor_parallel_size", 1)), int(llm.get("data_parallel_size", 1))
        workers = gather_workers([one["worker"] for one in told], sizes[0] * sizes[1])
        first = told[0]
        asked = self.config.for_worker()
        refuse_platform(first["platform"], asked, vllm=first["vllm"], python=self.config.python)
        effective = {
            "vllm": first["vllm"],
            "torch": first["torch"],
            "platform": first["platform"],
            **first["settings"],
            # A dense model's ranks are told that they are alone: as many as answered.
            "data_parallel_size": len({one["worker"]["dp_rank"] for one in told}),
            **workers,
            "devices": first["devices"],
            "interface": "vllm serve",
            "checkpoint": self._checkpoint() or first["hub_commit"],
        }
        planted = self.config.env.get(PLANT_VARIABLE) or None
        refuse_other(effective, asked, planted)
        running = self._must_run()
        plugin = json.loads((steps / f"plugin-{running.pid}.json").read_text(encoding="utf-8"))
        if plugin["planted_fault"] != planted:
            raise Refused(
                f"{PLANT_VARIABLE}={planted or ''} is set, and planted in the process that takes requests is "
                f"{plugin['planted_fault'] or 'nothing'}"
            )
        return effective, first["provenance"]

    def _checkpoint(self) -> str | None:
        """The digest of the weights as it was before the start; ``None`` for those of a hub."""
        told = json.loads((self._folder / "checkpoint.json").read_text(encoding="utf-8"))
        digest = told["digest"]
        return None if digest is None else str(digest)

    def _get(self, path: str) -> dict[str, Any]:
        return self._http(urllib.request.Request(f"{self.url}{path}"), PROBE_TIMEOUT_S)  # noqa: S310

    def _post(self, path: str, body: dict[str, Any], timeout_s: float) -> dict[str, Any]:
        request = urllib.request.Request(  # noqa: S310 - http, on loopback
            f"{self.url}{path}",
            json.dumps(body).encode(),
            {"Content-Type": "application/json"},
            method="POST",
        )
        return self._http(request, timeout_s)

    def _http(self, request: urllib.request.Request, timeout_s: float) -> dict[str, Any]:
        request.add_header("Authorization", f"Bearer {self._key}")
        # A proxy of the environment has no business on loopback.
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(request, timeout=timeout_s) as answer:
            text = answer.read()
        data = json.loads(text) if text.strip() else {}
        if not isinstance(data, dict):
            raise ValueError(f"{request.full_url} answers with {text[:100]!r}")
        return data

    def _api(self, timeout_s: float) -> OpenAI:
        return OpenAI(f"{self.url}/v1", self._name, self._key, timeout_s=timeout_s, trust_env=False)

    async def _burst(
        self, api: OpenAI, burst: Sequence[Request], speech: Speech
    ) -> tuple[list[list[Step]], StepSummary]:
        first, self._bursts = self._bursts == 0, self._bursts + 1
        answering = asyncio.ensure_future(api.burst(burst, speech))
        watching = asyncio.ensure_future(self._until_death())
        try:
            await asyncio.wait({answering, watching}, return_when=asyncio.FIRST_COMPLETED)
            if not answering.done():
                raise Unanswered("its process ended", refused=False)
            found = answering.result()
        finally:
            for task in (answering, watching):
                task.cancel()
            await asyncio.gather(answering, watching, return_exceptions=True)
        summary = self._steps.read()
        return found, replace(summary, first_bursts=int(first))

    async def _until_death(self) -> None:
        running = self._must_run()
        while running.poll() is None:
            self._below = process.sessions_below(running.pid) or self._below
            await asyncio.sleep(POLL_S)
        # What it wrote last may still be on its way.
        await asyncio.sleep(POLL_S)

    def close(self) -> None:
        """End the server and wait until all its processes are gone. Safe to call twice."""
        self.ask_to_stop()
        self._end(STOP_GRACE_S)

    def ask_to_stop(self) -> None:
        """Tell the server to end, without waiting."""
        if self._process is not None and self._process.poll() is None and not self._stopping:
            self._stopping = True
            self._process.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """End it at once."""
        self._end(0)

    def _end(self, grace_s: float) -> None:
        self._release_port()
        if self._process is not None:
            process.stop(self._process, grace_s=grace_s, known=self._below)
            self._process = None

    def _release_port(self) -> None:
        if self._held is not None:
            self._held.close()
            self._held = None

    def _check_up(self) -> None:
        self._must_run()

    def _must_run(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise EngineError(f"the {self.config.arm} server is not running")
        return self._process

    def _did_not_start(self, what: str, error: str | None = None) -> EngineStartError:
        self.kill()
        return EngineStartError(self._explain(what, error))

    def _unanswered(self, error: Unanswered) -> EngineError:
        if error.refused:
            self.kill()
            return EngineError(self._explain("failed", str(error)))
        ended = self._must_run()
        deadline = time.monotonic() + PROBE_TIMEOUT_S
        while ended.poll() is None and time.monotonic() < deadline:
            time.sleep(POLL_S)
        code = ended.poll()
        self.kill()
        if code is None:
            return EngineError(self._explain("failed", str(error)))
        return EngineDied(self._explain(f"died ({process.describe_exit(code)})", None))

    def _explain(self, what: str, error: str | None) -> str:
        text = explain(f"the {self.config.arm} server {what}", error, self.log)
        tail = [line for line in log_tail(self.log).splitlines() if line.strip()][-TAIL_LINES:]
        lines = "".join(f"\n  {line[:300]}" for line in tail)
        return f"{text}\nIts log ends with:{lines}" if lines else text
