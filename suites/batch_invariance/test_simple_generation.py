"""A few greedy requests alone and together: the quick smoke, for `-k simple_generation`.

What makes it non-vacuous: they ran together, and the control diverges.
"""

from bi_harness.workload.checkplan import CheckPlan, together

SUBJECTS, STEPS = 8, 16


def plan(workload):
    subjects = workload.greedy(workload.requests[:SUBJECTS], STEPS)
    rounds = workload.rounds(1, SUBJECTS * STEPS)
    return CheckPlan(subjects, tuple(together(f"round {n}", subjects, SUBJECTS) for n in range(rounds)))


def test_simple_generation(engine, control, workload, check):
    check.compare(engine, plan(workload))
    check.compare(control(), plan(workload))
    check.conclude()
