"""All operators, by family. Nothing is imported for it but the standard library."""

from __future__ import annotations

from bi_harness.engine.ops import activation, all_reduce, attention, gemm, norm, position, sampling, softmax
from bi_harness.engine.ops.base import Op

OPS: tuple[Op, ...] = (
    *gemm.OPS,
    *all_reduce.OPS,
    *norm.OPS,
    *softmax.OPS,
    *attention.OPS,
    *activation.OPS,
    *position.OPS,
    *sampling.OPS,
)


def op(name: str) -> Op:
    """The operator of that name.

    Raises:
        KeyError: there is none.
    """
    for found in OPS:
        if found.name == name:
            return found
    raise KeyError(name)


def families() -> tuple[str, ...]:
    """Each once, in order."""
    return tuple(dict.fromkeys(found.family for found in OPS))
