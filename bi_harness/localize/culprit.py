"""The same request alone and in company: the first module whose inputs are equal and whose output differs.

Rows are known by the absolute position of their token, since a prefill may be split otherwise. What a row can
depend on lies at earlier positions (through attention), or at its own in modules that ended before: so calls
are looked at by position first, and there in the order in which they end. A module inside of another ends
before it: the innermost that qualifies is found first.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from bi_harness.localize.seen import Call, Seen, Tensor

Int64 = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

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
class _Pairs:
    """Rows of calls that both arms have, ``[P]`` each, in the order in which they are looked at.

    Attributes:
        position: of the token.
        again: how often the row was computed before, in company.
        given, made: whether inputs and outputs are equal.
        place: index in ``places``.
        places: a call each.
    """

    position: Int64
    again: Int64
    given: Bools
    made: Bools
    place: Int64
    places: tuple[Call, ...]


def first_culprit(alone: Seen, batch: Seen) -> Found:
    """Where the request's rows first differ between the two."""
    pairs = _pairs(alone, batch)
    count = len(pairs.position)
    at: tuple[int, int] | None = None
    given: Found | None = None
    harmless: Found | None = None
    for i in np.flatnonzero(~(pairs.given & pairs.made)).tolist():
        here = (int(pairs.position[i]), int(pairs.again[i]))
        if at is not None and here != at:
            break  # What follows may come of it.
        call = pairs.places[int(pairs.place[i])]
        inputs, outputs = bool(pairs.given[i]), bool(pairs.made[i])
        found = Found(
            "module" if inputs else "inputs",
            call.name,
            call.class_,
            call.call,
            here[0],
            _before(pairs, i, here),
            count,
        )
        if inputs:
            return found
        harmless = harmless or found
        if not outputs:
            at, given = at or here, given or found
    return given or harmless or Found("nothing", compared=count)


def _before(pairs: _Pairs, i: int, here: tuple[int, int]) -> str:
    for j in range(i - 1, -1, -1):
        if (int(pairs.position[j]), int(pairs.again[j])) != here:
            break
        if pairs.given[j]:
            return pairs.places[int(pairs.place[j])].name
    return ""


def differing(alone: Seen, batch: Seen) -> tuple[set[str], set[str]]:
    """The modules that both arms called with rows of the request, and those of them whose output differs."""
    pairs = _pairs(alone, batch)

    def names(places: Int64) -> set[str]:
        return {pairs.places[place].name for place in np.unique(places).tolist()}

    return names(pairs.place), names(pairs.place[~pairs.made])


def logits_equal(alone: Seen, batch: Seen, position: int) -> bool:
    """Whether the sampler is given the same logits for what follows that position; no if it is not known."""
    found = [rows_of(seen, (SAMPLER, 0)).get(position) for seen in (alone, batch)]
    rows = []
    for one in found:
        if one is None:
            return False
        call, row = one
        logits = [t for t in call.given if len(t.shape) == 2 and t.path.startswith(("0.0", "1.logits"))]
        if len(logits) != 1:
            return False
        rows.append(logits[0].rows[row])
    return np.array_equal(rows[0], rows[1])


def rows_of(seen: Seen, place: Place) -> dict[int, tuple[Call, int]]:
    """The calls of that place by position; of a position that is there several times, the last."""
    return {
        position: (call, row)
        for call in seen.calls
        if (call.name, call.call) == place
        for row, position in enumerate(call.positions)
    }


def alike_from(alone: Mapping[int, tuple[Call, int]], call: Call, row: int) -> tuple[int, ...]:
    """Positions of a call in company, from ``row`` on, up to the first whose inputs differ.

    Only on these is another output the call's own doing: what is behind them may depend, through attention,
    on a row that was given something else.

    Args:
        alone: ``rows_of`` the same place.
        call: in company.
        row: of it, the first that differs: its inputs are known to be equal.
    """
    positions = [call.positions[row]]
    for number in range(row + 1, len(call.positions)):
        at = call.positions[number]
        if at not in alone:
            break
        other, own = alone[at]
        if not _equal(other, call, "given", np.array([own]), np.array([number])).all():
            break
        positions.append(at)
    return tuple(positions)


def _equal(a: Call, b: Call, side: Literal["given", "made"], rows: Int64, others: Int64) -> Bools:
    """Whether rows of two calls have the same tensors with the same bits, ``[R]``."""
    mine: tuple[Tensor, ...] = getattr(a, side)
    theirs: tuple[Tensor, ...] = getattr(b, side)
    if side == "given" and a.name.startswith(SAMPLER):
        # Whether there is a tensor of temperatures at all depends on who else is sampled.
        both = {t.path for t in mine} & {t.path for t in theirs}
        mine, theirs = (tuple(t for t in tensors if t.path in both) for tensors in (mine, theirs))
    equal = np.ones(len(rows), np.bool_)
    if [(t.path, t.dtype, t.shape[1:]) for t in mine] != [(t.path, t.dtype, t.shape[1:]) for t in theirs]:
        return ~equal
    for x, y in zip(mine, theirs, strict=True):
        one, other = x.rows[rows], y.rows[others]
        if one.shape != other.shape:
            return np.zeros(len(rows), np.bool_)
        equal &= (one == other).reshape(len(rows), -1).all(axis=1)
    return equal


def _pairs(alone: Seen, batch: Seen) -> _Pairs:
    reference: dict[Place, dict[int, tuple[int, int]]] = {}
    for number, call in enumerate(alone.calls):
        known = reference.setdefault((call.name, call.call), {})
        for row, position in enumerate(call.positions):
            known.setdefault(position, (number, row))
    times: dict[Place, dict[int, int]] = {}
    parts: list[tuple[Int64, ...]] = []
    for call in batch.calls:
        known = reference.get((call.name, call.call), {})
        done = times.setdefault((call.name, call.call), {})
        by_call: dict[int, list[tuple[int, int, int, int]]] = {}
        for row, position in enumerate(call.positions):
            if position in known:
                number, own = known[position]
                again = done.get(position, 0)
                done[position] = again + 1
                by_call.setdefault(number, []).append((position, again, own, row))
        for number, found in by_call.items():
            position_, again_, rows, others = np.array(found, np.int64).T
            given = _equal(alone.calls[number], call, "given", rows, others)
            made = _equal(alone.calls[number], call, "made", rows, others)
            order = np.full(len(found), number, np.int64)
            parts.append((position_, again_, order, given.astype(np.int64), made.astype(np.int64)))
    if not parts:
        nothing, none = np.zeros(0, np.int64), np.zeros(0, np.bool_)
        return _Pairs(nothing, nothing, none, none, nothing, alone.calls)
    places, times_, order_, given_, made_ = (np.concatenate(column) for column in zip(*parts, strict=True))
    index = np.lexsort((order_, times_, places))
    return _Pairs(
        places[index],
        times_[index],
        given_[index].astype(np.bool_),
        made_[index].astype(np.bool_),
        order_[index],
        alone.calls,
    )
