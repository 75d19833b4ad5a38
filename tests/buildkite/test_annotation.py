"""What a build's page shows of a run."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings

from bi_harness.buildkite.annotation import FAILURES, body, context, style
from bi_harness.certificate.statement import Statement
from bi_harness.report.markdown import MAX_BYTES
from tests.report import samples
from tests.report.strategies import statements
from tests.report.test_markdown import rest

UNIT = "h200/m/FLASH_ATTN/tp1-dp1/eager"


def many(failing: int) -> Statement:
    checks = tuple(samples.check(f"{UNIT}/s{i}", "needle", "fail") for i in range(failing))
    return samples.statement("NOT_CERTIFIED", checks)


@pytest.mark.parametrize(
    ("verdict", "status", "expected"),
    [
        ("CERTIFIED", "pass", "success"),
        ("CERTIFIED", "waived", "warning"),
        ("CERTIFIED", "fail", "warning"),  # It contradicts itself: not in the colour of success.
        ("NOT_CERTIFIED", "fail", "error"),
        ("INCONCLUSIVE", "inconclusive", "warning"),
        ("INCONCLUSIVE", "error", "warning"),
    ],
)
def test_the_style_is_the_verdicts(verdict: str, status: str, expected: str) -> None:
    checks = (samples.check(f"{UNIT}/s", "a"), samples.check(f"{UNIT}/s", "b", status))  # type: ignore[arg-type]
    found = samples.statement(verdict, checks)  # type: ignore[arg-type]
    assert style(found) == expected


def test_each_device_and_each_shard_has_an_annotation_of_its_own() -> None:
    one = many(1)
    names = [
        context(one, None),
        context(one, (1, 3)),
        context(one, (2, 3)),
        context(samples.certified_cpu(), None),
    ]
    assert names == [
        "bi-harness-h200",
        "bi-harness-h200-shard-1-of-3",
        "bi-harness-h200-shard-2-of-3",
        "bi-harness-cpu",
    ]


def test_the_matrix_and_the_first_failures() -> None:
    text = body(many(40))
    assert text.startswith("## ❌ NOT CERTIFIED")
    assert "### Matrix" in text
    assert text.count("#### ❌ fail") == FAILURES
    assert f"_{40 - FAILURES} more are in certificate.html" in text
    assert "bi-harness run --device h200" in text
    assert "Provenance" not in text


def test_a_shard_says_that_it_is_one() -> None:
    assert "This is shard 2 of 8" in body(many(1), (2, 8))
    assert "shard" not in body(many(1))


@pytest.mark.parametrize("limit", [1_200, 1_600, 2_500, 6_000])
def test_what_does_not_fit_is_left_out_whole_and_named(limit: int) -> None:
    whole = body(many(400))
    text = body(many(400), limit=limit)
    assert len(text.encode()) <= limit
    assert f"takes {limit:,} bytes" in text
    left = text.split(" bytes: ")[1].split("._")[0].split(", ")
    for name, mark in (("verdict", "## ❌"), ("matrix", "### Matrix"), ("failures", "### Failures")):
        assert (mark in text) == (name not in left)
    # Nothing is cut within a section.
    for part in text.split("\n\n")[:-2]:
        assert part in whole


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(statement=statements())
def test_whatever_the_certificate_holds(statement: Statement) -> None:
    text = body(statement, (1, 2))
    assert len(text.encode()) < MAX_BYTES < 2**20
    assert "<" not in rest(text)
    assert style(statement) != "success" or statement.predicate.bi_harness.verdict == "CERTIFIED"
