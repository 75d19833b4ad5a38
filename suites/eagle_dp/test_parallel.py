"""Requests alone, together, and beside prefills of thousands of tokens, on every parallel size.

Tensor parallel, each layer ends in an all-reduce whose message grows with the tokens of the step, and which
picks its algorithm by the message's size: a step of one token and one of thousands are on both sides of every
threshold. Data parallel, requests go to the ranks in turn. The same check on several sizes is what the
certificate compares across them. Sources: vllm-project/vllm issues 50136 and 50505.

What makes it non-vacuous: batches that ran together, with data parallel bursts that reached both ranks, and a
control that diverges.
"""

from bi_harness.workload.checkplan import ArmPlan, CheckPlan, together
from bi_harness.workload.requests import Member

SUBJECTS, STEPS, NEIGHBOURS = 8, 24, 8


def plan(workload, dp):
    subjects = workload.greedy(workload.requests[:SUBJECTS], STEPS)
    neighbours = tuple(
        workload.neighbour(f"parallel/{i}", workload.longest_prompt - 3 * i) for i in range(NEIGHBOURS)
    )
    count = SUBJECTS + NEIGHBOURS
    order = workload.shuffled("parallel", count)
    beside = ArmPlan(
        name="beside long prefills",
        requests=(*subjects, *neighbours),
        bursts=(tuple(Member(index) for index in order),),
        subjects=tuple(range(SUBJECTS)),
        batch_size=count,
    )
    backwards = together("together", subjects, SUBJECTS, list(range(SUBJECTS))[::-1])
    spread = (("spread_bursts", 2),) if dp > 1 else ()
    return CheckPlan(subjects, (backwards, beside), needs=spread)


def test_parallel(engine, control, workload, cell, check):
    check.compare(engine, plan(workload, cell.dp))
    check.compare(control(), plan(workload, cell.dp))
    check.conclude()
