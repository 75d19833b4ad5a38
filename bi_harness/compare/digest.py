"""A digest of the exact bits of observations: equal digests mean that every bit agrees."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import numpy as np

from bi_harness.compare.observations import Observations


def digest(arms: Iterable[Observations]) -> str:
    """``sha256:...`` over all requests of all arms, in order.

    Padding does not count, neither past a request's end nor in columns without a token: a request
    contributes its length and, step by step, its token, the reported ids and the logprobs' bits, all
    little-endian.
    """
    total = hashlib.sha256()
    for arm in arms:
        total.update(b"arm")
        total.update(np.asarray([arm.requests, arm.ids.shape[2]], "<i8").tobytes())
        gaps = bool(arm.ids.size) and arm.ids.min() < 0
        for row in range(arm.requests):
            length = int(arm.lengths[row])
            ids, logprobs = arm.ids[row, :length], arm.logprobs[row, :length]
            if gaps:
                absent = ids < 0
                ids, logprobs = np.where(absent, np.int32(-1), ids), np.where(absent, np.float32(0), logprobs)
            total.update(np.asarray([length], "<i8").tobytes())
            # The arrays themselves, not tobytes(): hashing is all that this costs.
            total.update(np.ascontiguousarray(arm.tokens[row, :length], "<i4").data)
            total.update(np.ascontiguousarray(ids, "<i4").data)
            total.update(np.ascontiguousarray(logprobs, "<f4").data)
    return f"sha256:{total.hexdigest()}"
