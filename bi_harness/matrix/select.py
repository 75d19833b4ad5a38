"""From a plan to the cells and checks that are asked for. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from bi_harness.errors import UsageError
from bi_harness.matrix.cells import Cell, Plan, PlannedCell
from bi_harness.matrix.execution import SAME_AS_DEFAULT, default_twin
from bi_harness.matrix.expression import compile_expression
from bi_harness.matrix.rules import Point, device_meets, point_meets
from bi_harness.matrix.units import units_of
from bi_harness.spec.load import Spec
from bi_harness.spec.models import ModelSpec
from bi_harness.spec.suggest import did_you_mean, listed
from bi_harness.spec.suites import CheckSpec
from bi_harness.spec.types import CheckConditions, Conditions, Mode


@dataclass(frozen=True, slots=True)
class Selection:
    """What is asked for.

    Attributes:
        plan: the plan with those cells alone that have a check left.
        checks: the ids of each such cell's checks, by cell id, in plan order; never empty for a cell.
    """

    plan: Plan
    checks: Mapping[str, tuple[str, ...]]

    @property
    def running(self) -> int:
        """How many checks run."""
        return sum(len(self.checks[p.cell.id]) for p in self.plan.cells if p.status == "run")


def known(kind: str, names: Iterable[str], valid: Iterable[str]) -> None:
    """Refuse names that do not exist.

    Raises:
        UsageError: one line for each unknown name.
    """
    all_valid = list(valid)
    wrong = [
        f'there is no {kind} "{name}".{did_you_mean(name, all_valid)} There are: {listed(all_valid)}'
        for name in names
        if name not in all_valid
    ]
    if wrong:
        raise UsageError("\n".join(wrong))


def absent(names: Iterable[str], plan: Plan) -> tuple[str, ...]:
    """Those of the named models that have no cell in the plan, run or skipped: the user should hear of it."""
    present = {planned.cell.model for planned in plan.cells}
    return tuple(name for name in dict.fromkeys(names) if name not in present)


def checks_of(
    spec: Spec, cell: Cell, profile: str, weights: str = "named", same_as: Mode | None = None
) -> tuple[CheckSpec, ...]:
    """The checks of the cell's suite that make sense on the cell and belong to the run profile.

    Args:
        same_as: see ``PlannedCell``.
    """
    model = spec.models[cell.model]
    attention, synthetic = model.attention, model.synthetic or weights == "synthetic"
    point = Point(cell.model, attention, cell.backend, cell.tp, cell.dp, cell.mode, cell.suite, same_as)
    device = spec.devices[cell.device]

    def met(conditions: Conditions) -> bool:
        return device_meets(conditions, device) and point_meets(conditions, point)

    def left_out(conditions: CheckConditions) -> bool:
        return conditions.profile in (None, profile) and met(conditions)

    return tuple(
        check
        for check in spec.suites[cell.suite].checks
        if profile in check.profiles
        and met(check.needs)
        and not any(left_out(conditions) for conditions in check.unless)
        and _has_draft(model, check, synthetic=synthetic)
    )


def _has_draft(model: ModelSpec, check: CheckSpec, *, synthetic: bool) -> bool:
    name = check.speculation.draft if check.speculation is not None else None
    return name is None or (name in model.drafts and model.drafts[name].fits(synthetic=synthetic))


def narrowed(selection: Selection, spec: Spec, suite: str) -> Selection:
    """The first cell of a suite that runs, with the checks that share the suite's engine: what a server that
    is running already can be asked. Empty where there is none."""
    cpu = spec.devices[selection.plan.device].kind == "cpu"
    for planned in selection.plan.cells:
        cell = planned.cell
        names = tuple(
            name
            for name in selection.checks[cell.id]
            if cell.suite == suite and not spec.suites[suite].check(name).own_engine
        )
        if names and planned.status == "run":
            plan = replace(selection.plan, cells=(planned,), units=units_of((planned,), cpu=cpu))
            return Selection(plan=plan, checks={cell.id: names})
    return Selection(plan=replace(selection.plan, cells=(), units=()), checks={})


def _without_default(planned: PlannedCell, checks: Mapping[str, tuple[str, ...]]) -> PlannedCell:
    """The cell, which runs after all where the ``default`` cell does not have all its checks (``-k``)."""
    cell = planned.cell.id
    if planned.rule != SAME_AS_DEFAULT or set(checks[cell]) <= set(checks.get(default_twin(cell), ())):
        return planned
    return replace(planned, status="run", rule=None, reason="", source="")


def select(plan: Plan, spec: Spec, expression: str | None = None) -> Selection:
    """The checks of a plan that meet ``-k``.

    Args:
        expression: pytest's ``-k`` grammar over ``<cell id>::<check>``; ``None`` or blank for everything.

    Raises:
        UsageError: the expression is not valid.
    """
    matches = compile_expression(expression) if expression and expression.strip() else None
    checks: dict[str, tuple[str, ...]] = {}
    for planned in plan.cells:
        cell = planned.cell.id
        found = checks_of(spec, planned.cell, plan.profile, plan.weights, planned.same_as)
        names = [check.id for check in found]
        if matches is not None:
            names = [name for name in names if matches(f"{cell}::{name}")]
        if names:
            checks[cell] = tuple(names)
    cells = tuple(_without_default(planned, checks) for planned in plan.cells if planned.cell.id in checks)
    cpu = spec.devices[plan.device].kind == "cpu"
    return Selection(plan=replace(plan, cells=cells, units=units_of(cells, cpu=cpu)), checks=checks)
