"""A cell with torch.compile or CUDA graphs: what differs there, and whether eager differs for the same cause.

Hooks see no module of an engine with torch.compile or CUDA graphs, and an eager engine may differ by a defect
of its own. So a module is named only where both engines agree about the pairs around the smallest that
differs: just as many neighbours and tokens as it takes on the one make the difference on the other.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from bi_harness.certificate.localized import Localization, OptionTried
from bi_harness.errors import HarnessError
from bi_harness.localize.look import Costs, common_of, joined, look
from bi_harness.localize.options import VARIANTS, Variant, stand_in, worth_trying
from bi_harness.localize.reproduce import (
    MAX_TRIES,
    Case,
    Reproduced,
    Starts,
    not_reproduced,
    reproduce,
    smallest,
)
from bi_harness.localize.rerun import Rerun
from bi_harness.localize.shrink import Budget, Pair

MAX_EQUAL, MAX_DIFFERING = 8, 3
"""Pairs around the smallest that both engines run."""

MIN_EQUAL = 2
"""Of them, so many must stop to differ for agreement to mean anything."""

_NOT_EAGER = "with torch.compile or CUDA graphs"


@dataclass
class _Tried:
    """Pairs that the engine that failed ran, in their order, and whether they differ there."""

    pairs: dict[Pair, bool] = field(default_factory=dict)

    def __call__(self, pair: Pair, differs: bool) -> None:
        self.pairs[pair] = differs

    def around(self, smallest: Pair) -> tuple[list[Pair], list[Pair]]:
        """Those that were tried last: ones that do not differ, and ones that do. Without any company, where
        the smallest has some, every defect of a batch is gone: that tells none from another."""
        of_use = [p for p in self.pairs if p.neighbours or not smallest.neighbours]
        equal = [p for p in of_use if not self.pairs[p]]
        differing = [p for p in of_use if self.pairs[p] and p != smallest]
        return equal[-MAX_EQUAL:], differing[-MAX_DIFFERING:]


def localize_compiled(case: Case, starts: Starts) -> Localization:
    """See ``driver.localize``.

    Raises:
        HarnessError: an engine failed.
    """
    tried = _Tried()
    budget = Budget(MAX_TRIES, starts.clock.late)
    with starts(VARIANTS[0].change) as (rerun, effective):
        found = reproduce(case, rerun, hooks=False)
        if found is None:
            return not_reproduced(case, starts.clock.late(), eager=None)
        found = smallest(found, rerun, budget, tried)
        costs = Costs(starts, budget.used, rerun.seconds)
    common = common_of(case, found, found.pair)
    if found.difference.sampled:
        most = found.pair.subject.top_k_logprobs
        where = (
            f"no module of the model, as far as the reported logprobs tell: at step {found.difference.step} "
            f"those of the {most} likeliest tokens have equal bits, and another token is sampled"
        )
        reason = f"seen on an engine {_NOT_EAGER}, whose modules cannot be watched"
        return Localization(**common, outcome="elsewhere", where=where, reason=reason, cost=costs.told())
    if starts.clock.late():
        reason = f"it differs {_NOT_EAGER}; the time was up before an eager engine could be tried"
        return Localization(**common, outcome="failed", reason=reason, cost=costs.told())
    with starts(stand_in(effective)) as (rerun, _):
        same = _Same(found, tried, rerun)
        if same.differs:
            told = look(case, rerun, same.found, costs)
            if same.shown:
                return told.model_copy(update={"reason": joined(same.why, told.reason)})
            told = _not_shown(told, same.why)
        else:
            where = f"the smallest pair that differs {_NOT_EAGER} does not differ on an eager engine"
            told = Localization(**common, outcome="compiled", where=where, eager=False)
    told = _bisect(told, found, effective, starts)
    return told.model_copy(update={"cost": costs.told()})


class _Same:
    """Whether the eager engine differs as the one with torch.compile or CUDA graphs does.

    Attributes:
        differs: whether it differs at all, in the smallest pair.
        found: what then is looked at.
        shown: whether it is shown to be the same.
        why: or why not.
    """

    def __init__(self, found: Reproduced, tried: _Tried, rerun: Rerun) -> None:
        self.found, self.shown, self.why = found, False, ""
        if found.once:
            watched = rerun.watched(found.planned, {"kind": "digests"}, arm_first=True)
            difference = watched.difference
            if difference is not None:
                self.found = Reproduced(
                    found.pair, found.planned, found.subject, found.arm, difference, True, watched
                )
            self.differs = difference is not None
            self.why = "only an engine's first requests differ: no second pair can compare the two engines"
            return
        difference = rerun.difference(found.pair)
        self.differs = difference is not None
        if difference is None:
            return
        if difference.sampled:
            self.why = "on the eager engine only the sampled token differs"
            return
        equal, differing = tried.around(found.pair)
        if len(equal) < MIN_EQUAL:
            self.why = (
                "no equal pair is a little smaller, to tell two causes apart: any neighbour makes it differ"
            )
            return
        for wanted, pairs in ((False, equal), (True, differing)):
            for pair in pairs:
                if (rerun.difference(pair) is not None) != wanted:
                    self.why = (
                        f"a pair around the smallest ({_size(pair)}) differs on only one of the two engines"
                    )
                    return
        self.shown = True
        self.why = (
            "seen on an eager engine, which stands for the one that failed: they agree on the smallest pair "
            f"and {len(differing)} larger, which differ, and on {len(equal)} around it, which do not"
        )


def _size(pair: Pair) -> str:
    return (
        f"{len(pair.subject.prompt)} tokens, {len(pair.neighbours)} neighbours with "
        f"{sum(len(pair.company[i].prompt) for i in pair.neighbours)}"
    )


def _not_shown(told: Localization, why: str) -> Localization:
    """Of what an eager engine does by itself, no more than where it begins."""
    if told.outcome == "failed":
        return told.model_copy(update={"reason": joined(_UNPROVEN, why, told.reason)})
    begins = f"{told.module} ({told.class_name})" if told.outcome == "module" else f'"{told.where}"'
    modules = tuple(
        m.model_copy(update={"state": "differs"}) if m.state == "culprit" else m for m in told.modules
    )
    return told.model_copy(
        update={
            "outcome": "unproven",
            "module": "",
            "class_name": "",
            "where": f"an eager engine differs too, beginning in {begins}, but that is not shown to be the "
            "same difference",
            "reason": joined(why, told.reason),
            "position": None,
            "modules": modules,
            "inputs": (),
            "outputs": (),
            "ran_alone": (),
            "ran_batch": (),
        }
    )


_UNPROVEN = "an eager engine differs too, but that is not shown to be the same difference"


def _bisect(
    told: Localization, found: Reproduced, effective: Mapping[str, Any], starts: Starts
) -> Localization:
    """Which option of torch.compile or CUDA graphs must change for the difference to go away."""
    tried = [OptionTried(name=VARIANTS[0].name, differs=True)]
    tried += [_try(found, variant, starts) for variant in worth_trying(effective)]
    gone = [option for option in tried if option.differs is False]
    known = [option for option in tried[1:] if option.differs is not None]
    if gone:
        what = f"it goes away with another option: {', '.join(o.name for o in gone)}"
    elif known:
        what = "it differs with every option that was tried"
    else:
        what = "which option it depends on was not found"
    return told.model_copy(update={"reason": joined(told.reason, what), "options": tuple(tried)})


def _try(found: Reproduced, variant: Variant, starts: Starts) -> OptionTried:
    if starts.clock.late():
        return OptionTried(name=variant.name, differs=None, note="there was no time left")
    try:
        with starts(variant.change, counts=True) as (rerun, _):
            # At another edge the smallest pair may be just too small.
            differs = rerun.difference(found.pair, arm_first=found.once) is not None or (
                found.planned != found.pair and rerun.difference(found.planned) is not None
            )
            note = "" if differs else variant.note
            return OptionTried(name=variant.name, differs=differs, note=note)
    except HarnessError as error:
        return OptionTried(name=variant.name, differs=None, note=f"{error}"[:500])
