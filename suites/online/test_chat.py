"""Chat completions with logprobs: one at a time, not streamed, against many, every second one streamed.

The prompts are texts that stand for the workload's, through a chat template that is the same for every model.
Two arms of each size, one the other's order backwards: where the size is even and whole, a request that is
streamed in the one is not in the other.

What makes it non-vacuous: as in ``test_completions``.
"""

from bi_harness.workload.checkplan import ArmPlan, CheckPlan
from bi_harness.workload.requests import Member


def at_once(subjects, name, size, order):
    bursts = tuple(
        tuple(Member(index) for index in order[start : start + size]) for start in range(0, len(order), size)
    )
    return ArmPlan(name, tuple(subjects), bursts, tuple(range(len(subjects))), max(1, size // 2))


def plan(workload, dp):
    subjects = workload.requests
    order = workload.shuffled("online/chat", len(subjects))
    arms = tuple(
        at_once(subjects, f"{size} at once{name}", size, way)
        for size in workload.batch_sizes
        for name, way in (("", order), (", backwards", order[::-1]))
    )
    spread = (("spread_bursts", 1),) if dp > 1 else ()
    return CheckPlan(subjects, arms, needs=spread, never=("cached_tokens",))


def test_chat(engine, control, workload, cell, check):
    check.compare(engine.speaking("chat", "alternate"), plan(workload, cell.dp))
    check.compare(control().speaking("chat", "alternate"), plan(workload, cell.dp))
    check.conclude()
