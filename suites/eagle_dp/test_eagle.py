"""EAGLE against plain decoding, and against itself.

What makes it non-vacuous: tokens that were drafted and accepted, and others that were rejected (the engine's
own counters), or all or none of them where the check says so; batches that ran together; with data parallel,
bursts that reached both ranks; and a control, stock vLLM with and without the draft, that diverges.
"""

from dataclasses import replace

from bi_harness.workload.checkplan import CheckPlan, together


def arm(workload, subjects, name, size):
    """In another order each: requests go to the data parallel ranks in turn."""
    return together(name, subjects, size, workload.shuffled(f"eagle/{size}", len(subjects)))


def plan(workload, dp, needs, never=()):
    """Greedy: with a temperature, rejection sampling draws other tokens than plain sampling does."""
    subjects = workload.greedy(workload.requests, workload.requests[0].max_tokens)
    arms = tuple(arm(workload, subjects, f"drafted, {n} together", n) for n in (1, *workload.batch_sizes))
    spread = (("spread_bursts", 1),) if dp > 1 else ()
    return CheckPlan(subjects, arms, needs=(*needs, *spread), never=never, planted="drafted")


def test_eagle(against_plain, workload, cell, check):
    against_plain(plan(workload, cell.dp, needs=(("accepted_tokens", 1), ("rejected_tokens", 1))))
    check.conclude()


def test_eagle_accepted(against_plain, workload, cell, check):
    against_plain(plan(workload, cell.dp, needs=(("accepted_tokens", 1),), never=("rejected_tokens",)))
    check.conclude()


def test_eagle_rejected(against_plain, workload, cell, check):
    against_plain(plan(workload, cell.dp, needs=(("rejected_tokens", 1),), never=("accepted_tokens",)))
    check.conclude()


def batches(workload, dp):
    subjects = tuple(
        replace(r, temperature=0.8, seed=workload.seed * 7919 + i) for i, r in enumerate(workload.requests)
    )
    arms = tuple(arm(workload, subjects, f"{n} together", n) for n in workload.batch_sizes)
    spread = (("spread_bursts", 1),) if dp > 1 else ()
    return CheckPlan(
        subjects, arms, needs=(("accepted_tokens", 1), ("rejected_tokens", 1), *spread), planted="drafted"
    )


def test_eagle_batches(engine, control, workload, cell, check):
    check.compare(engine, batches(workload, cell.dp))
    check.compare(control(), batches(workload, cell.dp))
    check.conclude()
