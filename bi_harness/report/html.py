"""``certificate.html``: the whole certificate as one file that needs nothing else."""

from __future__ import annotations

from functools import cache
from typing import Any, Final

from jinja2 import Environment, PackageLoader, StrictUndefined

from bi_harness.certificate.localized import Localization
from bi_harness.certificate.records import Status, Verdict
from bi_harness.certificate.statement import Statement
from bi_harness.report import facts, text
from bi_harness.report.effective_view import effective_view
from bi_harness.report.execution_view import execution_label
from bi_harness.report.facts_view import fact_tables, tables_left
from bi_harness.report.findings import cell_figures, finding, skip_groups
from bi_harness.report.localized_view import SYMBOLS as MAP_SYMBOLS
from bi_harness.report.localized_view import WORDS as MAP_WORDS
from bi_harness.report.localized_view import localized_left, localized_view, localized_views
from bi_harness.report.matrix_view import build_matrix
from bi_harness.report.modules_view import MODULE_SYMBOLS, MODULE_WORDS, module_tables
from bi_harness.report.ops_view import op_tables
from bi_harness.report.tree import entries
from bi_harness.report.waivers_view import waiver_lines, waivers_left

SYMBOLS: Final[dict[Status, str]] = {
    "pass": "✓",
    "fail": "✗",
    "error": "!",
    "inconclusive": "?",
    "skip": "–",
    "waived": "≈",
}
VERDICT_SYMBOLS: Final[dict[Verdict, str]] = {"CERTIFIED": "✓", "NOT_CERTIFIED": "✗", "INCONCLUSIVE": "?"}

MAX_FINDINGS = 500
"""Checks told one by one; beyond it the page stops being one that a browser can open."""

NAMED_COLUMNS = 4
"""With more columns than this the passing checks of a slot are counted, not named."""


@cache
def _environment() -> Environment:
    return Environment(
        loader=PackageLoader("bi_harness.report"),
        autoescape=True,  # always: every value comes from a file that anybody may have written
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def render_html(statement: Statement) -> str:
    """The page. It loads nothing, runs no script, and says so to the browser in its policy."""
    return _environment().get_template("certificate.html.j2").render(_context(statement))


def render_localized(told: Localization) -> str:
    """One localization as a page of its own, for ``bi-harness localize``."""
    template = _environment().get_template("localized_page.html.j2")
    return template.render(item=localized_view(told), symbols=MAP_SYMBOLS, words=MAP_WORDS)


def _context(statement: Statement) -> dict[str, Any]:
    result = statement.predicate.bi_harness
    shown = facts.problems(statement)
    matrix = build_matrix(result.checks)
    have = facts.status_counts(statement)
    warned = facts.warned(statement)
    return {
        "verdict": facts.verdict_line(statement),
        # A certificate with waived failures has the looks of neither a pass nor a failure.
        "verdict_class": "inconclusive" if warned else result.verdict.lower().replace("_", "-"),
        "verdict_symbol": SYMBOLS["waived"] if warned else VERDICT_SYMBOLS[result.verdict],
        "why": text.clean(result.why, 1_000),
        "caveats": facts.caveats(statement),
        "head": _head(statement),
        "device": facts.device_label(statement),
        "run_id": text.clean(result.run_id, 120),
        "counts": [(status, have[status]) for status in reversed(facts.STATUSES) if have[status]],
        "symbols": SYMBOLS,
        "matrix": matrix,
        "named": len(matrix.columns) <= NAMED_COLUMNS,
        "has_suites": any(column.suite for column in matrix.columns),
        "cells": cell_figures(statement),
        "op_tables": op_tables(statement),
        "module_tables": module_tables(statement),
        "module_symbols": MODULE_SYMBOLS,
        "module_words": MODULE_WORDS,
        "fact_tables": fact_tables(statement),
        "fact_tables_left": tables_left(statement),
        "findings": [finding(statement, check, i) for i, check in enumerate(shown[:MAX_FINDINGS], start=1)],
        "findings_left": max(0, len(shown) - MAX_FINDINGS),
        "localized_views": localized_views(statement),
        "localized_left": localized_left(statement),
        "map_symbols": MAP_SYMBOLS,
        "map_words": MAP_WORDS,
        "waivers": waiver_lines(statement),
        "waivers_left": waivers_left(statement),
        "skips": skip_groups(statement),
        "effective": effective_view(statement),
        "provenance": entries(result.provenance) if result.provenance else (),
        "device_entries": entries(result.device) if result.device else (),
        "descriptors": _descriptors(statement),
        "result": statement.predicate.result,
        "schema": result.schema_,
    }


def _head(statement: Statement) -> list[tuple[str, str]]:
    result = statement.predicate.bi_harness
    ran = text.elapsed(result.started, result.finished)
    date = text.when(result.started)
    if result.finished is None:
        date += ", never finished"
    elif ran is not None:
        date += f", {text.duration(ran)}"
    power, axes = facts.power_label(statement), facts.axes_label(statement)
    return [
        ("Device", facts.device_label(statement)),
        ("vLLM", facts.vllm_version(statement)),
        ("Scope", facts.scope_label(statement)),
        ("Weights", facts.weights_label(statement)),
        *([("Execution", execution)] if (execution := execution_label(statement)) else []),
        ("Date", date),
        ("Checks", facts.counts_line(statement)),
        *([("Axes", axes)] if axes else []),
        *([("Power", power)] if power else []),
        ("Seed", text.scalar(result.scope.seed)),
        ("Run", text.clean(result.run_id, 120)),
    ]


def _descriptors(statement: Statement) -> list[tuple[str, str, list[str], list[tuple[str, str]]]]:
    """Subjects and configuration: role, name, digests (and where from), annotations."""
    listed = [("subject", item) for item in statement.subject]
    listed += [("configuration", item) for item in statement.predicate.configuration]
    return [
        (
            role,
            text.clean(item.name, 200),
            [f"{text.clean(kind, 40)}:{text.clean(value, 300)}" for kind, value in item.digest.items()]
            + ([text.clean(item.uri, 500)] if item.uri else []),
            [(text.clean(key, 80), text.clean(value, 300)) for key, value in item.annotations.items()],
        )
        for role, item in listed
    ]
