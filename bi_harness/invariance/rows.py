"""Filling up rows, so that a kernel meets fewer numbers of them. Worker side: torch alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def fill_up(block: int) -> Callable[[Any], Any]:
    """A function that adds zero rows to the end of a tensor, up to a multiple of ``block`` rows."""
    import torch

    def filled_up(values: Any) -> Any:
        # Always padded, also when the remainder is zero: one path for every row count keeps the compiled
        # graph free of guards on the number of tokens.
        padding = (-values.shape[0]) % block
        return torch.nn.functional.pad(values, (0, 0) * (values.dim() - 1) + (0, padding))

    return filled_up
