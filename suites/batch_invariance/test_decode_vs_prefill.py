"""The logprobs of every decoded token against one prefill of the same tokens.

A trainer scores in one prefill what a rollout decoded step by step, and the two must agree. Each subject's
prompt is continued by what it generated alone, and the prompt logprobs of that part are compared. Source:
vLLM's own `decode_logprobs_match_prefill_logprobs`, which fails on an H200 with FLASH_ATTN of 0.25.1.

What makes it non-vacuous: every generated token was scored, together with others too, and the control
diverges.
"""

from dataclasses import replace

from bi_harness.workload.checkplan import CheckPlan, together

SUBJECTS, SIZE = 8, 8


def plan(workload):
    steps = workload.requests[0].max_tokens
    count = min(len(workload.requests), max(SUBJECTS, workload.rounds(1, 2 * steps)))
    subjects = workload.requests[:count]
    arms = (together("prefilled alone", subjects, 1), together("prefilled together", subjects, SIZE))
    return CheckPlan(subjects, tuple(replace(arm, scored=True) for arm in arms), planted="scored")


def test_decode_vs_prefill(engine, control, workload, check):
    check.compare(engine, plan(workload))
    check.compare(control(), plan(workload))
    check.conclude()
