"""Whether a row's bits depend on its batch, measured on the device.

The reference of each subject is the operator's result for that row alone. Everything is counted on the device
and read once at the end of an operator.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from bi_harness.engine.ops.base import Kind, Made
from bi_harness.engine.ops.sizes import Batch

CHECKED = 16
"""Subjects whose result is held against float64."""


@dataclass(frozen=True, slots=True)
class SizeOutcome:
    """What one batch size gave: rows compared, and of them those that differ."""

    rows: int
    compared: int
    differing: int


@dataclass(frozen=True, slots=True)
class First:
    """The first difference, in the order of the calls: batch size, place in it, and what stood beside it."""

    rows: int
    place: int
    filler: str


@dataclass(frozen=True, slots=True)
class Measured:
    """What was measured of an operator.

    Attributes:
        sizes: rising; each size once.
        first: ``None`` exactly when no row differs.
        max_ulp: the largest distance between a row's values and those it has alone, in units in the last
            place of the result's dtype (of floating point results; of others, the difference).
        repeated, unequal: rows that were computed twice in the same batch, and those of them that differ.
        error: see ``Made.error``.
        seconds: that it took.
        values: of the results of those that differ, how many differ.
    """

    sizes: tuple[SizeOutcome, ...]
    first: First | None
    max_ulp: int
    repeated: int
    unequal: int
    error: float
    seconds: float
    values: int = 0

    @property
    def compared(self) -> int:
        """Rows compared with themselves alone."""
        return sum(size.compared for size in self.sizes)

    @property
    def differing(self) -> int:
        """Those of them that differ."""
        return sum(size.differing for size in self.sizes)


def measure(made: Made, batches: Sequence[Batch], *, subjects: int, device: str, seed: int) -> Measured:
    """Run every batch and compare each subject in it with the same row alone.

    Args:
        made: the operator.
        batches: what ``sizes.batches`` gives, for so many subjects.

    Raises:
        RuntimeError: torch or vLLM refuse a call.
    """
    import torch

    began = time.monotonic()
    generator = torch.Generator(device).manual_seed(seed)
    rows = made.subjects(subjects, generator)
    alone = [made.call(_take(rows, slice(i, i + 1))) for i in range(subjects)]
    reference = tuple(_cat([one[i] for one in alone]) for i in range(len(alone[0])))
    del alone
    checked = min(CHECKED, subjects)
    error = made.error(_take(rows, slice(0, checked)), _take(reference, slice(0, checked)))
    wanted_bits = tuple(bits(part) for part in reference)
    pools = _Pools(made, max((batch.rows for batch in batches), default=1), generator)
    compared: dict[int, int] = {}
    counts: list[Any] = []
    places: list[Any] = []
    ulps: list[Any] = []
    values = torch.zeros((), dtype=torch.int64, device=device)
    indices = _indices(batches, device)
    for batch, (at, which) in zip(batches, indices, strict=True):
        results = made.call(pools.batch(batch, rows, at, which))
        differs = torch.zeros(len(batch.places), dtype=torch.bool, device=device)
        ulp = torch.zeros((), dtype=torch.int64, device=device)
        for part, known, right in zip(results, reference, wanted_bits, strict=True):
            found = bits(part)[at]
            other = (found != right[which]).flatten(1)
            values += other.sum()
            unequal = other.any(dim=1)
            differs |= unequal
            if device != "cpu" or bool(unequal.any()):
                ulp = torch.maximum(ulp, _distance(found.view(part.dtype), right[which].view(known.dtype)))
        compared[batch.rows] = compared.get(batch.rows, 0) + len(batch.places)
        counts.append(differs.sum())
        places.append(torch.where(differs.any(), differs.int().argmax(), -1))
        ulps.append(ulp)
    repeated, unequal_rows = _repeat(made, batches, indices, rows, pools)
    told = torch.stack([torch.stack(counts), torch.stack(places), torch.stack(ulps)]).cpu().tolist()
    differing: dict[int, int] = {}
    first: First | None = None
    for batch, count, place in zip(batches, told[0], told[1], strict=True):
        differing[batch.rows] = differing.get(batch.rows, 0) + count
        if count and (first is None or batch.rows < first.rows):
            first = First(batch.rows, batch.places[place], batch.filler)
    return Measured(
        sizes=tuple(SizeOutcome(n, compared[n], differing[n]) for n in sorted(compared)),
        first=first,
        max_ulp=max(told[2], default=0),
        repeated=repeated,
        unequal=int(unequal_rows),
        error=error,
        seconds=time.monotonic() - began,
        values=int(values),
    )


class _Pools:
    """Neighbours: made once for each kind, and taken from the same pool in all batches."""

    def __init__(self, made: Made, most: int, generator: Any) -> None:
        self._made, self._most, self._generator = made, most, generator
        self._pools: dict[Kind, tuple[Any, ...]] = {}

    def batch(self, batch: Batch, rows: tuple[Any, ...], at: Any, which: Any) -> tuple[Any, ...]:
        """The rows of a batch: neighbours with the subjects ``which`` at the places ``at``."""
        if batch.filler == "subjects":
            return tuple(part[which] for part in rows)
        if batch.filler not in self._pools:
            # Zero and large neighbours stand in for any size alone: one pool at a time is held.
            self._pools = {k: v for k, v in self._pools.items() if k == "random"}
            self._pools[batch.filler] = self._made.rows(self._most, batch.filler, self._generator)
        made = []
        for pool, own in zip(self._pools[batch.filler], rows, strict=True):
            part = pool[: batch.rows].clone()
            part[at] = own[which]
            made.append(part)
        return tuple(made)


def _indices(batches: Sequence[Batch], device: str) -> list[tuple[Any, Any]]:
    """Places and subjects of each batch, brought to the device at once: it waits for each copy."""
    import torch

    flat = torch.tensor([n for b in batches for n in (*b.places, *b.subjects)]).to(device)
    parts = flat.split([len(part) for b in batches for part in (b.places, b.subjects)])
    return list(zip(parts[::2], parts[1::2], strict=True))


def _repeat(
    made: Made,
    batches: Sequence[Batch],
    indices: Sequence[tuple[Any, Any]],
    rows: tuple[Any, ...],
    pools: _Pools,
) -> tuple[int, Any]:
    """The largest batch of random neighbours twice: every row is compared, not the subjects' alone."""
    plain = [i for i, batch in enumerate(batches) if batch.filler in ("random", "subjects")]
    largest = max(plain, key=lambda i: batches[i].rows)
    batch = batches[largest]
    once, again = (made.call(pools.batch(batch, rows, *indices[largest])) for _ in range(2))
    differs = sum((bits(a) != bits(b)).flatten(1).any(dim=1).int() for a, b in zip(once, again, strict=True))
    return batch.rows, (differs > 0).sum()


def _take(parts: tuple[Any, ...], which: slice) -> tuple[Any, ...]:
    # Copies: an operator may change its input.
    return tuple(part[which].clone() for part in parts)


def _cat(parts: Sequence[Any]) -> Any:
    # As whole numbers: not every operator of torch takes FP8.
    import torch

    return torch.cat([bits(part) for part in parts]).view(parts[0].dtype)


def bits(values: Any) -> Any:
    """The same bytes as whole numbers: NaNs with equal bits are equal, and 0.0 is not -0.0."""
    import torch

    whole = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    return values.contiguous().view(whole[values.element_size()])


def _distance(found: Any, known: Any) -> Any:
    """The largest distance in units in the last place."""
    import torch

    if not found.numel():
        return torch.zeros((), dtype=torch.int64, device=found.device)
    if not found.is_floating_point() or found.element_size() == 1:
        return (bits(found).long() - bits(known).long()).abs().max()
    low = {2: -(1 << 15), 4: -(1 << 31), 8: 0}[found.element_size()]

    def ordered(values: Any) -> Any:
        whole = bits(values).long()
        return torch.where(whole < 0, low - whole, whole)

    return (ordered(found) - ordered(known)).abs().max()
