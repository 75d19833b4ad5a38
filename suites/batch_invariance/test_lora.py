"""Requests with several LoRA adapters, and with none, mixed in one batch against each of them alone.

Among them 16 greedy requests that are the same but for the adapter, in the manner of vllm-project/vllm
issues 50602, 50059 and 50278 (split-K with atomics in the LoRA kernels). LoRA needs an engine of its own.

What makes it non-vacuous: steps in which several adapters were active (the scheduler's own step log), the
batch ran together, and the control diverges.
"""

from dataclasses import replace

from bi_harness.workload.checkplan import CheckPlan, together

ADAPTERS, DISTINCT, SAME = 3, 12, 16


def plan(workload):
    distinct = tuple(
        replace(r, adapter=i % (ADAPTERS + 1)) for i, r in enumerate(workload.requests[:DISTINCT])
    )
    one = workload.request(workload.prompt("lora", 23), distinct[0].max_tokens)
    same = tuple(replace(one, adapter=i % (ADAPTERS + 1)) for i in range(SAME))
    subjects = (*distinct, *same)
    count = len(subjects)
    rounds = workload.rounds(2, count * one.max_tokens)
    arms = tuple(
        together(f"mixed {n}", subjects, count, workload.shuffled(f"lora/{n}", count)) for n in range(rounds)
    )
    return CheckPlan(subjects, arms, needs=(("adapter_steps", rounds * one.max_tokens // 2),))


def test_lora(engine, control, workload, check):
    check.compare(engine, plan(workload))
    check.compare(control(), plan(workload))
    check.conclude()
