from __future__ import annotations

import io

import pyarrow.parquet as pq
import pytest

from bi_harness.report.parquet import SCHEMA, render_parquet

from . import samples


@pytest.mark.parametrize("name", samples.ALL)
def test_it_has_a_row_a_check_and_always_the_same_columns(name: str) -> None:
    statement = samples.ALL[name]()
    table = pq.read_table(io.BytesIO(render_parquet(statement)))
    assert table.schema.equals(SCHEMA)
    checks = statement.predicate.bi_harness.checks
    assert table["cell"].to_pylist() == [check.cell for check in checks]
    assert table["status"].to_pylist() == [check.status for check in checks]


def test_figures_are_those_of_the_records() -> None:
    statement = samples.failing_h200()
    row = pq.read_table(io.BytesIO(render_parquet(statement))).to_pylist()[0]
    assert row["device"] == "h200"
    assert row["model"] == "qwen3-1.7b"
    assert (row["tp"], row["dp"], row["mode"], row["suite"]) == (1, 1, "eager", "batch_invariance")
    assert (row["prompts"], row["differing_prompts"], row["control_differing_prompts"]) == (32, 8, 31)
    assert (row["batch_size"], row["max_requests"]) == (32, 32)
    assert row["first_reference_bits"] == "0xbf9e0651"
    assert row["vllm_version"] == "0.25.1"
    assert row["verdict"] == "NOT_CERTIFIED"


def test_what_was_not_measured_is_null_and_what_does_not_fit_saturates() -> None:
    rows = pq.read_table(io.BytesIO(render_parquet(samples.hostile()))).to_pylist()
    assert rows[1]["prompts"] is None
    assert rows[0]["tp"] is None
    assert rows[4]["max_ulp"] == 2**63 - 1
    assert rows[0]["seed"] == 2**63 - 1
