"""Requests alone, together, and beside prefills of thousands of tokens, on every parallel size.

Tensor parallel, each layer ends in an all-reduce whose message grows with the tokens of the step, and which
picks its algorithm by the message's size: a step of one token and one of thousands are on both sides of every
threshold. Data parallel, requests go to the ranks in turn. The same check on several sizes is what the
certificate compares across them. Sources: vllm-project/vllm issues 50136 and 50505.

vLLM has an all-reduce kernel of its own for messages below a few MiB, which its invariance mode switches off;
the second check does so in both arms.

What makes it non-vacuous: batches that ran together, with data parallel bursts that reached both ranks, and a
control that diverges.
"""

from bi_harness.workload.checkplan import ArmPlan, CheckPlan, together
from bi_harness.workload.requests import Member

NEIGHBOURS = 8


def plan(workload, dp):
    subjects = workload.greedy(workload.requests, workload.requests[0].max_tokens)
    neighbours = tuple(
        workload.neighbour(f"parallel/{i}", workload.longest_prompt - 3 * i) for i in range(NEIGHBOURS)
    )
    count = len(subjects) + NEIGHBOURS
    order = workload.shuffled("parallel", count)
    beside = ArmPlan(
        name="beside long prefills",
        requests=(*subjects, *neighbours),
        bursts=(tuple(Member(index) for index in order),),
        subjects=tuple(range(len(subjects))),
        batch_size=count,
    )
    backwards = together("together", subjects, len(subjects), list(range(len(subjects)))[::-1])
    spread = (("spread_bursts", 2),) if dp > 1 else ()
    return CheckPlan(subjects, (backwards, beside), needs=spread)


def test_parallel(engine, control, workload, cell, check):
    check.compare(engine, plan(workload, cell.dp))
    check.compare(control(), plan(workload, cell.dp))
    check.conclude()


def test_parallel_nccl(engine, control, workload, cell, check):
    check.compare(engine, plan(workload, cell.dp))
    check.compare(control(), plan(workload, cell.dp))
    check.conclude()
