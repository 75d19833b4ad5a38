"""Many requests over one long prefix, against each of them alone.

Once each computes the prefix for itself, and once they share it through the prefix cache, which is what
vLLM's cascade attention takes for its own (vllm-project/vllm issue 32561: from 8 requests and 256 tokens on).
Two groups of prompts: under 256 tokens, so that alone they are on the other side of the kernels' boundary
than together (with longer ones stock vLLM 0.25.1 does not diverge in eager mode on an H200, and a pass would
prove nothing); and over it, for the cascade.

What makes it non-vacuous: all of a group ran together, prefixes really came from the cache, and the control
diverges.
"""

from dataclasses import replace

from bi_harness.workload.checkplan import ArmPlan, CheckPlan
from bi_harness.workload.requests import Member

SHORT, LONG = (12, 192), (10, 384)
"""Requests of a group, and the length of their prefix in tokens."""


def arm(workload, subjects, number, cache):
    """Group after group; with a cache, the prefix is there before its group comes."""
    first = SHORT[0]
    groups = (range(first), range(first, len(subjects)))
    requests = tuple(replace(r, cache=cache) for r in subjects)
    fillers = tuple(replace(requests[group[0]], max_tokens=1) for group in groups) if cache else ()
    bursts = []
    for place, group in enumerate(groups):
        if cache:
            bursts.append((Member(len(subjects) + place),))
        order = workload.shuffled(f"shared-prefix/{number}/{place}", len(group))
        bursts.append(tuple(Member(group[i]) for i in order))
    return ArmPlan(
        name=f"order {number}{', from the cache' if cache else ''}",
        requests=(*requests, *fillers),
        bursts=tuple(bursts),
        subjects=tuple(range(len(subjects))),
        batch_size=min(SHORT[0], LONG[0]),
    )


def plan(workload):
    subjects = []
    for count, length in (SHORT, LONG):
        prefix = workload.prompt(f"shared-prefix/{length}", min(length, workload.longest_prompt - 41))
        ends = workload.numbers(f"shared-prefix-lengths/{length}", count, 36)
        subjects += [
            replace(like, prompt=prefix + workload.prompt(f"shared-prefix/{length}/{i}", 5 + end))
            for i, (like, end) in enumerate(zip(workload.requests, ends, strict=False))
        ]
    rounds = workload.rounds(1, 2 * len(subjects) * subjects[0].max_tokens)
    arms = tuple(
        arm(workload, subjects, number, cache)
        for number in range(rounds)
        for cache in (None, f"shared-prefix-{number}")
    )
    # Blocks of 128 tokens: one of the short prefix, and all of the long one.
    hits = (SHORT[0] * (SHORT[1] // 128) + LONG[0] * (LONG[1] // 128)) * 128
    return CheckPlan(tuple(subjects), arms, needs=(("cached_tokens", rounds * hits),))


def test_shared_prefix(engine, control, workload, check):
    check.compare(engine, plan(workload))
    check.compare(control(), plan(workload))
    check.conclude()
