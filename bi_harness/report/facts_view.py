"""What engines said of themselves: for each check what was found, what had to be, what the control has."""

from __future__ import annotations

from dataclasses import dataclass

from bi_harness.certificate.records import CheckResult
from bi_harness.certificate.statement import Statement
from bi_harness.report.text import clean

MAX_FACTS = 120
"""Of one check; judged ones come first."""

MAX_TABLES = 100


@dataclass(frozen=True, slots=True)
class FactLine:
    """One fact. ``expected`` and ``control`` are empty for one that is told and not judged."""

    name: str
    found: str
    expected: str
    control: str
    source: str
    wrong: bool


@dataclass(frozen=True, slots=True)
class FactTable:
    """The facts of one check; ``left`` of them are not shown."""

    cell: str
    check: str
    lines: tuple[FactLine, ...]
    wrong: int
    left: int


def fact_tables(statement: Statement) -> tuple[FactTable, ...]:
    """A table for each check that has facts, in plan order."""
    checks = [check for check in statement.predicate.bi_harness.checks if check.facts]
    return tuple(_table(check) for check in checks[:MAX_TABLES])


def tables_left(statement: Statement) -> int:
    """Checks with facts that ``fact_tables`` leaves out."""
    return max(0, sum(bool(c.facts) for c in statement.predicate.bi_harness.checks) - MAX_TABLES)


def _table(check: CheckResult) -> FactTable:
    elsewhere = {fact.name: fact.found for fact in check.control_facts}
    # Wrong ones first, then what was judged: what is cut must not be what a reader came for.
    facts = sorted(check.facts, key=lambda fact: (not fact.wrong, not fact.judged))
    return FactTable(
        cell=clean(check.cell, 300) or "(unnamed)",
        check=clean(check.check, 160) or "(unnamed)",
        lines=tuple(
            FactLine(
                name=clean(fact.name, 160),
                found=clean(fact.found, 300) or "(empty)",
                expected=clean(" or ".join(fact.expected), 200),
                control=clean(elsewhere.get(fact.name, ""), 160) if fact.judged else "",
                source=clean(fact.source, 500),
                wrong=fact.wrong,
            )
            for fact in facts[:MAX_FACTS]
        ),
        wrong=sum(fact.wrong for fact in facts),
        left=max(0, len(facts) - MAX_FACTS),
    )
