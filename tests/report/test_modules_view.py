"""The modules of a loaded model as a table."""

from __future__ import annotations

import re

from bi_harness.certificate.modules import facts
from bi_harness.certificate.records import CheckResult, ModuleResult
from bi_harness.certificate.statement import Statement
from bi_harness.report.html import render_html
from bi_harness.report.markdown import render_markdown
from bi_harness.report.modules_view import MAX_LINES, module_tables
from tests.certificate.test_modules import DIFFERS, GOOD, HEAD, LINEAR, WHOLE
from tests.report.samples import HOSTILE, statement

CELL = "cpu/qwen3-tiny/CPU_ATTN/tp1-dp1/eager/module_invariance"


def of(*modules: ModuleResult) -> Statement:
    result = CheckResult(cell=CELL, check="modules", status="fail", modules=modules, facts=facts(modules))
    return statement("NOT_CERTIFIED", (result,))


def test_those_that_fail_stand_first_then_what_was_not_audited() -> None:
    (table,) = module_tables(of(*GOOD, DIFFERS))
    assert [line.state for line in table.lines] == [
        "differs",
        "missing",
        "holds",
        "holds",
        "holds",
        "through",
    ]
    assert (table.audited, table.failed, table.missing) == (4, 1, 1)
    assert table.lines[0].ranges == "✓ 1, ✗ 2-513"
    assert table.lines[2].ranges == "✓ 1-513"
    assert table.lines[2].how == "fed rows, 4 of 4, 4,000 rows compared"
    assert table.lines[1].said == "not audited: no call was seen"


def test_the_page_and_the_text_have_it_without_colour() -> None:
    page, text = render_html(of(DIFFERS, HEAD, WHOLE)), render_markdown(of(DIFFERS, HEAD, WHOLE))
    for report in (page, text):
        assert "Modules of the loaded model" in report
        assert "1 types audited, 1 failed, 1 not audited" in report
        assert "audited through logits" in report
    row = next(line for line in text.splitlines() if line.startswith("| ✗ | RowParallelLinear"))
    assert "down" in row
    assert "differs from M = 2" in row
    assert "✗ 2-513" in row


def test_certificates_without_modules_have_no_table() -> None:
    plain = statement("CERTIFIED", (CheckResult(cell=CELL, check="x", status="pass"),))
    assert module_tables(plain) == ()
    assert "Modules of the loaded" not in render_html(plain) + render_markdown(plain)
    assert ".modules" not in render_html(plain)


def test_names_are_only_text_and_lists_are_bounded() -> None:
    hostile = DIFFERS.model_copy(
        update=dict.fromkeys(("type", "form", "name", "quant", "dtype"), HOSTILE) | {"weights": (HOSTILE,)}
    )
    page = render_html(of(hostile, WHOLE.model_copy(update={"missing": HOSTILE})))
    assert "<script>" not in re.sub(r"(?s)<style.*?</style>", "", page)
    assert "<script>" not in render_markdown(of(hostile))
    many = of(*(LINEAR.model_copy(update={"name": f"m{i}"}) for i in range(MAX_LINES + 5)))
    (table,) = module_tables(many)
    assert (len(table.lines), table.left) == (MAX_LINES, 5)
    assert "5 more modules in certificate.json" in render_markdown(many)
    assert "5 more are in certificate.json" in render_html(many)
