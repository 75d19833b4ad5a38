"""Requests that decode while others arrive, are prefilled beside them, and are aborted midway.

Arrivals are counted in engine steps, so the schedule is the same in every run. The neighbours' prefills are
of 1, 9, 10 and many tokens: kernels pick their tile by the longest query of a step (vllm-project/vllm issue
51902: the tile changes from 9 to 10).

What makes it non-vacuous: steps that prefilled and decoded at once, neighbours that were really aborted, and
a control that diverges.
"""

from bi_harness.workload.checkplan import ArmPlan, CheckPlan
from bi_harness.workload.requests import Member

SUBJECTS = 16
NEIGHBOURS = (1, 9, 10, 2, 17, 64, 255, 256, 300, 600)
"""Prompt lengths of the neighbours, in tokens; one arrives every second step."""


def arm(workload, number):
    subjects = workload.requests[:SUBJECTS]
    neighbours = tuple(
        workload.neighbour(f"staggered/{number}/{i}", min(length, workload.longest_prompt))
        for i, length in enumerate(NEIGHBOURS)
    )
    members = [Member(i, arrival=number * (i % 3)) for i in range(SUBJECTS)]
    for i in range(len(neighbours)):
        arrival = 2 + 2 * ((i + 3 * number) % len(neighbours))
        # Every third is cut off in its first, second or third step of decoding.
        members.append(Member(SUBJECTS + i, arrival, arrival + 1 + i // 3 if i % 3 == 2 else None))
    return ArmPlan(
        name=f"schedule {number}",
        requests=(*subjects, *neighbours),
        bursts=(tuple(members),),
        subjects=tuple(range(SUBJECTS)),
        batch_size=SUBJECTS + 1,
    )


def plan(workload):
    arms = tuple(arm(workload, number) for number in range(3))
    return CheckPlan(
        workload.requests[:SUBJECTS],
        arms,
        needs=(("mixed_steps", 3 * len(NEIGHBOURS) // 2), ("aborted", 3 * (len(NEIGHBOURS) // 3))),
    )


def test_staggered(engine, control, workload, check):
    check.compare(engine, plan(workload))
    check.compare(control(), plan(workload))
    check.conclude()
