"""Seeded sampling with temperature, top-p, top-k and penalties, alone and mixed with greedy neighbours.

A seeded request has a random stream of its own: who else samples beside it must not move it. What makes it
non-vacuous: the whole batch ran together, and the control diverges.
"""

from dataclasses import replace

from bi_harness.workload.checkplan import ArmPlan, CheckPlan, together
from bi_harness.workload.requests import Member

SETTINGS = (
    {"temperature": 1.0},
    {"temperature": 0.8, "top_p": 0.9},
    {"temperature": 0.8, "top_k": 40},
    {"temperature": 1.2, "top_p": 0.95, "top_k": 100},
    {"temperature": 0.7, "presence_penalty": 0.5},
    {"temperature": 0.9, "repetition_penalty": 1.1, "top_p": 0.8},
)
ROUNDS = 2


def plan(workload):
    subjects = tuple(
        replace(workload.requests[i], seed=workload.seed * 7919 + i, **SETTINGS[i % len(SETTINGS)])
        for i in range(ROUNDS * len(SETTINGS))
    )
    count = len(subjects)
    greedy = tuple(workload.neighbour(f"sampling/{i}", 20 + 11 * i) for i in range(count))
    # Greedy and sampled rows in turn: a sampler that walks the rows must skip as many as it should.
    mixed = ArmPlan(
        name="between greedy neighbours",
        requests=(*subjects, *greedy),
        bursts=(tuple(Member(index) for i in range(count) for index in (count + i, i)),),
        subjects=tuple(range(count)),
        batch_size=2 * count,
    )
    backwards = together("backwards", subjects, count, list(range(count))[::-1])
    return CheckPlan(subjects, (mixed, backwards))


def test_sampling(engine, control, workload, check):
    check.compare(engine, plan(workload))
    check.compare(control(), plan(workload))
    check.conclude()
