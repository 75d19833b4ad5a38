"""The same batch in other orders: a request's place in the batch must not matter.

What makes it non-vacuous: the whole batch ran together in every order, and the control diverges.
"""

from bi_harness.workload.checkplan import CheckPlan, together

SHUFFLES = 2  # at least


def plan(workload):
    subjects = workload.requests[: max(workload.batch_sizes)]
    count = len(subjects)
    orders = {"backwards": list(range(count))[::-1]}
    rounds = workload.rounds(SHUFFLES, count * subjects[0].max_tokens)
    orders |= {f"shuffled {n}": workload.shuffled(f"permutation/{n}", count) for n in range(rounds)}
    return CheckPlan(
        subjects, tuple(together(name, subjects, count, order) for name, order in orders.items())
    )


def test_permutation(engine, control, workload, check):
    check.compare(engine, plan(workload))
    check.compare(control(), plan(workload))
    check.conclude()
