"""The modules of a loaded model as a table: what was audited, where it holds, and what was not."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from bi_harness.certificate.modules import HOLDS, found, judged_of
from bi_harness.certificate.records import CheckResult, ModuleResult
from bi_harness.certificate.statement import Statement
from bi_harness.report.text import clean, count

MAX_LINES = 200
MAX_TABLES = 40
MAX_RANGES = 4

State = Literal["holds", "differs", "through", "missing"]
MODULE_SYMBOLS: Final[dict[State, str]] = {"holds": "✓", "differs": "✗", "through": "↳", "missing": "–"}
MODULE_WORDS: Final[dict[State, str]] = {
    "holds": "rows do not depend on the batch",
    "differs": "they do",
    "through": "never called itself, audited through another",
    "missing": "not audited",
}


@dataclass(frozen=True, slots=True)
class ModuleLine:
    """One type of module, called in one way.

    Attributes:
        type, name: class, and qualified name of the instance.
        weights, form: its own weights; what it is called with.
        how: how it was audited, and how many instances of how many.
        ranges: the batch sizes at which it holds, and those at which it does not.
        said: what was found, where that is more than ``ranges``.
    """

    type: str
    name: str
    weights: str
    form: str
    dtype: str
    how: str
    ranges: str
    said: str
    state: State


@dataclass(frozen=True, slots=True)
class ModuleTable:
    """The modules of one cell; ``left`` lines are not shown."""

    cell: str
    lines: tuple[ModuleLine, ...]
    audited: int
    failed: int
    missing: int
    left: int


def module_tables(statement: Statement) -> tuple[ModuleTable, ...]:
    """A table for each check that audited modules, in plan order."""
    checks = [check for check in statement.predicate.bi_harness.checks if check.modules]
    return tuple(_table(check) for check in checks[:MAX_TABLES])


def _table(check: CheckResult) -> ModuleTable:
    lines = [_line(module) for module in check.modules]
    # What is cut must not be what a reader came for.
    first: tuple[State, ...] = ("differs", "missing", "holds", "through")
    lines.sort(key=lambda line: first.index(line.state))
    return ModuleTable(
        cell=clean(check.cell, 300) or "(unnamed)",
        lines=tuple(lines[:MAX_LINES]),
        audited=sum(line.state in ("holds", "differs") for line in lines),
        failed=sum(line.state == "differs" for line in lines),
        missing=sum(line.state == "missing" for line in lines),
        left=max(0, len(lines) - MAX_LINES),
    )


def _line(module: ModuleResult) -> ModuleLine:
    said = found(module)
    state: State = "holds" if said == HOLDS else "differs"
    if not judged_of(module):
        state = "missing" if module.missing else "through"
    quant = f" ({module.quant})" if module.quant else ""
    return ModuleLine(
        type=clean(module.type, 120),
        name=clean(module.name, 200),
        weights=clean(", ".join(module.weights) + quant, 200),
        form=clean(module.form, 200),
        dtype=clean(module.dtype, 40),
        how=_how(module) if judged_of(module) else "",
        ranges=_ranges(module),
        said="" if state == "holds" else clean(said, 500),
        state=state,
    )


def _how(module: ModuleResult) -> str:
    how = "fed rows" if module.how == "rows" else "requests alone and together"
    return f"{how}, {count(module.audited)} of {count(module.instances)}, {count(module.rows)} rows compared"


def _ranges(module: ModuleResult) -> str:
    parts = [
        f"{MODULE_SYMBOLS['holds' if part.holds else 'differs']} "
        f"{count(part.first)}{f'-{count(part.last)}' if part.last != part.first else ''}"
        for part in module.ranges
    ]
    more = f", and {len(parts) - MAX_RANGES} more" if len(parts) > MAX_RANGES else ""
    return ", ".join(parts[:MAX_RANGES]) + more
