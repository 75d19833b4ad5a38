"""The same check at two parallel sizes: does it have the same bits? Pure.

Ranks of data parallelism never exchange what a request is computed from, so its bits must not depend on how
many there are. Tensor parallelism sums parts of each layer over the ranks, in another order for every size,
and no stock engine promises the same bits; whether it has them is information.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from bi_harness.certificate.records import CheckResult
from bi_harness.certificate.statement import AxisComparison

_SIZES = re.compile(r"/tp(\d+)-dp(\d+)/")


def across(results: Iterable[CheckResult]) -> tuple[AxisComparison, ...]:
    """Every check that was compared at two sizes of an axis, each size with the smallest one there is.

    Args:
        results: of one run. Those without evidence are left out: they are no pass either.
    """
    sized = [
        (result, int(found[1]), int(found[2]))
        for result in results
        if (found := _SIZES.search(result.cell)) and result.evidence is not None and result.evidence.steps
    ]
    # By what they share, at once: a search for each of ten thousand checks would take minutes.
    alike: dict[tuple[str, str], list[tuple[CheckResult, int, int]]] = {}
    for one in sized:
        alike.setdefault(_shared(one[0]), []).append(one)
    comparisons = []
    for high, tp, dp in sized:
        others = alike[_shared(high)]
        smaller_dp = min(((d, low) for low, t, d in others if t == tp and d < dp), key=_size, default=None)
        smaller_tp = min(((t, low) for low, t, d in others if d == dp and t < tp), key=_size, default=None)
        if smaller_dp is not None:
            comparisons.append(_compared("dp_digest_equal", smaller_dp[1], high, required=True))
        if smaller_tp is not None:
            comparisons.append(_compared("tp_digest_equal", smaller_tp[1], high, required=False))
    return tuple(comparisons)


def unequal(axes: Sequence[AxisComparison]) -> str:
    """One sentence on what differs and must not; empty when nothing does."""
    broken = [axis for axis in axes if axis.required and not axis.equal]
    if not broken:
        return ""
    first = broken[0]
    return (
        f"{len(broken)} of {sum(axis.required for axis in axes)} comparisons across parallel sizes differ: "
        f"{first.check} has other bits on {first.cells[1]} than on {first.cells[0]}"
    )


def _size(found: tuple[int, CheckResult]) -> int:
    return found[0]


def _shared(result: CheckResult) -> tuple[str, str]:
    """The check, and its cell without the sizes."""
    return result.check, _SIZES.sub("/", result.cell)


def _compared(name: str, low: CheckResult, high: CheckResult, *, required: bool) -> AxisComparison:
    a, b = low.evidence, high.evidence
    assert a is not None
    assert b is not None
    return AxisComparison(
        name=name,
        check=high.check,
        cells=(low.cell, high.cell),
        equal=(a.digest, a.reference_digest) == (b.digest, b.reference_digest),
        # Of a waived check the batched bits are known to be wrong; those of requests alone are not.
        required=required
        and not ("waived" in (low.status, high.status) and a.reference_digest == b.reference_digest),
    )
