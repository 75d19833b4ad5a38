"""Requests alone against the same requests at random places among long random fillers.

What makes it non-vacuous: the whole haystack really ran together (the scheduler's own step log), and the
control diverges. Source of the idea: vLLM's needle test, which compares texts and may try three times;
here the logprobs' bits are compared, once.
"""

from bi_harness.workload.checkplan import ArmPlan, CheckPlan
from bi_harness.workload.requests import Member

NEEDLES = 8
HAYSTACKS = 3  # at least
SIZE = 33


def haystack(workload, needles, number):
    lengths = workload.numbers(f"needle-lengths/{number}", SIZE - len(needles), 500)
    fillers = [
        workload.neighbour(f"needle-filler/{number}/{i}", min(50 + length, workload.longest_prompt))
        for i, length in enumerate(lengths)
    ]
    places = workload.shuffled(f"needle-places/{number}", SIZE)
    return ArmPlan(
        name=f"haystack {number}",
        requests=(*needles, *fillers),
        bursts=(tuple(Member(place) for place in places),),
        subjects=tuple(range(len(needles))),
        batch_size=SIZE,
    )


def plan(workload):
    needles = workload.requests[:NEEDLES]
    rounds = workload.rounds(HAYSTACKS, NEEDLES * needles[0].max_tokens)
    return CheckPlan(needles, tuple(haystack(workload, needles, n) for n in range(rounds)))


def test_needle(engine, control, workload, check):
    check.compare(engine, plan(workload))
    check.compare(control(), plan(workload))
    check.conclude()
