"""Operators as a picture."""

from __future__ import annotations

import re
from typing import Any

from bi_harness.certificate.ops import fact
from bi_harness.certificate.records import CheckResult, OpDifference, OpRange, OpResult
from bi_harness.certificate.statement import Statement
from bi_harness.report.html import render_html
from bi_harness.report.markdown import render_markdown
from bi_harness.report.ops_view import BANDS, MAX_LINES, op_tables
from tests.report.samples import HOSTILE, statement

CELL = "h200/qwen3-1.7b/FLASH_ATTN/tp1-dp1/eager/ops"


def op(name: str, *parts: tuple[int, int, bool], **changes: Any) -> OpResult:
    broken = [first for first, _, holds in parts if not holds]
    base: dict[str, Any] = {
        "op": name,
        "dtype": "bfloat16",
        "shape": "2048",
        "judged": True,
        "promised": True,
        "rows": 100,
        "differing": 12 if broken else 0,
        "max_ulp": 1 if broken else 0,
        "first": OpDifference(rows=broken[0], place=3, beside="random") if broken else None,
        "ranges": tuple(OpRange(first=a, last=b, holds=holds) for a, b, holds in parts),
    }
    return OpResult(**{**base, **changes})


def of(*ops: OpResult) -> Statement:
    facts = tuple(fact(o) for o in ops)
    return statement(
        "NOT_CERTIFIED", (CheckResult(cell=CELL, check="norm", status="fail", ops=ops, facts=facts),)
    )


NORM = op("fused_add_rms_norm", (1, 255, True), (256, 4096, False))


def test_a_boundary_falls_between_two_columns() -> None:
    (table,) = op_tables(of(NORM))
    (line,) = table.lines
    assert [band.state for band in line.bands] == ["holds"] * 8 + ["differs"] * 5
    assert line.bands[8].text == "✗ 256"
    assert table.heads[7:9] == ("128-255", "256-511")
    assert table.differ == 1


def test_the_columns_tell_each_size_up_to_4096_once() -> None:
    sizes = [n for a, b in BANDS for n in range(a, b + 1)]
    assert sizes == list(range(1, 4097))


def test_a_single_size_is_told_in_its_column() -> None:
    (table,) = op_tables(of(op("log_softmax", (1, 16, True), (17, 17, False), (18, 1024, True))))
    texts = [band.text for band in table.lines[0].bands]
    assert texts[4] == "✗ 17"
    assert texts[5] == "✓"
    assert texts[-1] == "·"


def test_what_is_missing_drawn_wrong_or_told_says_so() -> None:
    missing = op("gone", missing="this vLLM has no gone", rows=0)
    drawn = op("drawn", shape="6 drawn shapes", drawn=6)
    wrong = op("wrong", (1, 4096, True), distance=3.0, bound="1 ULP")
    told = op("torch_mm", (1, 1, True), (2, 64, False), judged=False)
    (table,) = op_tables(of(missing, drawn, wrong, told))
    assert [line.status for line in table.lines] == ["skip", "holds", "differs", "differs"]
    assert table.lines[0].note == "skip: this vLLM has no gone"
    assert table.lines[1].note == "invariant and right"
    assert "from float64" in table.lines[2].found
    assert table.differ == 1  # what is told is no failure


def test_the_page_and_the_text_have_it_without_colour() -> None:
    page, text = render_html(of(NORM)), render_markdown(of(NORM))
    assert "Operators by size of the batch" in page
    assert '<td class="num op-differs">✗ 256</td>' in page
    assert "fused_add_rms_norm bfloat16 differs from M = 256 (place 3, beside random)" in page
    row = next(line for line in text.splitlines() if line.startswith("| fused_add_rms_norm"))
    assert row.count("✓") == 8
    assert row.count("✗") == 5


def test_certificates_without_operators_have_no_picture() -> None:
    plain = statement("CERTIFIED", (CheckResult(cell=CELL, check="x", status="pass"),))
    assert op_tables(plain) == ()
    assert "Operators by size" not in render_html(plain) + render_markdown(plain)


def test_names_are_only_text_and_lists_are_bounded() -> None:
    hostile = op(HOSTILE, (1, 4096, True), shape=HOSTILE, where=HOSTILE, missing=HOSTILE)
    page = render_html(of(hostile))
    assert "<script>" not in re.sub(r"(?s)<style.*?</style>", "", page)
    assert "<script>" not in render_markdown(of(hostile))
    many = of(*(op(f"o{i}", (1, 4096, True)) for i in range(MAX_LINES + 5)))
    (table,) = op_tables(many)
    assert (len(table.lines), table.left) == (MAX_LINES, 5)
    assert "5 more operators in certificate.json" in render_markdown(many)
