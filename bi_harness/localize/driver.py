"""From a failed check to a localization: reproduce, shrink, watch, and say where it begins."""

from __future__ import annotations

from bi_harness.certificate.localized import Cost, Localization
from bi_harness.errors import HarnessError
from bi_harness.localize.compiled import localize_compiled
from bi_harness.localize.look import Costs, look
from bi_harness.localize.options import eager
from bi_harness.localize.reproduce import MAX_TRIES, Case, Start, Starts, not_reproduced, reproduce, smallest
from bi_harness.localize.rerun import Clock
from bi_harness.localize.shrink import Budget


def localize(case: Case, start: Start, *, budget_s: float, timeout_s: float) -> Localization:
    """Find where the check's failure begins. What an engine fails to do is told in the result.

    Args:
        case: what failed.
        start: see there.
        budget_s: after which nothing new is begun. The starts of the engines that the pair is looked at on
            take nothing of it; those of other options do.
        timeout_s: of each of an engine's answers.
    """
    starts = Starts(start, Clock(budget_s), timeout_s)
    try:
        told = localize_compiled(case, starts) if case.compiled else _localize_eager(case, starts)
    except HarnessError as error:
        told = Localization(
            cell=case.cell,
            check=case.check,
            outcome="failed",
            reason=f"{type(error).__name__}: {error}"[:2000],
        )
    if told.cost is not None:
        return told
    cost = Cost(seconds=round(starts.clock.spent, 3), starts=starts.count)
    return told.model_copy(update={"cost": cost})


def _localize_eager(case: Case, starts: Starts) -> Localization:
    with starts(eager) as (rerun, _):
        found = reproduce(case, rerun, hooks=True)
        if found is None:
            return not_reproduced(case, starts.clock.late(), eager=False)
        budget = Budget(MAX_TRIES, starts.clock.late)
        found = smallest(found, rerun, budget)
        return look(case, rerun, found, Costs(starts, budget.used, rerun.seconds))
