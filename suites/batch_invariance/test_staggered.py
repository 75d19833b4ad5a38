"""Requests that decode while others arrive, are prefilled beside them, and are aborted midway.

Arrivals are counted in engine steps, so the schedule is the same in every run. The neighbours' prefills are
of 1, 9, 10 and many tokens: kernels pick their tile by the longest query of a step (vllm-project/vllm issue
51902: the tile changes from 9 to 10).

What makes it non-vacuous: steps that prefilled and decoded at once, neighbours that were really aborted, and
a control that diverges.
"""

from dataclasses import replace

from bi_harness.workload.checkplan import ArmPlan, CheckPlan
from bi_harness.workload.requests import Member

SUBJECTS = 16
NEIGHBOURS = (1, 9, 10, 2, 17, 64, 255, 256, 300, 600)
"""Prompt lengths of the neighbours, in tokens; another arrives every second step or so."""

BOUNDARIES = (17, 32, 33, 64, 65, 128, 129, 256, 257, 512, 513)
"""Tokens of a step, on both sides of where kernels take another path; each is met once."""

SCHEDULES = 3  # at least


def arm(workload, subjects, number):
    neighbours = tuple(
        workload.neighbour(f"staggered/{number}/{i}", min(length, workload.longest_prompt))
        for i, length in enumerate(NEIGHBOURS)
    )
    members = [Member(i, arrival=number % 3 * (i % 3)) for i in range(SUBJECTS)]
    for i in range(len(neighbours)):
        arrival = 1 + 7 * ((i + 3 * number) % len(neighbours)) // 4
        # Every third is cut off in its first, second or third step of decoding.
        members.append(Member(SUBJECTS + i, arrival, arrival + 1 + i // 3 if i % 3 == 2 else None))
    return ArmPlan(
        name=f"schedule {number}",
        requests=(*subjects, *neighbours),
        bursts=(tuple(members),),
        subjects=tuple(range(SUBJECTS)),
        batch_size=SUBJECTS + 1,
    )


def boundaries(workload, number):
    """While the subjects decode, single prefills that make a step of exactly so many tokens."""
    neighbours = tuple(
        replace(workload.neighbour(f"staggered/boundary/{number}/{tokens}", tokens - SUBJECTS), max_tokens=1)
        for tokens in BOUNDARIES
        if tokens - SUBJECTS <= workload.longest_prompt
    )
    late = [Member(SUBJECTS + i, 2 + i) for i in range(len(neighbours))]
    return ArmPlan(
        name=f"boundaries {number}",
        requests=(*workload.requests[:SUBJECTS], *neighbours),
        bursts=((*(Member(i) for i in workload.shuffled(f"staggered/{number}", SUBJECTS)), *late),),
        subjects=tuple(range(SUBJECTS)),
        batch_size=SUBJECTS + 1,
    )


def plan(workload):
    subjects = workload.requests[:SUBJECTS]
    schedules = workload.rounds(SCHEDULES, SUBJECTS * subjects[0].max_tokens)
    arms = tuple(arm(workload, subjects, number) for number in range(schedules))
    mixed = schedules * len(NEIGHBOURS) // 2
    return CheckPlan(
        subjects,
        (*arms, boundaries(workload, 0)),
        needs=(("mixed_steps", mixed), ("aborted", schedules * (len(NEIGHBOURS) // 3))),
    )


def test_staggered(engine, control, workload, check):
    check.compare(engine, plan(workload))
    check.compare(control(), plan(workload))
    check.conclude()
