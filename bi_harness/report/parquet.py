"""``cells.parquet``: one row per check, for the questions that span many runs."""

from __future__ import annotations

import io
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from bi_harness.certificate.records import CheckResult, Evidence
from bi_harness.certificate.statement import Statement
from bi_harness.report import facts
from bi_harness.report.cellid import parse_cell_id

_TEXT: Final = pa.string()
_INT: Final = pa.int64()
_REAL: Final = pa.float64()

_INT64_MAX: Final = 2**63 - 1

_EVIDENCE: Final[tuple[tuple[str, pa.DataType], ...]] = (
    ("prompts", _INT),
    ("steps", _INT),
    ("values", _INT),
    ("differing_prompts", _INT),
    ("differing_steps", _INT),
    ("differing_values", _INT),
    ("max_ulp", _INT),
    ("max_abs", _REAL),
    ("upper95", _REAL),
    ("digest", _TEXT),
    ("reference_digest", _TEXT),
)
_WAIVER: Final = ("reason", "link", "owner", "expires")
_BATCH: Final[tuple[tuple[str, pa.DataType], ...]] = (
    ("batch_size", _INT),
    ("max_requests", _INT),
    ("max_tokens", _INT),
)
_FIRST: Final[tuple[tuple[str, pa.DataType], ...]] = (
    ("prompt", _INT),
    ("prompt_tokens", _INT),
    ("batch_size", _INT),
    ("step", _INT),
    ("rank", _INT),
    ("reference_token", _INT),
    ("observed_token", _INT),
    ("reference_bits", _TEXT),
    ("observed_bits", _TEXT),
    ("reference_logprob", _REAL),
    ("observed_logprob", _REAL),
    ("ulp", _INT),
)


def _evidence_fields(prefix: str) -> list[pa.Field[Any]]:
    fields = [pa.field(f"{prefix}{name}", kind) for name, kind in (*_EVIDENCE, *_BATCH)]
    return fields + [pa.field(f"{prefix}first_{name}", kind) for name, kind in _FIRST]


SCHEMA: Final = pa.schema(
    [
        pa.field("run_id", _TEXT, nullable=False),
        pa.field("started", _TEXT, nullable=False),
        pa.field("verdict", _TEXT, nullable=False),
        pa.field("vllm_version", _TEXT, nullable=False),
        pa.field("profile", _TEXT, nullable=False),
        pa.field("weights", _TEXT, nullable=False),
        # Of a server whose invariance mode and configuration nobody verified; null for engines of ours.
        pa.field("endpoint", _TEXT),
        pa.field("layers", _INT),
        pa.field("seed", _INT, nullable=False),
        pa.field("device", _TEXT, nullable=False),
        pa.field("model", _TEXT, nullable=False),
        pa.field("backend", _TEXT),
        pa.field("tp", _INT),
        pa.field("dp", _INT),
        pa.field("mode", _TEXT),
        pa.field("suite", _TEXT),
        pa.field("cell", _TEXT, nullable=False),
        pa.field("check", _TEXT, nullable=False),
        pa.field("status", _TEXT, nullable=False),
        pa.field("reason", _TEXT, nullable=False),
        pa.field("rule", _TEXT),
        pa.field("log", _TEXT),
        pa.field("duration_s", _REAL),
        *[pa.field(f"waiver_{name}", _TEXT) for name in _WAIVER],
        *_evidence_fields(""),
        *_evidence_fields("control_"),
    ]
)
"""The columns. Figures are null where nothing was compared; whole numbers saturate at the 64-bit bounds."""


def import_ahead() -> None:
    """Have pyarrow import pandas now, as it does at the first array that it makes."""
    pa.array([0])


def render_parquet(statement: Statement) -> bytes:
    """The file's bytes; the same for the same statement and pyarrow version."""
    rows = [_row(statement, check) for check in statement.predicate.bi_harness.checks]
    columns = [pa.array([row[field.name] for row in rows], type=field.type) for field in SCHEMA]
    table = pa.Table.from_arrays(columns, schema=SCHEMA)
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd")
    return sink.getvalue()


def _row(statement: Statement, check: CheckResult) -> dict[str, Any]:
    result = statement.predicate.bi_harness
    cell = parse_cell_id(check.cell)
    return {
        "run_id": result.run_id,
        "started": result.started,
        "verdict": result.verdict,
        "vllm_version": facts.vllm_version(statement),
        "profile": result.scope.profile,
        "weights": result.scope.weights,
        "endpoint": result.scope.endpoint.url if result.scope.endpoint is not None else None,
        "layers": _whole(result.scope.layers),
        "seed": _whole(result.scope.seed),
        "device": cell.device or facts.device_id(statement),
        "model": cell.model,
        "backend": cell.backend or None,
        "tp": cell.tp,
        "dp": cell.dp,
        "mode": cell.mode or None,
        "suite": cell.suite or None,
        "cell": check.cell,
        "check": check.check,
        "status": check.status,
        "reason": check.reason,
        "rule": check.rule,
        "log": check.log,
        "duration_s": check.duration_s,
        **{f"waiver_{name}": _value(check.waiver, name) for name in _WAIVER},
        **_figures("", check.evidence),
        **_figures("control_", check.control),
    }


def _figures(prefix: str, evidence: Evidence | None) -> dict[str, Any]:
    first = None if evidence is None else evidence.first_divergence
    arm = None
    if evidence is not None and evidence.batches:
        arm = max(evidence.batches, key=lambda batch: batch.batch_size)
    found = {f"{prefix}{name}": _value(evidence, name) for name, _ in _EVIDENCE}
    found |= {f"{prefix}{name}": _value(arm, name) for name, _ in _BATCH}
    return found | {f"{prefix}first_{name}": _value(first, name) for name, _ in _FIRST}


def _value(holder: object | None, name: str) -> Any:
    value = None if holder is None else getattr(holder, name)
    return _whole(value) if isinstance(value, int) else value


def _whole(value: int | None) -> int | None:
    return None if value is None else max(-_INT64_MAX - 1, min(_INT64_MAX, value))
