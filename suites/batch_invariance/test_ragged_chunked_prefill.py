"""Ragged prompts over a token budget that splits their prefills, against each prompt prefilled whole.

The budget is the scheduler's, lowered while the arm runs (`bi_harness/engine/step_limits.py`); it leaves no
chunk at a power of two. Greedy, since a seeded request whose prefill is split crashes vLLM's CPU engine.
Source: vllm-project/vllm issue 55612.

What makes it non-vacuous: prefills that were really split, and in each arm a neighbour that was aborted in
the middle of one (as the engine counts them), requests that ran together, and a control that diverges.
"""

from bi_harness.workload.checkplan import ArmPlan, CheckPlan, together
from bi_harness.workload.requests import Limits, Member

SUBJECTS, STEPS = 8, 16
TOGETHER = 2
"""The smallest budget lets few run together: the others' prefills take too many steps."""

BUDGETS = (61, 200, 333)


def arm(workload, subjects, number):
    """All together over one budget, behind a neighbour that is aborted in the middle of its own prefill."""
    budget = BUDGETS[number % len(BUDGETS)]
    neighbour = workload.neighbour(f"chunked/{number}", min(3 * budget, workload.longest_prompt))
    order = workload.shuffled(f"chunked/{number}", len(subjects))
    return ArmPlan(
        name=f"{budget} tokens a step, order {number}",
        requests=(*subjects, neighbour),
        bursts=((Member(len(subjects), abort=2), *(Member(index) for index in order)),),
        subjects=tuple(range(len(subjects))),
        batch_size=TOGETHER,
        limits=Limits(step_tokens=budget),
    )


def plan(workload):
    lengths = [330 + n for n in workload.numbers("chunked-lengths", SUBJECTS, 570)]
    subjects = tuple(
        workload.request(
            workload.prompt(f"chunked/{i}", min(length // (1 + i % 3), workload.longest_prompt)), STEPS
        )
        for i, length in enumerate(lengths)
    )
    rounds = workload.rounds(len(BUDGETS), SUBJECTS * STEPS)
    arms = tuple(arm(workload, subjects, number) for number in range(rounds))
    alone = together("alone, 100 tokens a step", subjects, 1, limits=Limits(step_tokens=100))
    needs = (("split_prefills", SUBJECTS + len(arms) * SUBJECTS // 3), ("aborted", len(arms)))
    return CheckPlan(subjects, (alone, *arms), needs=needs, planted="split")


def test_ragged_chunked_prefill(engine, control, workload, check):
    check.compare(engine, plan(workload))
    check.compare(control(), plan(workload))
    check.conclude()
