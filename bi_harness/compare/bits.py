"""Two observations of the same requests, bit by bit."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from bi_harness.compare.observations import Observations
from bi_harness.compare.ulp import ulp_distance

TOKENS_DIFFER = -1
"""Rank of a divergence that shows in the sampled tokens or the lengths before any logprob differs."""

_BLOCK_VALUES = 1 << 17
"""Logprobs compared at a time: few enough that what is derived from them stays in the processor's cache."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where two observations first differ: request, step, and column (or ``TOKENS_DIFFER``)."""

    request: int
    step: int
    rank: int


@dataclass(frozen=True, slots=True)
class Comparison:
    """What differs between a reference and an observation of the same requests.

    Attributes:
        steps: steps compared. After its sampled token differs, a request's later steps have another
            prefix and are not compared.
        values: logprobs compared.
        differing_requests: ``[R]`` bool.
        differing_steps, differing_values: counts.
        first: the first difference in request order, then step, then column; ``None`` for none.
        max_ulp, max_abs: over pairs of the same token; the second over finite values alone.
    """

    steps: int
    values: int
    differing_requests: npt.NDArray[np.bool_]
    differing_steps: int
    differing_values: int
    first: Place | None
    max_ulp: int
    max_abs: float


def compare(reference: Observations, observed: Observations) -> Comparison:
    """Compare bit by bit; there is no tolerance.

    A logprob differs when its 32 bits differ or when it belongs to another token. NaNs with equal bits are
    equal: the question is whether the batch changes anything.

    Raises:
        ValueError: when the two are not of the same requests (number, steps or columns).
    """
    if reference.ids.shape != observed.ids.shape:
        raise ValueError(f"shapes differ: {reference.ids.shape} and {observed.ids.shape}")
    requests, longest, width = reference.ids.shape
    rows = max(1, _BLOCK_VALUES // max(1, longest * width))
    steps = values = differing_steps = differing_values = max_ulp = 0
    max_abs = 0.0
    first: Place | None = None
    differing_requests = np.zeros(requests, np.bool_)
    for start in range(0, requests, rows):
        block = slice(start, start + rows)
        part = _compare_rows(_rows(reference, block), _rows(observed, block))
        steps += part.steps
        values += part.values
        differing_requests[block] = part.differing_requests
        differing_steps += part.differing_steps
        differing_values += part.differing_values
        max_ulp = max(max_ulp, part.max_ulp)
        max_abs = max(max_abs, part.max_abs)
        if first is None and part.first is not None:
            first = replace(part.first, request=start + part.first.request)
    return Comparison(
        steps, values, differing_requests, differing_steps, differing_values, first, max_ulp, max_abs
    )


def _rows(observations: Observations, block: slice) -> Observations:
    o = observations
    return Observations(o.tokens[block], o.lengths[block], o.ids[block], o.logprobs[block])


def _compare_rows(reference: Observations, observed: Observations) -> Comparison:
    longest = reference.ids.shape[1]
    step_index = np.arange(longest)[None, :]
    if _same_bits(reference, observed):
        present = reference.ids >= 0
        if reference.lengths.size and reference.lengths.min() < longest:
            present &= (step_index < reference.lengths[:, None])[:, :, None]
        nothing = np.zeros(reference.requests, np.bool_)
        steps = int(reference.lengths.sum(dtype=np.int64))
        return Comparison(steps, int(np.count_nonzero(present)), nothing, 0, 0, None, 0, 0.0)
    common = np.minimum(reference.lengths, observed.lengths)
    within = step_index < common[:, None]

    token_differs = (reference.tokens != observed.tokens) & within
    first_token = np.where(token_differs.any(axis=1), token_differs.argmax(axis=1), longest)
    compared = within & (step_index <= first_token[:, None])

    present = (reference.ids >= 0) | (observed.ids >= 0)
    differs = (reference.ids != observed.ids) | (
        reference.logprobs.view(np.uint32) != observed.logprobs.view(np.uint32)
    )
    differs &= present & compared[:, :, None]
    token_differs &= compared

    step_differs = differs.any(axis=2) | token_differs
    ends_early = (reference.lengths != observed.lengths) & (first_token >= common)
    request_differs = step_differs.any(axis=1) | ends_early

    max_ulp, max_abs = _distances(reference, observed, differs)
    return Comparison(
        steps=int(compared.sum()),
        values=int((present & compared[:, :, None]).sum()),
        differing_requests=request_differs,
        # A request that ends at another step than its reference differs in that step.
        differing_steps=int(step_differs.sum()) + int(ends_early.sum()),
        differing_values=int(differs.sum()),
        first=_first(step_differs, differs, ends_early, common),
        max_ulp=max_ulp,
        max_abs=max_abs,
    )


def _same_bits(a: Observations, b: Observations) -> bool:
    """Whether all is equal, padding included: the usual case, and a fraction of the cost of the others."""
    return (
        np.array_equal(a.lengths, b.lengths)
        and np.array_equal(a.tokens, b.tokens)
        and np.array_equal(a.ids, b.ids)
        and np.array_equal(a.logprobs.view(np.uint32), b.logprobs.view(np.uint32))
    )


def _distances(a: Observations, b: Observations, differs: npt.NDArray[np.bool_]) -> tuple[int, float]:
    same_token = differs & (a.ids == b.ids)
    x, y = a.logprobs[same_token], b.logprobs[same_token]
    if not x.size:
        return 0, 0.0
    finite = np.isfinite(x) & np.isfinite(y)
    gaps = np.abs(x[finite].astype(np.float64) - y[finite].astype(np.float64))
    return int(ulp_distance(x, y).max()), float(gaps.max()) if gaps.size else 0.0


def _first(
    step_differs: npt.NDArray[np.bool_],
    differs: npt.NDArray[np.bool_],
    ends_early: npt.NDArray[np.bool_],
    common: npt.NDArray[np.int32],
) -> Place | None:
    rows = np.flatnonzero(step_differs.any(axis=1) | ends_early)
    if not rows.size:
        return None
    row = int(rows[0])
    if not step_differs[row].any():
        return Place(row, int(common[row]), TOKENS_DIFFER)
    step = int(step_differs[row].argmax())
    columns = np.flatnonzero(differs[row, step])
    return Place(row, step, int(columns[0]) if columns.size else TOKENS_DIFFER)
