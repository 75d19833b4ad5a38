"""The same burst five times, each request in it three times: every copy must have the same bits every time.

What makes it non-vacuous: all 48 requests of a burst ran together, and the control diverges. Source:
vllm-project/vllm issue 51187, where identical requests in one burst differ at about 44 resident requests, in
logprobs and not in tokens.
"""

from bi_harness.workload.checkplan import ArmPlan, CheckPlan
from bi_harness.workload.requests import Member

DISTINCT, COPIES, TIMES = 16, 3, 5  # so many times at least


def plan(workload):
    subjects = workload.requests[:DISTINCT] * COPIES
    order = tuple(Member(index) for index in workload.shuffled("repeat", len(subjects)))
    times = workload.rounds(TIMES, len(subjects) * subjects[0].max_tokens)
    arms = tuple(
        ArmPlan(f"burst {n}", subjects, (order,), tuple(range(len(subjects))), len(subjects))
        for n in range(1, times + 1)
    )
    return CheckPlan(subjects, arms)


def test_repeat(engine, control, workload, check):
    check.compare(engine, plan(workload))
    check.compare(control(), plan(workload))
    check.conclude()
