"""Which cells one engine start can serve. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from bi_harness.matrix.cells import Cell, PlannedCell, Unit


def unit_of(key: str, suite: str, *, shared: bool) -> str:
    """The id of the unit that serves a cell.

    Args:
        key: the cell's ``unit_key``.
        suite: id of its suite.
        shared: whether the suite shares engines (``SuiteSpec.engine``).
    """
    return key if shared else f"{key}/{suite}"


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
