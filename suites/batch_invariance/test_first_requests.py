"""The very first requests after the engine's start against the same requests later.

Kernels that tune themselves, caches that fill and graphs that are captured late make the first answers
others than the later ones (vllm-project/vllm issues 54243 and 33537).

What makes it non-vacuous: the engine had served no request before the first burst (its own count), the
burst ran together, and the control diverges. It stands first in suite.yaml for that reason.
"""

from bi_harness.workload.checkplan import CheckPlan, together

SUBJECTS = 8


def plan(workload):
    subjects = workload.requests[:SUBJECTS]
    again = workload.rounds(1, SUBJECTS * subjects[0].max_tokens)
    arms = (
        together("first after the start", subjects, SUBJECTS),
        *(together(f"again {n}", subjects, SUBJECTS) for n in range(again)),
    )
    return CheckPlan(subjects, arms, needs=(("first_bursts", 1),), arms_first=True)


def test_first_requests(engine, control, workload, check):
    check.compare(engine, plan(workload))
    check.compare(control(), plan(workload))
    check.conclude()
