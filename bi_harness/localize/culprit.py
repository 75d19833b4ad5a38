"""The same request alone and in company: the first module whose inputs are equal and whose output differs.

Rows are known by the absolute position of their token, since a prefill may be split otherwise. What a row can
depend on lies at earlier positions (through attention), or at its own in modules that ended before: so calls
are looked at by position first, and there in the order in which they end. A module inside of another ends
before it: the innermost that qualifies is found first.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from bi_harness.localize.seen import Call, Seen, Tensor

ROOT, SAMPLER = "(model)", "(sampler)"
"""How ``engine.watch.calls`` names all of the model, and what is no part of it."""

Place = tuple[str, int]
"""A module's name, and which of its calls in a step."""


@dataclass(frozen=True, slots=True)
class Found:
    """Where the difference begins.

    Attributes:
        kind: ``module``; ``inputs``: a module was given something else, and nothing before it gave something
            else; ``nothing``: all that both arms have is equal.
        name, class_, call: of the module.
        position: of the token.
        before: the module that ended last before it at that position, with equal outputs; empty for none.
        compared: rows of calls that both arms have.
    """

    kind: Literal["module", "inputs", "nothing"]
    name: str = ""
    class_: str = ""
    call: int = 0
    position: int = 0
    before: str = ""
    compared: int = 0


@dataclass(frozen=True, slots=True)
class _Row:
    """One row of one call: where to find it."""

    call: Call
    row: int


@dataclass(frozen=True, slots=True)
class _Pair:
    position: int
    again: int
    order: int
    alone: _Row
    batch: _Row

    @property
    def given(self) -> bool:
        return same(self.alone, self.batch, "given")

    @property
    def made(self) -> bool:
        return same(self.alone, self.batch, "made")


def first_culprit(alone: Seen, batch: Seen) -> Found:
    """Where the request's rows first differ between the two."""
    pairs = sorted(_pairs(alone, batch), key=lambda p: (p.position, p.again, p.order))
    at: tuple[int, int] | None = None
    given: Found | None = None
    harmless: Found | None = None
    before = ""
    place: tuple[int, int] | None = None
    for pair in pairs:
        if at is not None and (pair.position, pair.again) != at:
            break  # What follows may come of it.
        if (pair.position, pair.again) != place:
            place, before = (pair.position, pair.again), ""
        inputs, outputs = pair.given, pair.made
        name, class_ = pair.alone.call.name, pair.alone.call.class_
        if inputs and not outputs:
            return Found("module", name, class_, pair.alone.call.call, pair.position, before, len(pairs))
        if inputs:
            before = name
            continue
        other = Found("inputs", name, class_, pair.alone.call.call, pair.position, before, len(pairs))
        harmless = harmless or other
        if not outputs:
            at, given = at or (pair.position, pair.again), given or other
    return given or harmless or Found("nothing", compared=len(pairs))


def differing(alone: Seen, batch: Seen) -> tuple[set[str], set[str]]:
    """The modules that both arms called with rows of the request, and those of them whose output differs."""
    called, other = set(), set()
    for pair in _pairs(alone, batch):
        name = pair.alone.call.name
        called.add(name)
        if name not in other and not pair.made:
            other.add(name)
    return called, other


def rows_of(seen: Seen, place: Place) -> dict[int, tuple[Call, int]]:
    """The calls of that place by position; of a position that is there several times, the last."""
    return {
        position: (call, row)
        for call in seen.calls
        if (call.name, call.call) == place
        for row, position in enumerate(call.positions)
    }


def same(a: _Row, b: _Row, side: Literal["given", "made"]) -> bool:
    """Whether two rows of a module's call have the same tensors with the same bits."""
    mine: tuple[Tensor, ...] = getattr(a.call, side)
    theirs: tuple[Tensor, ...] = getattr(b.call, side)
    if side == "given" and a.call.name.startswith(SAMPLER):
        # Whether there is a tensor of temperatures at all depends on who else is sampled.
        both = {t.path for t in mine} & {t.path for t in theirs}
        mine, theirs = (tuple(t for t in side_ if t.path in both) for side_ in (mine, theirs))
    if [(t.path, t.dtype) for t in mine] != [(t.path, t.dtype) for t in theirs]:
        return False
    return all(
        x.shape[1:] == y.shape[1:] and bool((x.rows[a.row] == y.rows[b.row]).all())
        for x, y in zip(mine, theirs, strict=True)
    )


def _pairs(alone: Seen, batch: Seen) -> Iterator[_Pair]:
    reference: dict[tuple[Place, int], tuple[int, _Row]] = {}
    for order, call in enumerate(alone.calls):
        for row, position in enumerate(call.positions):
            reference.setdefault(((call.name, call.call), position), (order, _Row(call, row)))
    times: dict[tuple[Place, int], int] = {}
    for call in batch.calls:
        for row, position in enumerate(call.positions):
            key = ((call.name, call.call), position)
            known = reference.get(key)
            if known is None:
                continue
            again = times.get(key, 0)
            times[key] = again + 1
            yield _Pair(position, again, known[0], known[1], _Row(call, row))
