"""An operator that depends on its batch on purpose: what shows that a difference would have been seen.

Stock operators that compute each row by itself have no control that diverges. Theirs is the same operator
with this fault, measured by the same code.
"""

from __future__ import annotations

from typing import Any

from bi_harness.engine.ops.base import Kind, Made

FROM_ROWS = 17
WHAT = f"one bit of one value in each row from {FROM_ROWS} rows on"


class Planted:
    """``made``, but in batches of ``FROM_ROWS`` rows or more the lowest bit of each row's first value is
    turned."""

    def __init__(self, made: Made) -> None:
        self._made = made
        self.where, self.shape, self.bound, self.row_bytes = (
            made.where,
            made.shape,
            made.bound,
            made.row_bytes,
        )

    def subjects(self, count: int, generator: Any) -> tuple[Any, ...]:
        """See ``Made``."""
        return self._made.subjects(count, generator)

    def rows(self, count: int, kind: Kind, generator: Any) -> tuple[Any, ...]:
        """See ``Made``."""
        return self._made.rows(count, kind, generator)

    def call(self, rows: tuple[Any, ...]) -> tuple[Any, ...]:
        """See ``Made``."""
        import torch

        count = rows[0].shape[0]
        first, *others = self._made.call(rows)
        if count < FROM_ROWS:
            return (first, *others)
        whole = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
        turned = first.contiguous().clone()
        turned.view(whole[turned.element_size()]).view(count, -1)[:, 0] ^= 1
        return (turned, *others)

    def error(self, rows: tuple[Any, ...], results: tuple[Any, ...]) -> float:
        """See ``Made``."""
        return self._made.error(rows, results)
