"""Which batches an operator is tried in. Pure."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Filler = Literal["subjects", "random", "zeros", "large"]


@dataclass(frozen=True, slots=True)
class Batch:
    """One call of the operator.

    Attributes:
        rows: of the batch.
        places: where subjects stand, each once.
        subjects: which they are, in the order of ``places``.
        filler: what the other rows are; ``subjects`` where there are none.
    """

    rows: int
    places: tuple[int, ...]
    subjects: tuple[int, ...]
    filler: Filler


def row_counts(most: int, sample: int, seed: int) -> tuple[int, ...]:
    """Batch sizes from 1 on: every power of two up to ``most``, one less and one more, and some others.

    Args:
        most: the largest.
        sample: how many others, drawn from ``seed``.
    """
    found = {1, 2, 3, most}
    power = 4
    while power <= most + 1:
        found |= {power - 1, power, power + 1}
        power *= 2
    others = sorted(set(range(2, most)) - found)
    found |= set(random.Random(seed).sample(others, min(sample, len(others))))  # noqa: S311
    return tuple(sorted(n for n in found if n <= most))


def batches(
    counts: Sequence[int], *, subjects: int, least: int, seed: int, every: int = 1
) -> tuple[Batch, ...]:
    """The calls for some batch sizes.

    Small batches are made of subjects alone, as many as it takes for ``least`` rows to be compared at that
    size; in larger ones all subjects stand at random places, the first and the last of them included. Every
    ``every``-th size has its neighbours' values zero and large, too, with a subject at the first place, in
    the middle and at the last one.
    """
    draw = random.Random(seed)  # noqa: S311
    made = []
    for index, rows in enumerate(counts):
        if rows >= subjects:
            places = {0, rows // 2, rows - 1}
            others = sorted(set(range(rows)) - places)
            places |= set(draw.sample(others, max(0, subjects - len(places))))
            made.append(_batch(draw, rows, sorted(places), subjects, "random"))
        else:
            times = -(-min(least, subjects * 4) // rows)
            made += [_batch(draw, rows, range(rows), subjects, "subjects") for _ in range(times)]
        if rows > 1 and index % every == 0:
            few = sorted({0, rows // 2, rows - 1})[: max(1, rows - 1)]
            made += [_batch(draw, rows, few, subjects, filler) for filler in ("zeros", "large")]
    return tuple(made)


def _batch(draw: random.Random, rows: int, places: Sequence[int], subjects: int, filler: Filler) -> Batch:
    chosen = draw.sample(range(subjects), min(len(places), subjects))
    return Batch(rows, tuple(places[: len(chosen)]), tuple(chosen), filler)


def ranges(outcomes: Sequence[tuple[int, bool]]) -> tuple[tuple[int, int, bool], ...]:
    """Neighbouring sizes with the same outcome as one: first size, last size, whether it holds.

    Args:
        outcomes: of each size, rising.
    """
    found: list[tuple[int, int, bool]] = []
    for rows, holds in outcomes:
        if found and found[-1][2] == holds:
            found[-1] = (found[-1][0], rows, holds)
        else:
            found.append((rows, rows, holds))
    return tuple(found)
