"""Whatever the schema lets through, every writer writes, and nothing in it comes alive."""

from __future__ import annotations

import io
from xml.etree import ElementTree

import pyarrow.parquet as pq
from hypothesis import HealthCheck, given, settings
from rich.console import Console

from bi_harness.certificate.statement import Statement
from bi_harness.report.console import print_result
from bi_harness.report.html import render_html
from bi_harness.report.junit import render_junit
from bi_harness.report.markdown import MAX_BYTES, render_markdown
from bi_harness.report.parquet import SCHEMA, render_parquet

from .pages import Page, check_harmless
from .strategies import statements
from .test_markdown import rest

any_statement = given(statement=statements())
patiently = settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)


@patiently
@any_statement
def test_html(statement: Statement) -> None:
    html = render_html(statement)
    html.encode()
    check_harmless(Page(html))


@patiently
@any_statement
def test_markdown(statement: Statement) -> None:
    text = render_markdown(statement)
    assert len(text.encode()) < MAX_BYTES
    assert "<" not in rest(text)


@patiently
@any_statement
def test_junit(statement: Statement) -> None:
    root = ElementTree.fromstring(render_junit(statement))
    checks = statement.predicate.bi_harness.checks
    assert int(root.get("tests") or 0) >= len(checks)
    if statement.predicate.bi_harness.verdict != "CERTIFIED":
        assert int(root.get("failures") or 0) + int(root.get("errors") or 0) > 0


@patiently
@any_statement
def test_parquet(statement: Statement) -> None:
    table = pq.read_table(io.BytesIO(render_parquet(statement)))
    assert table.schema.equals(SCHEMA)
    checks = statement.predicate.bi_harness.checks
    assert table["cell"].to_pylist() == [check.cell for check in checks]
    assert table["reason"].to_pylist() == [check.reason for check in checks]
    assert table["duration_s"].to_pylist() == [check.duration_s for check in checks]


@patiently
@any_statement
def test_console(statement: Statement) -> None:
    stream = io.StringIO()
    print_result(statement, Console(file=stream, width=80))
    assert "\x1b" not in stream.getvalue()
