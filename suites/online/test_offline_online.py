"""The offline interface against the server: the same requests, one at a time over HTTP, and alone and in
batches through ``vllm.LLM`` (with data parallel, its asynchronous engine), bit for bit.

What makes it non-vacuous: batches that ran together offline, and a control, both without invariance, that
diverges.
"""

from bi_harness.workload.checkplan import CheckPlan, together


def plan(workload, dp):
    subjects = workload.requests
    arms = tuple(
        together(f"offline, {n} together", subjects, n, workload.shuffled(f"offline/{n}", len(subjects)))
        for n in (1, *workload.batch_sizes)
    )
    return CheckPlan(subjects, arms, needs=(("spread_bursts", 1),) if dp > 1 else ())


def test_offline_online(against_plain, workload, cell, check):
    against_plain(plan(workload, cell.dp))
    check.conclude()
