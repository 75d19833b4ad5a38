"""Filling up rows, so that a kernel meets fewer numbers of them. Worker side: torch alone."""

from __future__ import annotations

import functools
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


def padded(apply: Callable[..., Any], block: int) -> Callable[..., Any]:
    """A layer's ``apply(self, layer, x, bias)``, with its rows filled up to a multiple of ``block`` and its
    result cut back."""
    filled_up = fill_up(block)

    @functools.wraps(apply)
    def padded_apply(self: Any, layer: Any, x: Any, bias: Any = None) -> Any:
        # Always cut back, too: one path for every row count.
        return apply(self, layer, filled_up(x), bias)[: x.shape[0]]

    return padded_apply
