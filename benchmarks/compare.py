"""How long it takes to compare and to hash many logprobs: ``python benchmarks/compare.py [--values N]``.

Prints, for two observations that are equal but not the same memory, and for two that differ in one bit of
each request, the seconds of ``compare()``; then the seconds of ``digest()`` and of SHA-256 alone over as many
bytes, which is the floor of it; and the peak memory of the process.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import resource
import sys
import time
from collections.abc import Callable
from typing import TypeVar

import numpy as np

from bi_harness.compare.bits import compare
from bi_harness.compare.digest import digest
from bi_harness.compare.observations import Observations

STEPS, WIDTH = 128, 6
T = TypeVar("T")


def observations(values: int) -> Observations:
    """At least ``values`` logprobs of requests of 128 steps, as the release profile makes them."""
    rows = -(-values // (STEPS * WIDTH))
    generator = np.random.default_rng(0)
    ids = generator.integers(0, 151_936, (rows, STEPS, WIDTH), np.int32)
    logprobs = generator.standard_normal((rows, STEPS, WIDTH), np.float32)
    return Observations(ids[:, :, 0].copy(), np.full(rows, STEPS, np.int32), ids, logprobs)


def copy(source: Observations) -> Observations:
    """The same bits elsewhere in memory."""
    return Observations(
        source.tokens.copy(), source.lengths.copy(), source.ids.copy(), source.logprobs.copy()
    )


def timed(function: Callable[[], T]) -> tuple[float, T]:
    """Seconds and result of a call."""
    started = time.perf_counter()
    result = function()
    return time.perf_counter() - started, result


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--values", type=int, default=10**8, help="logprobs of one observation")
    parser.add_argument("--json", action="store_true", help="print JSON")
    arguments = parser.parse_args()

    reference = observations(arguments.values)
    observed = copy(reference)
    equal_s, same = timed(lambda: compare(reference, observed))
    digest_s, name = timed(lambda: digest([reference]))
    raw = reference.logprobs.data
    floor_s, _ = timed(lambda: (hashlib.sha256(raw), hashlib.sha256(reference.ids.data)))
    observed.logprobs.view(np.uint32)[:, STEPS // 2, WIDTH - 1] ^= 1
    differs_s, other = timed(lambda: compare(reference, observed))

    assert (same.values, same.differing_values) == (reference.logprobs.size, 0)
    assert other.differing_values == reference.requests
    figures = {
        "values": reference.logprobs.size,
        "compare_equal_s": round(equal_s, 3),
        "compare_differing_s": round(differs_s, 3),
        "digest_s": round(digest_s, 3),
        "sha256_floor_s": round(floor_s, 3),
        "peak_memory_gib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2),
        "digest": name,
    }
    if arguments.json:
        sys.stdout.write(json.dumps(figures) + "\n")
    else:
        sys.stdout.writelines(f"{key:<20} {value}\n" for key, value in figures.items())


if __name__ == "__main__":
    main()
