"""A digest of the exact bits of observations: equal digests mean that every bit agrees."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import numpy as np

from bi_harness.compare.observations import Observations


def digest(arms: Iterable[Observations]) -> str:
    """``sha256:...`` over all requests of all arms, in order.

    Padding does not count: a request contributes its length and, step by step, its token, the reported
    ids and the logprobs' bits, all little-endian.
    """
    total = hashlib.sha256()
    for arm in arms:
        total.update(b"arm")
        total.update(np.asarray([arm.requests, arm.ids.shape[2]], "<i8").tobytes())
        for row in range(arm.requests):
            length = int(arm.lengths[row])
            total.update(np.asarray([length], "<i8").tobytes())
            total.update(np.ascontiguousarray(arm.tokens[row, :length], "<i4").tobytes())
            total.update(np.ascontiguousarray(arm.ids[row, :length], "<i4").tobytes())
            total.update(np.ascontiguousarray(arm.logprobs[row, :length], "<f4").tobytes())
    return f"sha256:{total.hexdigest()}"
