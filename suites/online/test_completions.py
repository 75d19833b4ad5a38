"""Completions over HTTP: one at a time against many at once, and streamed against not streamed.

What makes it non-vacuous: at least half of the requests that were sent at once ran in one engine step, with
data parallel on every rank, nothing came from the prefix cache, and a control, the same server without
invariance, that diverges.
"""

from bi_harness.workload.checkplan import ArmPlan, CheckPlan
from bi_harness.workload.requests import Member


def at_once(workload, subjects, name, size):
    """All subjects, ``size`` of them sent at once, in another order each: they go over the clients in turn.
    They do not arrive at once, so half of them in one step is what is asked for."""
    order = workload.shuffled(f"online/{name}", len(subjects))
    bursts = tuple(
        tuple(Member(index) for index in order[start : start + size]) for start in range(0, len(order), size)
    )
    return ArmPlan(name, tuple(subjects), bursts, tuple(range(len(subjects))), max(1, size // 2))


def plan(workload, dp, arms):
    spread = (("spread_bursts", 1),) if dp > 1 else ()
    return CheckPlan(workload.requests, arms, needs=spread, never=("cached_tokens",))


def completions(workload, dp):
    arms = tuple(at_once(workload, workload.requests, f"{n} at once", n) for n in workload.batch_sizes)
    return plan(workload, dp, arms)


def streaming(workload, dp):
    sizes = (1, *workload.batch_sizes)
    arms = tuple(at_once(workload, workload.requests, f"{n} at once, streamed", n) for n in sizes)
    return plan(workload, dp, arms)


def test_completions(engine, control, workload, cell, check):
    check.compare(engine, completions(workload, cell.dp))
    check.compare(control(), completions(workload, cell.dp))
    check.conclude()


def test_streaming(against_plain, workload, cell, check):
    against_plain(streaming(workload, cell.dp), view=lambda server: server.speaking(stream="always"))
    check.conclude()


def test_expert_parallel(engine, control, workload, cell, check):
    check.compare(engine, completions(workload, cell.dp))
    check.compare(control(), completions(workload, cell.dp))
    check.conclude()
