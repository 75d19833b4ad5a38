"""Requests that are preempted and recomputed because the KV cache is full, against undisturbed ones.

While the arm runs, most of the KV cache is held back (`bi_harness/engine/step_limits.py`), so that the
prompts fit and what they generate does not. A recomputed request prefills what it had decoded before.
Sources: vllm-project/vllm issues 54993 and 52522.

The scheduler preempts the requests that came last, one or two of the twelve. So the arms rotate the order,
and at least every second request is preempted in one of them. With one order stock vLLM 0.33.0 on an H200
differs in 4 to 5 of 12 prompts, with three rotations in 6 to 9.

What makes it non-vacuous: requests that were really preempted (the scheduler's own step log), the batch ran
together, and the control diverges.
"""

from dataclasses import replace

from bi_harness.workload.checkplan import CheckPlan, together
from bi_harness.workload.requests import Limits

SUBJECTS, STEPS, BLOCK = 12, 24, 128
ROTATIONS = 6
LIMITS = Limits(kv_growth=0.25)


def plan(workload):
    # Just under whole blocks of 128 tokens, so that each request needs another block while it decodes, with
    # blocks of 16 tokens too.
    lengths = [BLOCK * (1 + i % 3) - 3 - i for i in range(SUBJECTS)]
    subjects = tuple(
        workload.request(workload.prompt(f"preemption/{i}", min(length, workload.longest_prompt)), STEPS)
        for i, length in enumerate(lengths)
    )
    rounds = workload.rounds(ROTATIONS, SUBJECTS * STEPS)
    arms = tuple(
        together(f"recomputed {n}", subjects, SUBJECTS, order(workload, n), LIMITS) for n in range(rounds)
    )
    # With the prefix cache, a request that comes back finds what is left of its blocks.
    cached = tuple(replace(r, cache=f"preemption-{i}") for i, r in enumerate(subjects))
    resumed = together("resumed from the cache", cached, SUBJECTS, None, LIMITS)
    needs = (("preemptions", 1 + len(arms)),)
    return CheckPlan(subjects, (*arms, resumed), needs=needs, planted="preempted")


def order(workload, number):
    """The order of arm ``number``: a random one, rotated by two places from arm to arm."""
    places = workload.shuffled(f"preemption/{number // ROTATIONS}", SUBJECTS)
    first = number % ROTATIONS * SUBJECTS // ROTATIONS
    return places[first:] + places[:first]


def test_preemption(engine, control, workload, check):
    check.compare(engine, plan(workload))
    check.compare(control(), plan(workload))
    check.conclude()
