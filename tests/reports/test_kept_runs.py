"""The real runs that git keeps: their certificates and reports still follow from their journals."""

from __future__ import annotations

from pathlib import Path

import pytest

from bi_harness.report.html import render_html
from bi_harness.report.junit import render_junit
from bi_harness.report.markdown import render_markdown
from bi_harness.report.parquet import render_parquet
from bi_harness.runner.run import from_journal

ROOT = Path(__file__).resolve().parents[2]
# git's word and not the folder's: a developer's own runs lie beside the kept ones.
KEPT = {
    "cpu/20261121T110032Z-796804": "CERTIFIED",
    "cpu/20261121T130302Z-e5144d": "CERTIFIED",
    "cpu/20261121T173029Z-937b9b": "CERTIFIED",
    "cpu/20261121T173347Z-364118": "CERTIFIED",
    "cpu/20261121T174134Z-321bcb": "CERTIFIED",
    "h200/0.25.1/20261121T090241Z-212dcc": "NOT_CERTIFIED",
    "h200/0.25.1/20261121T090556Z-b9ea69": "NOT_CERTIFIED",
    "h200/0.25.1/20261121T090857Z-dcb970": "CERTIFIED",
    "h200/0.25.1/20261121T183911Z-efa00d": "NOT_CERTIFIED",
    "h200/0.25.1/20261121T191053Z-52f87b": "NOT_CERTIFIED",
    "h200/0.25.1/20261121T191053Z-77202a": "NOT_CERTIFIED",
    "h200/0.25.1/20261121T191053Z-7c32c2": "NOT_CERTIFIED",
    "h200/0.25.1/20261121T191053Z-a03ef6": "NOT_CERTIFIED",
    "h200/0.25.1/20261128T174741Z-b4e19e": "NOT_CERTIFIED",
    "h200/0.25.1/20261128T235041Z-5ea792": "NOT_CERTIFIED",
    "h200/0.25.1/20261129T024601Z-375e67": "NOT_CERTIFIED",
    "h200/0.25.1/20261129T024601Z-ada97c": "NOT_CERTIFIED",
    "h200/0.26.0/20261128T203525Z-ac29d9": "NOT_CERTIFIED",
    "h200/0.26.0/20261128T235519Z-a59fb5": "NOT_CERTIFIED",
    "h200x2/20261121T123726Z-36d0a0": "CERTIFIED",
    "h200x2/20261121T124559Z-61c2de": "NOT_CERTIFIED",
}


@pytest.mark.parametrize(("run", "verdict"), KEPT.items(), ids=KEPT.keys())
def test_a_kept_run_follows_from_its_journal(run: str, verdict: str) -> None:
    folder = ROOT / "reports" / run
    statement = from_journal(folder)
    assert statement.predicate.bi_harness.verdict == verdict
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
