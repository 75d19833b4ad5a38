"""Whether waivers name anything that a run could have, of any device, profile and kind of weights. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase

from bi_harness.matrix.expand import expand
from bi_harness.matrix.select import checks_of
from bi_harness.spec.load import Spec
from bi_harness.spec.suggest import did_you_mean, listed
from bi_harness.spec.types import PROFILES, WEIGHTS
from bi_harness.spec.waivers import Waivers


def unknown_waivers(spec: Spec, waivers: Waivers) -> list[str]:
    """One line, with file and line, for each waiver that names nothing in the whole matrix."""
    if not waivers.entries:
        return []
    checks = {check.id for suite in spec.suites.values() for check in suite.checks}
    matrix = whole_matrix(spec)
    wrong = []
    for index, entry in enumerate(waivers.entries):
        if entry.check not in checks:
            near = did_you_mean(entry.check, checks)
            what = f'no suite has a check "{_short(entry.check)}".{near} There are: {listed(sorted(checks))}'
            wrong.append(waivers.problem(index, "check", what))
            continue
        cells = [cell for cell in matrix if fnmatchcase(cell, entry.cell)]
        if not cells:
            what = f'"{_short(entry.cell)}" matches no cell of any device.{did_you_mean(entry.cell, matrix)}'
            wrong.append(waivers.problem(index, "cell", f"{what} See: bi-harness plan --device ID"))
        elif not any(entry.check in matrix[cell] for cell in cells):
            what = f'no cell that "{_short(entry.cell)}" matches has the check "{_short(entry.check)}"'
            wrong.append(waivers.problem(index, "check", f"{what}; the first of them is {cells[0]}"))
    return wrong


def whole_matrix(spec: Spec) -> Mapping[str, frozenset[str]]:
    """Every cell that a device can have, excluded or not, with the checks of all profiles and weights."""
    found: dict[str, frozenset[str]] = {}
    for device in spec.devices:
        own = [m.id for m in spec.models.values() if m.devices is None or device in m.devices]
        if not own:
            continue
        # Named models take part in any profile. Weights and releases decide what is excluded, not what is.
        plan = expand(
            spec,
            device,
            vllm_version=spec.reference(device),
            profile="release",
            weights="synthetic",
            models=own,
        )
        for planned in plan.cells:
            found[planned.cell.id] = frozenset(
                check.id
                for profile in PROFILES
                for weights in WEIGHTS
                for check in checks_of(spec, planned.cell, profile, weights)
            )
    return found


def _short(text: str) -> str:
    # repr() keeps control characters of a file out of the terminal.
    return repr(text[:80])[1:-1]
