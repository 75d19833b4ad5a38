"""The real runs that git keeps: their certificates and reports still follow from their journals."""

from __future__ import annotations

import pytest

from bi_harness.report.html import render_html
from bi_harness.report.junit import render_junit
from bi_harness.report.markdown import render_markdown
from bi_harness.report.parquet import render_parquet
from bi_harness.runner.run import from_journal
from tests.kept import VERDICTS, kept_run, kept_runs


@pytest.mark.parametrize("run", kept_runs())
def test_a_kept_run_follows_from_its_journal(run: str) -> None:
    folder = kept_run(run)
    statement = from_journal(folder)
    assert statement.predicate.bi_harness.verdict == VERDICTS[run]
    assert statement.to_json() == (folder / "certificate.json").read_text(encoding="utf-8")
    written: dict[str, bytes] = {
        "certificate.html": render_html(statement).encode(),
        "certificate.md": render_markdown(statement).encode(),
        "junit.xml": render_junit(statement),
        "cells.parquet": render_parquet(statement),
    }
    # Of the largest runs git keeps what cannot be computed, and the page that can be read there.
    there = {name: data for name, data in written.items() if (folder / name).exists()}
    assert "certificate.md" in there
    for name, data in there.items():
        assert data == (folder / name).read_bytes(), name
