"""Seeded sampling with temperature, top-p, top-k, penalties and n > 1, alone and with greedy neighbours.

A seeded request has a random stream of its own: who else samples beside it must not move it. The sequences
of a request with n > 1 have the seeds that follow its own, so each has a request alone to be compared with.
What makes it non-vacuous: the whole batch ran together, and the control diverges.
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
    {"temperature": 1.0, "min_p": 0.02},
    {"temperature": 0.8, "frequency_penalty": 0.4, "top_k": 50},
)
SEQUENCES = 2


def plan(workload):
    parents = tuple(
        replace(workload.requests[i], seed=workload.seed * 7919 + 10 * i, n=SEQUENCES, **setting)
        for i, setting in enumerate(SETTINGS)
    )
    subjects = tuple(replace(p, n=1, seed=p.seed + i) for p in parents for i in range(SEQUENCES))
    count = len(subjects)
    rounds = workload.rounds(1, 3 * count * subjects[0].max_tokens)
    arms = [arm for number in range(rounds) for arm in round_of(workload, subjects, parents, number)]
    return CheckPlan(subjects, tuple(arms))


def round_of(workload, subjects, parents, number):
    count = len(subjects)
    greedy = tuple(workload.neighbour(f"sampling/{number}/{i}", 20 + 11 * i) for i in range(count))
    # Greedy and sampled rows in turn: a sampler that walks the rows must skip as many as it should.
    yield ArmPlan(
        name=f"between greedy neighbours {number}",
        requests=(*subjects, *greedy),
        bursts=(tuple(Member(index) for i in range(count) for index in (count + i, i)),),
        subjects=tuple(range(count)),
        batch_size=2 * count,
    )
    yield together(f"order {number}", subjects, count, workload.shuffled(f"sampling/{number}", count)[::-1])
    order = workload.shuffled(f"sampling/n/{number}", len(parents) + count)
    yield ArmPlan(
        name=f"as sequences of one request {number}",
        requests=(*parents, *greedy),
        bursts=(tuple(Member(index) for index in order),),
        subjects=tuple(range(count)),
        batch_size=2 * count,
    )


def test_sampling(engine, control, workload, check):
    check.compare(engine, plan(workload))
    check.compare(control(), plan(workload))
    check.conclude()
