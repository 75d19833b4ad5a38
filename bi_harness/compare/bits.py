"""Two observations of the same requests, bit by bit."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bi_harness.compare.observations import Observations
from bi_harness.compare.ulp import ulp_distance

TOKENS_DIFFER = -1
"""Rank of a divergence that shows in the sampled tokens or the lengths before any logprob differs."""


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
    longest = reference.ids.shape[1]
    common = np.minimum(reference.lengths, observed.lengths)
    step_index = np.arange(longest)[None, :]
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
