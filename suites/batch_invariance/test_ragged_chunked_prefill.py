"""Ragged prompts over a token budget that splits their prefills, against each prompt prefilled whole.

The budget is the scheduler's, lowered while the arm runs (`bi_harness/engine/step_limits.py`); it leaves no
chunk at a power of two. Greedy, since a seeded request whose prefill is split crashes vLLM's CPU engine.
Source: vllm-project/vllm issue 55612.

What makes it non-vacuous: prefills that were really split (the scheduler's own step log), the batch ran
together, and the control diverges.
"""

from dataclasses import replace

from bi_harness.workload.checkplan import CheckPlan, together
from bi_harness.workload.requests import Limits

SUBJECTS, STEPS = 8, 16
TOGETHER = 2
"""The smallest budget lets few run together: the others' prefills take too many steps."""

BUDGETS = (61, 200, 333)


def plan(workload):
    lengths = [330 + n for n in workload.numbers("chunked-lengths", SUBJECTS, 570)]
    subjects = tuple(
        workload.request(
            workload.prompt(f"chunked/{i}", min(length // (1 + i % 3), workload.longest_prompt)), STEPS
        )
        for i, length in enumerate(lengths)
    )
    rounds = workload.rounds(len(BUDGETS), SUBJECTS * STEPS)
    arms = tuple(
        replace(
            together(
                f"{budget} tokens a step, order {n}",
                subjects,
                SUBJECTS,
                workload.shuffled(f"chunked/{n}", SUBJECTS),
                Limits(step_tokens=budget),
            ),
            batch_size=TOGETHER,
        )
        for n in range(rounds)
        for budget in [BUDGETS[n % len(BUDGETS)]]
    )
    alone = together("alone, 100 tokens a step", subjects, 1, limits=Limits(step_tokens=100))
    return CheckPlan(
        subjects, (alone, *arms), needs=(("split_prefills", SUBJECTS + len(arms) * SUBJECTS // 3),)
    )


def test_ragged_chunked_prefill(engine, control, workload, check):
    check.compare(engine, plan(workload))
    check.compare(control(), plan(workload))
    check.conclude()
