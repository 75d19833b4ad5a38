"""``AsyncLLM``: the engine of vLLM's server, which is the one that runs data parallel.

Its schedulers are in processes of their own, so a burst's arrivals and aborts follow the steps that they have
logged, as closely as one process can follow another. Worker side: standard library and vLLM alone.
"""

from __future__ import annotations

import asyncio
import inspect
import itertools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bi_harness.engine.sampling import adapter, prompt, sampling
from bi_harness.engine.step_probe import StepCount
from bi_harness.workload.requests import Member, Request

_POLL_S = 0.002
_EXIT_S = 3.0
_SHUTDOWN_S = 1.0


class OnlineEngine:
    """One ``AsyncLLM`` and the event loop that it lives in.

    Args:
        arguments: of ``AsyncEngineArgs``.
        adapters: folders of the LoRA adapters.
        folder: of the step log.
    """

    def __init__(self, arguments: Mapping[str, Any], adapters: Sequence[str], folder: Path) -> None:
        self._adapters = adapters
        self._folder = folder
        self._ranks = int(arguments.get("data_parallel_size", 1))
        self._numbers = itertools.count()
        self._loop = asyncio.new_event_loop()
        self._engine: Any = self._loop.run_until_complete(_make(arguments))

    @property
    def vllm_config(self) -> Any:
        """vLLM's own configuration, as it came out."""
        return self._engine.vllm_config

    def collective_rpc(self, method: str) -> list[Any]:
        """What every worker of every rank answers: vLLM passes on the first rank's answers alone, so each
        worker leaves its own in a file."""
        for path in self._folder.glob("worker-*.json"):
            path.unlink()
        self._loop.run_until_complete(self._engine.collective_rpc(method))
        return [json.loads(p.read_text(encoding="utf-8")) for p in sorted(self._folder.glob("worker-*.json"))]

    def metrics(self) -> list[Any]:
        """vLLM's metrics, see ``vllm.v1.metrics.reader``."""
        from vllm.v1.metrics.reader import get_metrics_snapshot

        return list(get_metrics_snapshot())

    def run_burst(self, requests: Sequence[Request], burst: Sequence[Member]) -> tuple[list[Any], int]:
        """As ``OfflineEngine.run_burst``. Requests go to the ranks in turn; a request alone goes to the one
        that its number falls to, so that all ranks have requests alone, too.

        Raises:
            RuntimeError: an engine died; the message names the ranks that did.
        """
        try:
            return self._loop.run_until_complete(self._run(requests, burst))
        except Exception as error:
            dead = self._loop.run_until_complete(self._dead_ranks())
            raise RuntimeError(f"{dead or 'the engine failed'}: {type(error).__name__}: {error}") from error

    def ranks_of(self, burst: Sequence[Member]) -> set[str]:
        """Those that the burst's requests go to: ``dp0``, ``dp1``, ..."""
        return {f"dp{self._rank(burst, index)}" for index in range(len(burst))}

    def _rank(self, burst: Sequence[Member], index: int) -> int:
        return (index if len(burst) > 1 else burst[index].request) % self._ranks

    def shut_down(self) -> None:
        """End it and its processes."""
        # Nothing runs any more; left alone, vLLM waits five seconds for idle ranks, and then kills them.
        timed = "timeout" in inspect.signature(self._engine.shutdown).parameters
        self._engine.shutdown(**({"timeout": _SHUTDOWN_S} if timed else {}))
        left = asyncio.all_tasks(self._loop)
        for task in left:
            task.cancel()
        if left:
            self._loop.run_until_complete(asyncio.wait(left))
        self._loop.close()

    async def _run(self, requests: Sequence[Request], burst: Sequence[Member]) -> tuple[list[Any], int]:
        waiting = sorted(range(len(burst)), key=lambda i: (burst[i].arrival, i))
        tasks: dict[int, asyncio.Task[Any]] = {}
        aborted: set[int] = set()
        count = StepCount(self._folder)
        step = 0
        while waiting or any(not task.done() for task in tasks.values()):
            running = [task for task in tasks.values() if not task.done()]
            if waiting and not running:
                step = max(step, burst[waiting[0]].arrival)  # a gap in which nothing runs
            while waiting and burst[waiting[0]].arrival <= step:
                index = waiting.pop(0)
                tasks[index] = asyncio.ensure_future(
                    self._answer(requests[burst[index].request], self._rank(burst, index))
                )
                running.append(tasks[index])
            due = {
                i: limit
                for i, member in enumerate(burst)
                if (limit := member.abort) is not None and i not in aborted
            }
            for index, limit in due.items():
                if limit <= step and index in tasks and not tasks[index].done():
                    tasks[index].cancel()
                    aborted.add(index)
            # Nothing more to be timed: wait for the end alone.
            timed = waiting or any(i in tasks and not tasks[i].done() for i in due)
            done, _ = await asyncio.wait(
                running, timeout=_POLL_S if timed else None, return_when=asyncio.FIRST_COMPLETED
            )
            for task in done:
                if not task.cancelled() and (error := task.exception()) is not None:
                    for other in tasks.values():
                        other.cancel()
                    raise error
            step = max(step, count.read()) if timed else step
        return [
            None if index in aborted or tasks[index].cancelled() else tasks[index].result()
            for index in range(len(burst))
        ], len(aborted)

    async def _answer(self, request: Request, rank: int) -> Any:
        last = None
        async for output in self._engine.generate(
            prompt(request),
            sampling(request),
            f"{next(self._numbers)}",
            data_parallel_rank=rank if self._ranks > 1 else None,
            **adapter(request, self._adapters),
        ):
            last = output
        return last

    async def _dead_ranks(self) -> str:
        """``DP rank 1 (pid 123) ended with exit code -9``, once the processes have had time to be gone."""
        manager = getattr(getattr(self._engine.engine_core, "resources", None), "engine_manager", None)
        processes = list(getattr(manager, "processes", ()))
        for _ in range(int(_EXIT_S / 0.1)):
            if any(p.exitcode is not None for p in processes):
                break
            await asyncio.sleep(0.1)
        return "; ".join(
            f"{p.name} (pid {p.pid}) ended with exit code {p.exitcode}"
            for p in processes
            if p.exitcode is not None
        )


async def _make(arguments: Mapping[str, Any]) -> Any:
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.v1.engine.async_llm import AsyncLLM

    return AsyncLLM.from_engine_args(AsyncEngineArgs(**arguments))
