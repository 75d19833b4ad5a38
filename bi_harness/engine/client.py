"""Drives one engine process from the harness, with a time limit on everything."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
import selectors
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bi_harness.compare.observations import Observations
from bi_harness.engine import process, protocol
from bi_harness.engine.answers import in_api_order
from bi_harness.engine.config import EngineConfig
from bi_harness.engine.preloaded import Asked, Preload
from bi_harness.engine.process import Running
from bi_harness.engine.protocol import ProtocolError, StepSummary
from bi_harness.engine.site import on_path, with_site
from bi_harness.engine.step_probe import STEP_LOG_VARIABLE, ranks_up
from bi_harness.errors import EngineDied, EngineError, EngineStartError, EngineTimeout
from bi_harness.workload.requests import Limits, Member, Request

STOP_GRACE_S = 20.0
DEATH_POLL_S = 1.0
EXIT_WAIT_S = 5.0
_OUT_OF_MEMORY = re.compile(
    r"out of memory|OutOfMemoryError|can't allocate memory|MemoryError|No available memory|"
    r"larger than the available KV cache memory",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Ready:
    """An engine that answers: what it says it runs, what is installed around it, and the seconds it took.
    ``preloaded``: its process was forked from one that had vLLM imported."""

    effective: dict[str, Any]
    provenance: dict[str, Any]
    start_s: float
    preloaded: bool = False


@dataclass(frozen=True, slots=True)
class Burst:
    """What one arm gave: observations in burst order, and the scheduler's steps for each burst."""

    observations: Observations
    steps: tuple[StepSummary, ...]
    generate_s: float


class EngineClient:
    """One vLLM engine in a process of its own.

    Use as a context manager, or call ``close`` in the end: it returns only when every process is gone.

    Args:
        config: what to start.
        folder: for the configuration, the step log and the PYTHONPATH folder; made when missing.
        log: the file that takes all that the engine prints.
        preload: where to ask for a process that has vLLM imported; ``None`` to start one.

    Attributes:
        effective: what the engine read back of itself; empty until it is ready.
    """

    def __init__(self, config: EngineConfig, folder: Path, log: Path, preload: Preload | None = None) -> None:
        self.config = config
        self.log = log
        self._folder = folder
        self._preload = preload
        self._asked: Asked | None = None
        self._ends: tuple[int, ...] = ()
        self._process: Running | None = None
        self._commands = -1
        self._answers = -1
        self._buffer = bytearray()
        self._below: set[int] = set()
        self._stopping = False
        self.effective: dict[str, Any] = {}

    @property
    def plants(self) -> bool:
        """Whether a difference can be planted in it (``Limits.planted``)."""
        return True

    def __enter__(self) -> EngineClient:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    @property
    def pid(self) -> int | None:
        """Of the engine's process, which leads its session; ``None`` before the start and after the end."""
        return self._process.pid if self._process else None

    def spawn(self) -> None:
        """Start the process and return at once; ``wait_ready`` says when it is an engine.

        Raises:
            InfrastructureError: when the process cannot be started.
        """
        self._stopping = False
        self._folder.mkdir(parents=True, exist_ok=True)
        self._config_path.write_text(json.dumps(self.config.for_worker(), indent=2), encoding="utf-8")
        command_read, self._commands = os.pipe()
        self._answers, answer_write = os.pipe()
        self._ends = (command_read, answer_write)
        if self._preload is not None:
            self._ask(self._preload)
        if self._asked is None:
            self._start()

    @property
    def _config_path(self) -> Path:
        return self._folder / "engine.json"

    def _with_step_log(self, env: dict[str, str]) -> dict[str, str]:
        return {**env, STEP_LOG_VARIABLE: str(self._folder / "steps")}

    def _ask(self, preload: Preload) -> None:
        try:
            self._asked = preload.ask(
                python=self.config.python,
                platform=self.config.platform,
                env=self._with_step_log(on_path(self.config.env, preload.site)),
                argv=[str(self._config_path)],
                files=self._ends,
                log=self.log,
                folder=self._folder,
            )
        except OSError as error:
            self._not_preloaded(str(error))

    def _not_preloaded(self, why: str) -> None:
        with contextlib.suppress(OSError), open(self.log, "a", encoding="utf-8") as log:
            log.write(f"bi-harness: this engine imports vLLM by itself: {why}\n")

    def _start(self) -> None:
        ends = self._ends
        try:
            self._process = process.start(
                [
                    *(self.config.python, "-m", "bi_harness.engine.worker"),
                    *(str(self._config_path), *map(str, ends), str(os.getpid())),
                ],
                env=self._with_step_log(with_site(self.config.env, self._folder / "site")),
                log=self.log,
                pass_fds=ends,
            )
        finally:
            self._close_ends()

    def _close_ends(self) -> None:
        ends, self._ends = self._ends, ()
        for fd in ends:
            os.close(fd)

    def begin(self, timeout_s: float) -> None:
        """Have the process that ``spawn`` asked for, or start one: a fork waits for it, and after a minute
        ends. Nothing to do where ``spawn`` started it.

        Raises:
            EngineTimeout: nobody answered.
        """
        asked, self._asked = self._asked, None
        if asked is None:
            return
        try:
            found = asked.answer(timeout_s)
        except TimeoutError:
            self.kill()
            raise EngineTimeout(self._explain(f"was not there after {timeout_s:.0f} s", None)) from None
        if isinstance(found, str):
            self._not_preloaded(found)
            self._start()
        else:
            self._process = found
            self._close_ends()

    def wait_ready(self, timeout_s: float) -> Ready:
        """Wait until the engine answers.

        Raises:
            EngineStartError: when it fails, refuses, dies or answers nonsense.
            EngineTimeout: when it takes longer; it is killed.
        """
        deadline = time.monotonic() + timeout_s
        self.begin(timeout_s)
        try:
            message = self._read(
                deadline,
                lambda: f"was not ready after {timeout_s:.0f} s{self._missing_ranks()}",
            )
        except EngineError as error:
            if isinstance(error, EngineTimeout):
                raise
            raise EngineStartError(str(error)) from error
        if message["event"] != "ready":
            self.kill()
            raise EngineStartError(self._explain("did not start", message.get("error")))
        try:
            ready = Ready(
                dict(message["effective"]),
                message["provenance"],
                float(message["start_s"]),
                message.get("preloaded") is True,
            )
        except (KeyError, TypeError, ValueError) as error:
            self.kill()
            what = "did not say what it is"
            raise EngineStartError(self._explain(what, f"{type(error).__name__}: {error}")) from error
        self.effective = ready.effective
        return ready

    def startup(self, *, timeout_s: float) -> tuple[dict[str, Any], ...]:
        """What the start of each worker compiled, loaded and saved, see ``engine.startup_counters``.

        Raises:
            EngineDied, EngineTimeout, EngineError: what became of the engine; it is of no more use.
        """
        deadline = time.monotonic() + timeout_s
        self._send({"do": "startup"}, deadline)
        message = self._read(deadline, lambda: f"did not tell its counters within {timeout_s:.0f} s")
        ranks = message.get("ranks")
        told = isinstance(ranks, list) and bool(ranks) and all(isinstance(rank, dict) for rank in ranks)
        if message["event"] != "startup" or not told:
            self.kill()
            raise EngineError(self._explain("did not tell its counters", message.get("error")))
        return tuple(message["ranks"])

    def modules(self, ask: str, given: Mapping[str, Any], *, timeout_s: float) -> dict[str, Any]:
        """A step of the audit of the engine's modules, see ``engine.modules.audit``.

        Raises:
            EngineDied, EngineTimeout, EngineError: what became of the engine; it is of no more use.
        """
        deadline = time.monotonic() + timeout_s
        self._send({"do": "modules", "ask": ask, "with": dict(given)}, deadline)
        message = self._read(deadline, lambda: f"did not audit its modules within {timeout_s:.0f} s")
        found = message.get("found")
        if message["event"] != "modules" or not isinstance(found, dict):
            self.kill()
            raise EngineError(self._explain("did not audit its modules", message.get("error")))
        return found

    def forget(self, *, timeout_s: float) -> None:
        """Leave the engine's KV cache as it was at its start: empty, and zeros in its blocks.

        Raises:
            EngineDied, EngineTimeout, EngineError: what became of the engine; it is of no more use.
        """
        deadline = time.monotonic() + timeout_s
        self._send({"do": "forget"}, deadline)
        message = self._read(deadline, lambda: f"did not empty its cache within {timeout_s:.0f} s")
        if message["event"] != "forgotten":
            self.kill()
            raise EngineError(self._explain("did not empty its cache", message.get("error")))

    def watch(self, order: Mapping[str, Any] | None, *, timeout_s: float) -> tuple[dict[str, Any], ...]:
        """Have the engine watch a request go through its modules while it generates; ``None`` ends that.

        Args:
            order: see ``engine.watch.watcher.Order``; its ``request`` is how many requests will be submitted
                before it, from now on.
            timeout_s: to answer.

        Returns:
            What each rank has seen since the last call.

        Raises:
            EngineDied, EngineTimeout, EngineError: what became of the engine; it is of no more use.
        """
        deadline = time.monotonic() + timeout_s
        self._send({"do": "watch", "order": dict(order) if order is not None else None}, deadline)
        message = self._read(deadline, lambda: f"did not tell of its modules within {timeout_s:.0f} s")
        ranks = message.get("ranks")
        told = isinstance(ranks, list) and bool(ranks) and all(isinstance(rank, dict) for rank in ranks)
        if message["event"] != "watched" or not told:
            self.kill()
            raise EngineError(self._explain("did not tell of its modules", message.get("error")))
        return tuple(message["ranks"])

    def generate(
        self,
        requests: Sequence[Request],
        bursts: Sequence[Sequence[int | Member]],
        *,
        timeout_s: float,
        progress: Callable[[int, int], None] = lambda done, of: None,
        limits: Limits | None = None,
    ) -> Burst:
        """Run bursts one after the other; the requests of a burst are submitted together.

        Args:
            requests: what the bursts' indices mean.
            bursts: indices into ``requests``, or members with an arrival; every request is in one burst.
            timeout_s: for all of them.
            progress: called with bursts done and bursts in all.
            limits: what the scheduler is held to meanwhile.

        Returns:
            The observations, in the order of ``requests``; of a request with ``n`` sequences, ``n`` rows.

        Raises:
            EngineDied, EngineTimeout, EngineError: what became of the engine; it is of no more use.
        """
        members = [[m if isinstance(m, Member) else Member(m) for m in burst] for burst in bursts]
        order = [member.request for burst in members for member in burst]
        if sorted(order) != list(range(len(requests))):
            raise ValueError("every request must be in exactly one burst")
        deadline = time.monotonic() + timeout_s
        self._send(
            {
                "do": "generate",
                "requests": [r.to_json() for r in requests],
                "bursts": [[member.to_json() for member in burst] for burst in members],
                **({"limits": asdict(limits)} if limits is not None else {}),
            },
            deadline,
        )
        while True:
            message = self._read(deadline, lambda: f"did not finish within {timeout_s:.0f} s")
            if message["event"] == "progress":
                progress(int(message.get("done", 0)), int(message.get("of", 0)))
            elif message["event"] == "result":
                break
            else:
                self.kill()
                raise EngineError(self._explain("failed while generating", message.get("error")))
        try:
            arrays = message["observations"]
            observations = Observations(
                *(protocol.decode_array(arrays[name]) for name in ("tokens", "lengths", "ids", "logprobs"))
            )
            observations = observations.reordered(row_order(requests, order))
            return Burst(
                observations=in_api_order(observations) if self.config.api_order else observations,
                steps=tuple(StepSummary(**s) for s in message["steps"]),
                generate_s=float(message["generate_s"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            self.kill()
            what = "answered with observations that make no sense"
            raise EngineError(self._explain(what, f"{type(error).__name__}: {error}")) from error

    def close(self) -> None:
        """End the engine and wait until all its processes are gone. Safe to call twice."""
        self.ask_to_stop()
        self._end(STOP_GRACE_S)

    def ask_to_stop(self) -> None:
        """Tell the engine to end, without waiting: of several, all can be told before one is waited for."""
        if self._process is not None and self._process.poll() is None and not self._stopping:
            self._stopping = True
            with contextlib.suppress(OSError, EngineError):
                self._send({"do": "stop"}, time.monotonic() + 1)

    def kill(self) -> None:
        """End it at once."""
        self._end(0)

    def _end(self, grace_s: float) -> None:
        if self._asked is not None:
            self._asked.cancel()
            self._asked = None
        self._close_ends()
        if self._process is not None:
            process.stop(self._process, grace_s=grace_s, known=self._below)
            self._process = None
        for fd in (self._commands, self._answers):
            if fd >= 0:
                os.close(fd)
        self._commands = self._answers = -1

    def _send(self, message: dict[str, Any], deadline: float) -> None:
        self._must_run()
        data = memoryview(protocol.encode_line(message))
        os.set_blocking(self._commands, False)
        with selectors.DefaultSelector() as selector:
            selector.register(self._commands, selectors.EVENT_WRITE)
            while data:
                if not selector.select(max(0.0, deadline - time.monotonic())):
                    self.kill()
                    raise EngineTimeout(self._explain("does not read its commands", None))
                try:
                    data = data[os.write(self._commands, data) :]
                except BrokenPipeError:
                    raise self._death() from None

    def _read(self, deadline: float, too_late: Callable[[], str]) -> dict[str, Any]:
        running = self._must_run()
        self._look_below(running)
        seen = 0
        with selectors.DefaultSelector() as selector:
            selector.register(self._answers, selectors.EVENT_READ)
            while (end := self._buffer.find(b"\n", seen)) < 0:
                seen = len(self._buffer)
                # Dead before the look at the pipe, so that nothing it wrote last is missed. Its children may
                # have inherited the pipe and hold it open.
                dead = running.poll() is not None
                left = deadline - time.monotonic()
                if not selector.select(0.0 if dead else min(max(0.0, left), DEATH_POLL_S)):
                    if dead:
                        raise self._death()
                    if left > 0:
                        self._look_below(running)
                        continue
                    self.kill()
                    raise EngineTimeout(self._explain(too_late(), None))
                data = os.read(self._answers, 1 << 20)
                if not data:
                    raise self._death()
                self._buffer += data
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 1]
        try:
            message = protocol.decode_line(line)
            if not isinstance(message.get("event"), str):
                raise ProtocolError(f"no event: {line[:200]!r}")
        except ProtocolError as error:
            self.kill()
            raise EngineError(self._explain("answered with what is no message", str(error))) from error
        return message

    def _look_below(self, running: Running) -> None:
        # Of an engine that dies by itself, the processes in sessions of their own cannot be found afterwards.
        # The last look is kept, not all of them: an old session's number may be someone else's by now.
        self._below = process.sessions_below(running.pid) or self._below

    def _must_run(self) -> Running:
        if self._process is None:
            raise EngineError(f"the {self.config.arm} engine is not running")
        return self._process

    def _death(self) -> EngineDied:
        ended = self._must_run()
        with contextlib.suppress(subprocess.TimeoutExpired):
            ended.wait(EXIT_WAIT_S)
        code = ended.poll()
        self.kill()
        how = "closed its pipe without an answer" if code is None else f"died ({process.describe_exit(code)})"
        return EngineDied(self._explain(how, None))

    def _missing_ranks(self) -> str:
        """Which data parallel ranks did not come up, where there are several."""
        size = int(self.config.llm.get("data_parallel_size", 1))
        missing = sorted(set(range(size)) - ranks_up(self._folder / "steps")) if size > 1 else []
        if not missing:
            return ""
        return f" (of {size} data parallel ranks, {', '.join(map(str, missing))} did not come up)"

    def _explain(self, what: str, error: str | None) -> str:
        return explain(f"the {self.config.arm} engine {what}", error, self.log)


def explain(what: str, error: str | None, log: Path) -> str:
    """What became of an engine, in one sentence: its own error, else the last one in its log."""
    tail = log_tail(log)
    memory = "it ran out of memory: " if _OUT_OF_MEMORY.search(f"{error or ''}\n{tail}") else ""
    detail = error or last_error_line(tail)
    return f"{what}: {memory}{detail or 'its log says nothing'}"


def row_order(requests: Sequence[Request], order: Sequence[int]) -> list[int]:
    """For each row of the answer, its row in the order of ``requests``: a request has ``n`` rows.

    Args:
        order: the requests' indices, as they were submitted.
    """
    first = list(itertools.accumulate((r.n for r in requests), initial=0))
    return [first[index] + i for index in order for i in range(requests[index].n)]


def log_tail(path: Path, size: int = 64 * 1024) -> str:
    """The end of a log file; empty when there is none."""
    try:
        with open(path, "rb") as file:
            file.seek(0, os.SEEK_END)
            file.seek(max(0, file.tell() - size))
            return file.read().decode("utf-8", errors="replace")
    except OSError:
        return ""


def last_error_line(text: str) -> str:
    """The last line that names an error, else the last line that is not blank."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    # vLLM logs harmless warnings that quote an exception ("Tokenizer not available ...").
    lines = [line for line in lines if not re.search(r"\b(WARNING|INFO|DEBUG)\b", line)] or lines
    errors = [line for line in lines if re.search(r"\b\w*(Error|Exception)\b", line)]
    return (errors or lines or [""])[-1][:500]
