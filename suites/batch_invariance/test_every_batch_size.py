"""A few long requests in a batch that shrinks by one request at every step: each size is met in decoding.

A kernel can go wrong at one size alone, and a list of sizes will not have it. Each neighbour generates one
token more than the one before, so that the batch runs from the largest size that the engine admits down to
the subjects.

What makes it non-vacuous: the whole batch ran together, every later size follows from the neighbours'
lengths, and the control diverges.
"""

from dataclasses import replace

from bi_harness.workload.checkplan import ArmPlan, CheckPlan
from bi_harness.workload.requests import Member

SUBJECTS = 3


def arm(workload, subjects, number):
    size = workload.max_batch
    neighbours = tuple(
        replace(workload.neighbour(f"every-size/{number}/{i}", 3 + (7 * i) % 23), max_tokens=1 + i)
        for i in range(size - len(subjects))
    )
    order = workload.shuffled(f"every-size/{number}", size)
    return ArmPlan(
        name=f"shrinking {number}",
        requests=(*subjects, *neighbours),
        bursts=(tuple(Member(index) for index in order),),
        subjects=tuple(range(len(subjects))),
        batch_size=size,
    )


def plan(workload):
    steps = workload.max_batch - SUBJECTS + 1
    subjects = tuple(
        replace(r, prompt=workload.prompt(f"every-size/{i}", 9 + 8 * i), max_tokens=steps)
        for i, r in enumerate(workload.requests[2 : 2 + SUBJECTS])
    )
    rounds = workload.rounds(1, SUBJECTS * steps)
    return CheckPlan(subjects, tuple(arm(workload, subjects, number) for number in range(rounds)))


def test_every_batch_size(engine, control, workload, check):
    check.compare(engine, plan(workload))
    check.compare(control(), plan(workload))
    check.conclude()
