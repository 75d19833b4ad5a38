"""How far two tensors lie apart: rows, values, and a histogram in units in the last place. Pure."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from bi_harness.certificate.localized import InputShape, TensorDifference, UlpBand
from bi_harness.localize.seen import Call, Tensor

Int64 = npt.NDArray[np.int64]

BANDS = ((1, 1), (2, 3), (4, 15), (16, 255), (256, 4095), (4096, 65535), (65536, 2**63 - 1))
"""Of the histogram, in units in the last place."""

_FLOAT_BITS = {"bfloat16": 16, "float16": 16, "float32": 32, "float64": 64}


def distance(a: Int64, b: Int64, dtype: str) -> Int64:
    """Element by element, how far values lie apart: for floats, representable values in between; for
    integers, their difference; 0 exactly for equal bits.

    Args:
        a, b: bits, sign-extended.
        dtype: torch's name of it. Of one that is not known to be ordered by its bits (8-bit floats, say)
            every difference counts as 1.
    """
    if (width := _FLOAT_BITS.get(dtype)) is not None:
        return np.asarray(np.abs(_ordered(a, width) - _ordered(b, width)), np.int64)
    if dtype.startswith(("int", "uint", "bool")):
        return np.asarray(np.abs(a - b), np.int64)
    return np.asarray(a != b, np.int64)


def _ordered(bits: Int64, width: int) -> Int64:
    """As ``compare.ulp.ordered``, of any width: integers in the order of the floats."""
    magnitude = bits & ((1 << (width - 1)) - 1)
    return np.where(bits < 0, -magnitude - 1, magnitude)


def difference(
    alone: Mapping[int, tuple[Call, int]], batch: Mapping[int, tuple[Call, int]], position: int
) -> tuple[tuple[InputShape, ...], tuple[TensorDifference, ...]]:
    """A call's inputs and outputs in both arms, over all positions that both have.

    Args:
        alone, batch: calls and rows by position, of bits.
        position: whose step gives the shapes.
    """
    common = sorted(alone.keys() & batch.keys())
    if position not in common:
        return (), ()
    one, other = alone[position][0], batch[position][0]
    inputs = tuple(
        InputShape(path=a.path, dtype=_both(a.dtype, b.dtype), shape_alone=a.shape, shape_batch=b.shape)
        for a, b in zip(one.given, other.given, strict=False)
    )
    outputs = tuple(
        _tensor(i, a, b, [(alone[p], batch[p]) for p in common])
        for i, (a, b) in enumerate(zip(one.made, other.made, strict=False))
    )
    return inputs, outputs


def _both(a: str, b: str) -> str:
    return a if a == b else f"{a} and {b}"


def _tensor(
    index: int, a: Tensor, b: Tensor, pairs: list[tuple[tuple[Call, int], tuple[Call, int]]]
) -> TensorDifference:
    told = {
        "path": a.path,
        "dtype": _both(a.dtype, b.dtype),
        "shape_alone": a.shape,
        "shape_batch": b.shape,
    }
    rows = [
        (x.made[index].rows[i], y.made[index].rows[j])
        for (x, i), (y, j) in pairs
        if index < len(x.made) and index < len(y.made)
    ]
    if a.dtype != b.dtype or any(x.shape != y.shape for x, y in rows):
        return TensorDifference(**told, rows=0, values=0, differing_rows=0, differing_values=0)
    mine, theirs = np.stack([x for x, _ in rows]), np.stack([y for _, y in rows])
    differs = mine != theirs
    apart = distance(mine, theirs, a.dtype)[differs]
    return TensorDifference(
        **told,
        rows=len(rows),
        values=int(mine.size),
        differing_rows=int(differs.reshape(len(rows), -1).any(axis=1).sum()),
        differing_values=int(differs.sum()),
        max_ulp=int(apart.max()) if apart.size else 0,
        ulps=tuple(
            UlpBand(first=low, last=high, values=count)
            for low, high in BANDS
            if (count := int(((apart >= low) & (apart <= high)).sum()))
        ),
    )
