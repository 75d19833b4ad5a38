"""The sum over tensor parallel ranks, which ends the matrix products that are split over them.

The process that measures is one rank, so that it is told as missing, with the suite that has several.
"""

from __future__ import annotations

from bi_harness.engine.ops.base import BOTH, Made, Missing, Op, Setting


def _all_reduce(setting: Setting) -> Made:
    raise Missing("one rank has nothing to sum; the suite eagle_dp tries engines of several ranks")


OPS = (Op("all_reduce", "gemm", _all_reduce, ("model",), promised=BOTH, called=BOTH),)
