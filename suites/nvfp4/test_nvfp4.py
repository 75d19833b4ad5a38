"""NVFP4 checkpoints served: requests alone, in batches, and beside long prefills.

Activations are quantized in the step in which they come up, with those of all that is in it, and the matrix
product's kernel may be picked by the number of rows. Which kernel runs is read back from the engine's layers;
on GPUs it has to be the right one of `selection.yaml`.

What makes it non-vacuous: batches that formed, and the same on an engine with invariance off, which must
diverge.
"""

from bi_harness.workload.checkplan import ArmPlan, CheckPlan
from bi_harness.workload.requests import Member

NEIGHBOURS = 8


def beside_prefills(workload):
    subjects = workload.greedy(workload.requests, workload.requests[0].max_tokens)
    neighbours = tuple(
        workload.neighbour(f"nvfp4/{i}", workload.longest_prompt - 3 * i) for i in range(NEIGHBOURS)
    )
    count = len(subjects) + NEIGHBOURS
    order = workload.shuffled("nvfp4", count)
    arm = ArmPlan(
        name="beside long prefills",
        requests=(*subjects, *neighbours),
        bursts=(tuple(Member(index) for index in order),),
        subjects=tuple(range(len(subjects))),
        batch_size=count,
    )
    return CheckPlan(subjects, (arm,))


def test_bs1_vs_bsN(engine, control, workload, kernels, check):
    check.compare(engine, workload)
    kernels(engine)
    other = control()
    check.compare(other, workload)
    kernels(other)
    check.conclude()


def test_beside_prefills(engine, control, workload, kernels, check):
    check.compare(engine, beside_prefills(workload))
    kernels(engine)
    other = control()
    check.compare(other, beside_prefills(workload))
    kernels(other)
    check.conclude()
