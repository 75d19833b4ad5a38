"""Running one workload at one batch size: the arm of a comparison."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from bi_harness.certificate.records import BatchReached
from bi_harness.compare.evidence import Arm
from bi_harness.engine.client import EngineClient
from bi_harness.engine.protocol import StepSummary
from bi_harness.workload.prompts import split
from bi_harness.workload.requests import Request


def run_arm(
    engine: EngineClient,
    requests: Sequence[Request],
    batch_size: int,
    *,
    timeout_s: float,
    progress: Callable[[int, int], None] = lambda done, of: None,
) -> Arm:
    """Run all requests in bursts of ``batch_size`` and say what the scheduler made of them.

    Raises:
        EngineError: see ``EngineClient.generate``.
    """
    bursts = split(len(requests), batch_size)
    burst = engine.generate(requests, bursts, timeout_s=timeout_s, progress=progress)
    return Arm(burst.observations, batch_reached(batch_size, bursts, burst.steps))


def batch_reached(
    batch_size: int, bursts: Sequence[Sequence[int]], steps: Sequence[StepSummary]
) -> BatchReached:
    """What the arm's bursts reached, from the scheduler's steps of each.

    Raises:
        ValueError: when there is not one summary for each burst.
    """
    peaks = [s.max_requests for burst, s in zip(bursts, steps, strict=True) if len(burst) == batch_size]
    return BatchReached(
        batch_size=batch_size,
        prompts=sum(len(burst) for burst in bursts),
        steps=sum(s.steps for s in steps),
        # No whole burst at all (fewer requests than the batch size) means that the size was never reached.
        max_requests=min(peaks, default=0),
        max_tokens=max((s.max_tokens for s in steps), default=0),
    )
