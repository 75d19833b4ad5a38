"""Reading a cell's id back into its parts. The only parser of cell ids.

The certificate carries cells as ids only. A report must show whatever it is given, so an id that does not
have the form ``device/model/backend/tpX-dpY/mode/suite`` is kept whole as the model's name. A size has one to
six of the digits 0 to 9: ``\\d`` would also match the digits of other scripts, and ``int`` refuses thousands.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_PARALLEL = re.compile(r"tp([0-9]{1,6})-dp([0-9]{1,6})")


@dataclass(frozen=True, slots=True)
class CellParts:
    """The parts of a cell's id; empty (``None`` for the sizes) where the id has another form.

    Attributes:
        raw: the id itself.
        tp, dp: ``None`` exactly when the id is not well formed.
    """

    raw: str
    device: str
    model: str
    backend: str
    tp: int | None
    dp: int | None
    mode: str
    suite: str

    @property
    def well_formed(self) -> bool:
        """Whether the id had the form of a cell's id."""
        return self.tp is not None

    @property
    def parallel(self) -> str:
        """``tp1-dp1``; empty for an id of another form."""
        return "" if self.tp is None else f"tp{self.tp}-dp{self.dp}"


def parse_cell_id(cell_id: str) -> CellParts:
    """The parts of ``cell_id``. Never raises.

    It is read from both ends, so that a model named ``org/name`` keeps its slash.
    """
    fields = cell_id.split("/")
    if len(fields) >= 6 and all(fields):
        match = _PARALLEL.fullmatch(fields[-3])
        if match is not None:
            return CellParts(
                raw=cell_id,
                device=fields[0],
                model="/".join(fields[1:-4]),
                backend=fields[-4],
                tp=int(match[1]),
                dp=int(match[2]),
                mode=fields[-2],
                suite=fields[-1],
            )
    return CellParts(cell_id, "", cell_id, "", None, None, "", "")
