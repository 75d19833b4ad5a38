"""A request alone against the same request in batches: every token and every top-k logprob, bit by bit.

What makes it non-vacuous: each batch size really formed (the scheduler's own step log), values were
compared, and the same workload on the same engine with invariance off diverges.
"""


def test_bs1_vs_bsN(engine, control, workload, check):
    check.compare(engine, workload)
    check.compare(control(), workload)
    check.conclude()
