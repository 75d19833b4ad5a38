"""Many requests over one long prefix, against each of them alone.

What makes it non-vacuous: all of them ran together, and the control diverges. The prompts are under 256
tokens, so that alone they are on the other side of the kernels' boundary than together; with longer ones
stock vLLM 0.25.1 does not diverge in eager mode on an H200, and a pass would prove nothing.

Prefix caching is off here, so vLLM's cascade attention (vllm-project/vllm issue 32561) is not reached: that
needs an engine of its own.
"""

from dataclasses import replace

from bi_harness.workload.checkplan import CheckPlan, together

SUBJECTS, PREFIX = 12, 192


def plan(workload):
    prefix = workload.prompt("shared-prefix", min(PREFIX, workload.longest_prompt - 41))
    lengths = workload.numbers("shared-prefix-lengths", SUBJECTS, 36)
    subjects = tuple(
        replace(like, prompt=prefix + workload.prompt(f"shared-prefix/{i}", 5 + length))
        for i, (like, length) in enumerate(zip(workload.requests, lengths, strict=False))
    )
    orders = (None, workload.shuffled("shared-prefix-order", SUBJECTS))
    arms = tuple(together(f"order {n}", subjects, SUBJECTS, order) for n, order in enumerate(orders))
    return CheckPlan(subjects, arms)


def test_shared_prefix(engine, control, workload, check):
    check.compare(engine, plan(workload))
    check.compare(control(), plan(workload))
    check.conclude()
