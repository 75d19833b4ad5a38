"""Tokens proposed by looking up where the last ones came before, against plain decoding.

Of models whose tokens follow each other in short cycles, output repeats itself. What makes it non-vacuous:
tokens that were accepted and others that were rejected (the engine's own counters), batches that ran
together, with data parallel bursts that reached both ranks, and a control that diverges.
"""

from bi_harness.workload.checkplan import CheckPlan, together


def plan(workload, dp):
    # Those of the EAGLE checks: what they give alone is known by then.
    subjects = workload.greedy(workload.requests, workload.requests[0].max_tokens)
    count = len(subjects)
    arms = tuple(
        together(f"looked up, {n} together", subjects, n, workload.shuffled(f"ngram/{n}", count))
        for n in (1, *workload.batch_sizes)
    )
    spread = (("spread_bursts", 1),) if dp > 1 else ()
    return CheckPlan(subjects, arms, needs=(("accepted_tokens", 1), ("rejected_tokens", 1), *spread))


def test_ngram(against_plain, workload, cell, check):
    against_plain(plan(workload, cell.dp))
    check.conclude()
