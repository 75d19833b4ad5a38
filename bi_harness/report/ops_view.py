"""Single operators as a picture: operator × dtype × size of the batch, and where invariance holds."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Literal

from bi_harness.certificate.ops import HOLDS, found
from bi_harness.certificate.records import CheckResult, OpResult
from bi_harness.certificate.statement import Statement
from bi_harness.report.text import clean

MAX_LINES = 200
MAX_TABLES = 40

BANDS: Final[tuple[tuple[int, int], ...]] = (
    (1, 1),
    *((2**n, 2 ** (n + 1) - 1) for n in range(1, 12)),
    (4096, 4096),
)
"""Batch sizes of a column: a switch at a power of two falls between two of them."""

State = Literal["holds", "differs", "untried"]
SYMBOLS: Final[dict[State, str]] = {"holds": "✓", "differs": "✗", "untried": "·"}
WORDS: Final[dict[State, str]] = {"holds": "invariant", "differs": "differs", "untried": "not tried"}


@dataclass(frozen=True, slots=True)
class OpBand:
    """One operator in one column; ``text`` says it without colour."""

    state: State
    text: str


@dataclass(frozen=True, slots=True)
class OpLine:
    """One operator in one dtype.

    Attributes:
        bands: a column each; empty where ``note`` stands across them all.
        found: in words.
        status: ``holds``, ``differs`` (also where it is wrong or unlike itself) or ``skip``.
    """

    op: str
    dtype: str
    shape: str
    unit: str
    judged: bool
    bands: tuple[OpBand, ...]
    note: str
    found: str
    where: str
    status: Literal["holds", "differs", "skip"]


@dataclass(frozen=True, slots=True)
class OpTable:
    """The operators of one cell; ``left`` lines are not shown."""

    cell: str
    heads: tuple[str, ...]
    lines: tuple[OpLine, ...]
    left: int

    @property
    def differ(self) -> int:
        """Lines that are shown and judged, and do not hold."""
        return sum(line.judged and line.status == "differs" for line in self.lines)


def op_tables(statement: Statement) -> tuple[OpTable, ...]:
    """A table for each cell that has operators, in plan order."""
    cells: dict[str, list[CheckResult]] = {}
    for check in statement.predicate.bi_harness.checks:
        if check.ops:
            cells.setdefault(check.cell, []).append(check)
    return tuple(_table(cell, checks) for cell, checks in list(cells.items())[:MAX_TABLES])


def _table(cell: str, checks: list[CheckResult]) -> OpTable:
    lines = [line for check in checks for line in _lines(check.ops)]
    return OpTable(
        cell=clean(cell, 300) or "(unnamed)",
        heads=tuple(f"{a:,}" if a == b else f"{a:,}-{b:,}" for a, b in BANDS),
        lines=tuple(lines[:MAX_LINES]),
        left=max(0, len(lines) - MAX_LINES),
    )


def _lines(ops: tuple[OpResult, ...]) -> Iterator[OpLine]:
    for op in ops:
        said = found(op)
        holds = said == HOLDS
        note = ""
        if op.missing:
            note = said
        elif op.drawn or not op.ranges:
            note = HOLDS if holds else said
        yield OpLine(
            op=clean(op.op, 80),
            dtype=clean(op.dtype, 40),
            shape=clean(op.shape, 120),
            unit=clean(op.unit, 40),
            judged=op.judged and not op.missing,
            bands=() if note else tuple(_band(op, first, last) for first, last in BANDS),
            note=clean(note, 300),
            found="" if holds or op.missing else clean(said, 300),
            where=clean(op.where, 200),
            status="skip" if op.missing else "holds" if holds else "differs",
        )


def _band(op: OpResult, first: int, last: int) -> OpBand:
    within = [part for part in op.ranges if part.first <= last and part.last >= first]
    if broken := [part for part in within if not part.holds]:
        return OpBand("differs", f"{SYMBOLS['differs']} {max(first, broken[0].first):,}")
    state: State = "holds" if within else "untried"
    return OpBand(state, SYMBOLS[state])
