"""``vllm.LLM``, stepped by hand: one scheduler, and a schedule that is the same in every run.

Worker side: standard library and vLLM alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bi_harness.engine.sampling import adapter, prompt, sampling
from bi_harness.workload.requests import Member, Request


class OfflineEngine:
    """One engine of the offline interface.

    Args:
        arguments: of ``vllm.LLM``.
        adapters: folders of the LoRA adapters.
    """

    def __init__(self, arguments: Mapping[str, Any], adapters: Sequence[str] = ()) -> None:
        import vllm

        self._llm: Any = vllm.LLM(**arguments)
        self._adapters = adapters
        self.submitted = 0
        """Requests up to now; the next one has this number for its name."""

    @property
    def vllm_config(self) -> Any:
        """vLLM's own configuration, as it came out."""
        return self._llm.llm_engine.vllm_config

    def collective_rpc(self, method: str, *args: Any) -> list[Any]:
        """What every worker answers."""
        return list(self._llm.collective_rpc(method, args=args))

    def forget(self) -> None:
        """Leave the KV cache as it was at the engine's start: nothing to be found in it, zeros in its blocks.

        Raises:
            RuntimeError: blocks of it are in use.
        """
        if not self._llm.reset_prefix_cache():
            raise RuntimeError("vLLM did not reset its prefix cache: blocks of it are in use")
        self.collective_rpc("bi_harness_clear_cache")

    def metrics(self) -> list[Any]:
        """vLLM's metrics, see ``vllm.v1.metrics.reader``."""
        return list(self._llm.get_metrics())

    def run_burst(self, requests: Sequence[Request], burst: Sequence[Member]) -> tuple[list[Any], int]:
        """Submit, abort and step until nothing is left. Returns the outputs in the burst's order (``None``
        for a request that was aborted before its end), and how many were aborted.

        The loop is that of ``LLM.generate``, with arrivals in between: counting in engine steps instead of
        seconds makes a schedule the same in every run, which no timer does.
        """
        engine = self._llm.llm_engine
        waiting = sorted(range(len(burst)), key=lambda i: (burst[i].arrival, i))
        ids: dict[str, int] = {}
        outputs: dict[int, Any] = {}
        aborted: set[int] = set()
        step = 0
        while waiting or engine.has_unfinished_requests():
            while waiting and burst[waiting[0]].arrival <= step:
                index = waiting.pop(0)
                name = f"{self.submitted}"
                self.submitted += 1
                ids[name] = index
                request = requests[burst[index].request]
                engine.add_request(
                    name, prompt(request), sampling(request), **adapter(request, self._adapters)
                )
            due = []
            for name, index in ids.items():
                limit = burst[index].abort
                if limit is not None and limit <= step and index not in outputs and index not in aborted:
                    due.append(name)
            if due:
                engine.abort_request(due)
                aborted.update(ids[name] for name in due)
            for output in engine.step() if engine.has_unfinished_requests() else ():
                if output.finished and ids[output.request_id] not in aborted:
                    outputs[ids[output.request_id]] = output
            step += 1
        return [outputs.get(index) for index in range(len(burst))], len(aborted)

    def shut_down(self) -> None:
        """End it and its processes."""
        engine_core = getattr(self._llm.llm_engine, "engine_core", None)
        if engine_core is not None:
            engine_core.shutdown()
