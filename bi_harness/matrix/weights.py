"""How long a unit takes, roughly, from the YAML alone. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from bi_harness.matrix.cells import Unit
from bi_harness.matrix.select import Selection
from bi_harness.spec.load import Spec

_EAGER_S, _COMPILE_S, _CHECK_S = 40.0, 100.0, 10.0
"""Seconds that an engine pair's start and a check take on a GPU, roughly: only which is longer matters. Mode
default counts as compile, which it is on most devices; its breakable CUDA graphs start sooner."""


def unit_weight(unit: Unit, spec: Spec, checks: Mapping[str, tuple[str, ...]]) -> float:
    """Seconds that a unit takes on a GPU, roughly.

    Args:
        unit: the unit.
        spec: the YAML.
        checks: those that are to run, by cell.
    """
    named = [spec.suites[cell.suite].check(name) for cell in unit.cells for name in checks.get(cell.id, ())]
    # Checks that need the same engine follow each other.
    starting = [one for i, one in enumerate(named) if i == 0 or one.engine != named[i - 1].engine]
    start_s = _EAGER_S if unit.cells[0].mode == "eager" else _COMPILE_S
    extra = sum(max(0, check.starts - 2) for check in named)
    return start_s * (len(starting) + extra / 2) + _CHECK_S * len(named)


def unit_weights(selection: Selection, spec: Spec) -> dict[str, float]:
    """The weight of each unit of a plan, in its order; 0 for one of which rules leave nothing to run."""
    running = {unit.id: unit for unit in selection.plan.units}
    return {
        unit: unit_weight(running[unit], spec, selection.checks) if unit in running else 0.0
        for unit in dict.fromkeys(planned.unit for planned in selection.plan.cells)
    }
