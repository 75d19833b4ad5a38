"""Faults between the logits and the answer. Each function patches classes of this process's vLLM."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from bi_harness.engine import step_probe


def sampler_seed() -> None:
    """All seeded rows draw from one generator."""
    _generators(lambda rows, own: dict.fromkeys(own, own[min(own)]) if own else own)


def greedy_neighbour() -> None:
    """A seeded row's generator moves on when there are rows without a seed."""
    import torch

    def advance(rows: int, own: Any) -> Any:
        if rows > len(own):
            for generator in own.values():
                torch.randint(0, 2, (1,), generator=generator)
        return own

    _generators(advance)


def top_k_65() -> None:
    """One token less above 64 rows."""
    from vllm.v1.sample.ops import topk_topp_sampler

    stock = topk_topp_sampler.apply_top_k_top_p

    def apply_top_k_top_p(logits: Any, k: Any, p: Any, *args: Any, **kwargs: Any) -> Any:
        if k is not None and logits.shape[0] > 64:
            k = (k - 1).clamp(min=1)
        return stock(logits, k, p, *args, **kwargs)

    topk_topp_sampler.apply_top_k_top_p = apply_top_k_top_p


def logprob_dtype() -> None:
    """bfloat16 from 32 rows on."""
    _coarse(lambda rows: rows >= 32)


def one_size() -> None:
    """bfloat16 at 17 rows."""
    _coarse(lambda rows: rows == 17)


def first_request() -> None:
    """bfloat16 in the first call."""
    calls: list[int] = []

    def first(rows: int) -> bool:
        calls.append(rows)
        return len(calls) == 1

    _coarse(first)


def one_ulp() -> None:
    """One row's last top-k logprob, where that is not the sampled token's."""
    import torch
    from vllm.v1.sample.sampler import Sampler

    stock = Sampler.gather_logprobs

    def gather_logprobs(logprobs: Any, num_logprobs: int, token_ids: Any) -> Any:
        found = stock(logprobs, num_logprobs, token_ids)
        values, ids = found.logprobs, found.logprob_token_ids
        row = values.shape[0] // 2
        if values.shape[0] > 8 and values.shape[1] > 1 and ids[row, -1] != ids[row, 0]:
            values[row, -1] = torch.nextafter(values[row, -1], values.new_tensor(float("-inf")))
        return found

    Sampler.gather_logprobs = staticmethod(gather_logprobs)


def rank_seed() -> None:
    """Another seed on the ranks after the first."""
    from vllm.v1.core.sched.scheduler import Scheduler

    stock = Scheduler.add_request

    def add_request(self: Any, request: Any) -> Any:
        params = request.sampling_params
        seeded = params is not None and params.seed is not None
        if step_probe.data_parallel_rank(self.vllm_config) and seeded:
            params.seed += 1
        return stock(self, request)

    Scheduler.add_request = add_request


def abort_corrupts() -> None:
    """The step after an abort has another first row."""
    from vllm.v1.core.sched.scheduler import Scheduler
    from vllm.v1.request import RequestStatus
    from vllm.v1.sample.sampler import Sampler

    finish, forward = Scheduler.finish_requests, Sampler.forward
    aborted: list[bool] = []

    def finish_requests(self: Any, request_ids: Any, finished_status: Any) -> Any:
        done = finish(self, request_ids, finished_status)
        if done and finished_status == RequestStatus.FINISHED_ABORTED and self.running:
            aborted[:] = [True]
        return done

    def corrupted(self: Any, logits: Any, *args: Any, **kwargs: Any) -> Any:
        if aborted:
            aborted.clear()
            logits[0, ::2] *= 1.0 + 2.0**-6
        return forward(self, logits, *args, **kwargs)

    Scheduler.finish_requests = finish_requests
    Sampler.forward = corrupted


def _generators(change: Callable[[int, Any], Any]) -> None:
    from vllm.v1.sample.ops.topk_topp_sampler import TopKTopPSampler

    def changed(stock: Callable[..., Any]) -> Callable[..., Any]:
        def forward(self: Any, logits: Any, generators: Any, k: Any, p: Any) -> Any:
            return stock(self, logits, change(logits.shape[0], generators), k, p)

        return forward

    for name in ("forward_cpu", "forward_native"):
        setattr(TopKTopPSampler, name, changed(getattr(TopKTopPSampler, name)))


def _coarse(when: Callable[[int], bool]) -> None:
    """Compute logprobs in bfloat16 when the number of rows says so."""
    import torch
    from vllm.v1.sample.sampler import Sampler

    stock = Sampler.compute_logprobs

    def compute_logprobs(logits: Any) -> Any:
        if when(logits.shape[0]):
            return logits.to(torch.bfloat16).log_softmax(dim=-1).float()
        return stock(logits)

    Sampler.compute_logprobs = staticmethod(compute_logprobs)
