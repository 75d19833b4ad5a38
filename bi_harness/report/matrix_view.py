"""The checks laid out as the matrix: rows model × backend × parallel size, columns suite × mode."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from bi_harness.certificate.records import CheckResult, Status
from bi_harness.report.cellid import CellParts, parse_cell_id
from bi_harness.report.facts import STATUSES
from bi_harness.report.text import clean


@dataclass(frozen=True, slots=True)
class Row:
    """One model on one backend at one parallel size; ``device`` is empty while there is only one."""

    device: str
    model: str
    backend: str
    parallel: str


@dataclass(frozen=True, slots=True)
class Column:
    """One suite in one mode; both empty for checks whose cell has an ill-formed id."""

    suite: str
    mode: str


@dataclass(frozen=True, slots=True)
class Mark:
    """One check in a cell: its name as shown, its status and, for a skip, its rule."""

    check: str
    status: Status
    rule: str


@dataclass(frozen=True, slots=True)
class Slot:
    """What stands where a row and a column meet; no marks where nothing was planned."""

    column: Column
    marks: tuple[Mark, ...]

    @property
    def worst(self) -> Status | None:
        """The status that a reader must see first; ``None`` for an empty slot."""
        present = {mark.status for mark in self.marks}
        return next((status for status in STATUSES if status in present), None)

    @property
    def counts(self) -> tuple[tuple[Status, int], ...]:
        """How many checks have each status, worst first, without the zeros."""
        return tuple(
            (status, found)
            for status in STATUSES
            if (found := sum(mark.status == status for mark in self.marks))
        )

    def of(self, status: Status) -> tuple[Mark, ...]:
        """The marks with that status."""
        return tuple(mark for mark in self.marks if mark.status == status)

    @property
    def rules(self) -> tuple[str, ...]:
        """The rules that skipped checks here, each once."""
        return tuple(dict.fromkeys(mark.rule for mark in self.of("skip") if mark.rule))


@dataclass(frozen=True, slots=True)
class Matrix:
    """The whole grid; ``lines`` holds a slot for every column, in the columns' order."""

    columns: tuple[Column, ...]
    lines: tuple[tuple[Row, tuple[Slot, ...]], ...]

    @property
    def suites(self) -> tuple[tuple[str, int], ...]:
        """The suites with the number of columns of each, in the columns' order."""
        widths: dict[str, int] = {}
        for column in self.columns:
            widths[column.suite] = widths.get(column.suite, 0) + 1
        return tuple(widths.items())


def build_matrix(checks: Iterable[CheckResult]) -> Matrix:
    """The grid of these checks; rows and suites in the order of their first check, modes as in ``MODES``."""
    listed = [(parse_cell_id(check.cell), check) for check in checks]
    several = len({parts.device for parts, _ in listed}) > 1
    slots: dict[tuple[Row, Column], list[Mark]] = {}
    rows: dict[Row, None] = {}
    columns: dict[Column, None] = {}
    for parts, check in listed:
        row, column = _row(parts, several), Column(clean(parts.suite, 80), clean(parts.mode, 40))
        rows.setdefault(row)
        columns.setdefault(column)
        mark = Mark(clean(check.check, 120) or "(unnamed)", check.status, clean(check.rule or "", 80))
        slots.setdefault((row, column), []).append(mark)
    ordered = _ordered(columns)

    def line(row: Row) -> tuple[Slot, ...]:
        return tuple(Slot(column, tuple(slots.get((row, column), ()))) for column in ordered)

    return Matrix(ordered, tuple((row, line(row)) for row in rows))


def _row(parts: CellParts, several: bool) -> Row:
    return Row(
        device=clean(parts.device, 60) if several else "",
        model=clean(parts.model, 120) or "(unnamed)",
        backend=clean(parts.backend, 60),
        parallel=parts.parallel,
    )


def _ordered(columns: Iterable[Column]) -> tuple[Column, ...]:
    # A suite's modes must be neighbours, or its heading could not span them.
    columns = list(columns)
    suites = {suite: place for place, suite in enumerate(dict.fromkeys(column.suite for column in columns))}
    modes = {"default": 0, "compile": 1, "eager": 2}

    def place(column: Column) -> tuple[int, int, str]:
        return suites[column.suite], modes.get(column.mode, 3), column.mode

    return tuple(sorted(columns, key=place))
