"""Which cells one engine start can serve. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from bi_harness.matrix.cells import Cell, PlannedCell, Unit


def unit_of(cell: Cell, *, shared: bool) -> str:
    """The id of the unit that serves the cell.

    Args:
        shared: whether its suite shares engines (``SuiteSpec.engine``).
    """
    return cell.unit_key if shared else cell.id


def units_of(cells: Iterable[PlannedCell], *, cpu: bool) -> tuple[Unit, ...]:
    """The units of the cells that run, in the order in which their first cells stand."""
    members: dict[str, list[Cell]] = {}
    for planned in cells:
        if planned.status == "run":
            members.setdefault(planned.unit, []).append(planned.cell)
    return tuple(
        Unit(id=unit, cells=tuple(group), gpus=0 if cpu else group[0].tp * group[0].dp)
        for unit, group in members.items()
    )
