"""A difference that is planted in a control: the lowest bit of every logprob of some requests is flipped.

It stands in for a stock engine that happens to give the same bits: the check then shows that the requests
really went through what the check is about, and that the comparison sees the smallest difference in each of
them. It is planted where the scheduler takes what the model gave. So it needs nothing of the model runner,
and works in every process that schedules (``step_limits`` carries the order there).

Worker side: standard library, numpy and torch alone.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np


@dataclass
class Tracked:
    """Requests of one scheduler that met a condition in an earlier step."""

    preempted: set[str] = field(default_factory=set)
    cached: set[str] = field(default_factory=set)
    split: set[str] = field(default_factory=set)


def plant(kind: str, tracked: Tracked, scheduled: Any, output: Any) -> None:
    """Flip the lowest bit of the logprobs of each request that meets the condition.

    Args:
        kind: see ``workload.requests.Planted``.
        tracked: of this scheduler; brought up to date.
        scheduled: vLLM's ``SchedulerOutput`` of the step.
        output: vLLM's ``ModelRunnerOutput`` of the step; changed.

    Raises:
        AttributeError: this vLLM's outputs are not made as expected.
        ValueError: there is no such kind.
    """
    requests = set(scheduled.num_scheduled_tokens)
    for request in scheduled.scheduled_new_reqs:
        computed, length = request.num_computed_tokens, len(request.prompt_token_ids or ())
        if computed:
            tracked.cached.add(request.req_id)
        if scheduled.num_scheduled_tokens[request.req_id] < length - computed:
            tracked.split.add(request.req_id)
    if kind == "together":
        affected = requests if len(requests) > 1 else set()
    elif kind == "scored":
        affected = requests
    elif kind == "drafted":
        affected = {name for name in scheduled.scheduled_spec_decode_tokens if name in requests}
    elif kind in ("preempted", "cached", "split"):
        affected = requests & getattr(tracked, kind)
    else:
        raise ValueError(f"there is no planted difference {kind!r}")
    # A request that this step preempted has no part in it: it is affected once it is back.
    tracked.preempted |= set(getattr(scheduled, "preempted_req_ids", None) or ())
    if affected:
        _flip_sampled(output, affected)
        _flip_prompt(output, affected)


def _flip_sampled(output: Any, requests: set[str]) -> None:
    lists = output.logprobs
    if lists is None:
        return
    logprobs = np.array(lists.logprobs, np.float32)
    starts = lists.cu_num_generated_tokens
    for request in requests:
        if (index := output.req_id_to_index.get(request)) is None:
            continue
        first = index if starts is None else starts[index]
        rows = logprobs[first : first + max(1, len(output.sampled_token_ids[index]))]
        rows[:] = flipped(rows)
    output.logprobs = lists._replace(logprobs=logprobs)


def _flip_prompt(output: Any, requests: set[str]) -> None:
    for request in requests & set(output.prompt_logprobs_dict):
        tensors = output.prompt_logprobs_dict[request]
        if tensors is not None:
            import torch

            changed = torch.from_numpy(flipped(tensors.logprobs.cpu().numpy()))
            output.prompt_logprobs_dict[request] = tensors._replace(logprobs=changed)


def flipped(values: Any) -> Any:
    """A copy with the lowest bit of each finite value flipped.

    Args:
        values: float32, any shape. Infinities and NaNs stay as they are.
    """
    bits = np.array(values, np.float32).view(np.uint32)
    changed = np.where(np.isfinite(values), bits ^ np.uint32(1), bits)
    return changed.astype(np.uint32).view(np.float32)
