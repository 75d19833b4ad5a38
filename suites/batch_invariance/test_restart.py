"""A fresh process of the same engine gives the same bits, alone and in batches.

What makes it non-vacuous: the engine's process really was another one, batches ran together, and the control
(which is not restarted: stock vLLM alone repeats itself too) diverges.
"""

from bi_harness.workload.checkplan import CheckPlan, together

SUBJECTS = 16


def plan(workload):
    subjects = workload.requests[:SUBJECTS]
    rounds = workload.rounds(1, SUBJECTS * subjects[0].max_tokens)
    batches = tuple(together(f"after the restart, together {n}", subjects, SUBJECTS) for n in range(rounds))
    return CheckPlan(subjects, (together("after the restart, alone", subjects, 1), *batches))


def test_restart(engine, control, restarted, workload, check):
    check.compare(engine, plan(workload), restarted=restarted)
    check.compare(control(), plan(workload))
    check.conclude()
