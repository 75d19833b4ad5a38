"""The sum over tensor parallel ranks."""

from __future__ import annotations

from bi_harness.engine.ops.base import BOTH, Made, Missing, Op, Setting


def _all_reduce(setting: Setting) -> Made:
    raise Missing("one rank has nothing to sum; the suite eagle_dp tries engines of several ranks")


OPS = (Op("all_reduce", "all_reduce", _all_reduce, promised=BOTH, called=BOTH),)
