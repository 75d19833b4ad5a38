"""The same check at two parallel sizes: does it have the same bits? Pure.

Ranks of data parallelism never exchange what a request is computed from, so its bits must not depend on how
many there are. Tensor parallelism sums parts of each layer over the ranks, in another order for every size,
and no stock engine promises the same bits; whether it has them is information.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from bi_harness.certificate.cellid import CellParts, parse_cell_id
from bi_harness.certificate.records import CheckResult
from bi_harness.certificate.statement import AxisComparison


@dataclass(frozen=True, slots=True)
class _Sized:
    """A result, and the parallel sizes of its cell."""

    result: CheckResult
    parts: CellParts
    tp: int
    dp: int

    @property
    def shared(self) -> tuple[str, str, str, str, str, str]:
        """The check, and the parts of its cell other than the sizes."""
        parts = self.parts
        return self.result.check, parts.device, parts.model, parts.backend, parts.mode, parts.suite


def _sized(results: Iterable[CheckResult]) -> list[_Sized]:
    found = []
    for result in results:
        parts = parse_cell_id(result.cell)
        compared = result.evidence is not None and result.evidence.steps
        if compared and parts.tp is not None and parts.dp is not None:
            found.append(_Sized(result, parts, parts.tp, parts.dp))
    return found


def across(results: Iterable[CheckResult]) -> tuple[AxisComparison, ...]:
    """Every check that was compared at two sizes of an axis, each size with the smallest one there is.

    Args:
        results: of one run. Those without evidence are left out: they are no pass either.
    """
    sized = _sized(results)
    # The first of the smallest of each group: a search among all others would take quadratic time.
    smallest_dp: dict[tuple[object, ...], _Sized] = {}
    smallest_tp: dict[tuple[object, ...], _Sized] = {}
    for one in sized:
        least = smallest_dp.setdefault((one.shared, one.tp), one)
        if one.dp < least.dp:
            smallest_dp[one.shared, one.tp] = one
        least = smallest_tp.setdefault((one.shared, one.dp), one)
        if one.tp < least.tp:
            smallest_tp[one.shared, one.dp] = one
    comparisons = []
    for high in sized:
        low = smallest_dp[high.shared, high.tp]
        if low.dp < high.dp:
            comparisons.append(_compared("dp_digest_equal", low.result, high.result, required=True))
        low = smallest_tp[high.shared, high.dp]
        if low.tp < high.tp:
            comparisons.append(_compared("tp_digest_equal", low.result, high.result, required=False))
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
