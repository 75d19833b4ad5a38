"""Reading a cell's id back into its parts: see ``certificate.cellid``, the only parser of cell ids."""

from __future__ import annotations

from bi_harness.certificate.cellid import CellParts, parse_cell_id

__all__ = ["CellParts", "parse_cell_id"]
