"""Distances between float32 values in units in the last place (ULP)."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


def ordered(values: npt.NDArray[np.float32]) -> npt.NDArray[np.int64]:
    """Integers in the order of the floats: neighbours are one apart, and -0.0 is one below +0.0.

    Args:
        values: float32, any shape. NaNs sort beyond the infinities, by their bits.
    """
    bits = np.ascontiguousarray(values, np.float32).view(np.int32).astype(np.int64)
    magnitude = bits & 0x7FFFFFFF
    return np.where(bits < 0, -magnitude - 1, magnitude)


def ulp_distance(a: npt.NDArray[np.float32], b: npt.NDArray[np.float32]) -> npt.NDArray[np.int64]:
    """How many float32 values lie from ``a`` to ``b``, element by element; 0 exactly for equal bits."""
    distance: npt.NDArray[np.int64] = np.abs(ordered(a) - ordered(b))
    return distance
