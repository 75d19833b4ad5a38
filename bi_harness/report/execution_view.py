"""How the engines of each mode executed the model, in vLLM's words, as they said themselves."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from typing import Any, Final

from bi_harness.certificate.statement import Statement
from bi_harness.matrix.execution import SAME_AS_DEFAULT
from bi_harness.report.cellid import parse_cell_id
from bi_harness.report.text import clean, count, plural
from bi_harness.spec.types import MODES

_SETTINGS: Final[tuple[tuple[str, str], ...]] = (
    ("compilation_mode", "compilation mode {}"),
    ("cudagraph_mode", "CUDA graph mode {}"),
    ("breakable_cudagraphs", "breakable CUDA graphs {}"),
    ("model_runner", "model runner {}"),
    ("async_scheduling", "async scheduling {}"),
    ("kv_cache_dtype", "KV cache dtype {}"),
)
"""Keys of the effective configuration, and how a reader sees them."""


MAX_LABELS: Final = 4
"""How many different configurations of one mode are shown."""


def execution_label(statement: Statement) -> str:
    """Each mode with what its engines ran, with the invariance mode on; empty where no engine said it.

    A mode whose engines do not agree has several entries. A mode that was left to ``default`` is named.
    """
    result = statement.predicate.bi_harness
    by_mode: dict[str, dict[str, None]] = {}
    for arm in result.effective:
        mode = _mode(arm.unit)
        # An engine of a label of its own (a cold start, a plain baseline) may execute in another way.
        if arm.arm == "treatment" and mode and not arm.engine and (label := _label(arm.config)):
            by_mode.setdefault(mode, {})[label] = None
    cells = {check.cell: check.rule for check in result.checks}
    left = Counter(parse_cell_id(cell).mode for cell, rule in cells.items() if rule == SAME_AS_DEFAULT)
    parts = [f"{mode}: {_joined(by_mode[mode])}" for mode in MODES if mode in by_mode]
    for mode in (mode for mode in MODES if left[mode]):
        where = f" in {plural(left[mode], 'cell')}" if mode in by_mode else ""
        parts.append(f"{mode}: the same as default{where}, and ran as default")
    return "; ".join(parts)


def _joined(labels: Collection[str]) -> str:
    more = len(labels) - MAX_LABELS
    return " or ".join([*list(labels)[:MAX_LABELS], *([f"{count(more)} more"] if more > 0 else [])])


def _mode(unit: str) -> str:
    """The mode in a unit's id, which ends in it or in a suite behind it."""
    return next((part for part in reversed(unit.split("/")[-2:]) if part in MODES), "")


def _label(config: Mapping[str, Any]) -> str:
    return ", ".join(
        words.format(clean(_words(config[key]), 40)) for key, words in _SETTINGS if key in config
    )


def _words(value: object) -> object:
    return {True: "on", False: "off"}[value] if isinstance(value, bool) else value
