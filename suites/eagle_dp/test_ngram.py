"""Tokens proposed by looking up the last ones in the prompt, against plain decoding.

Prompts repeat themselves, so that something is proposed. What makes it non-vacuous: tokens that were accepted
and others that were rejected (the engine's own counters), batches that ran together, with data parallel
bursts that reached both ranks, and a control that diverges.
"""

from dataclasses import replace

from bi_harness.workload.checkplan import CheckPlan, together


def plan(workload, dp):
    subjects = tuple(
        replace(r, prompt=(r.prompt * 3)[: workload.longest_prompt])
        for r in workload.greedy(workload.requests, workload.requests[0].max_tokens)
    )
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
