"""A planted fault in a real engine: a check catches it, and nothing with it in is certified."""

from __future__ import annotations

import json

import pytest

from bi_harness.exits import ExitCode
from bi_harness.runner.run import from_journal
from tests.e2e.real import Harness, of_run

pytestmark = [pytest.mark.engine, pytest.mark.long]


def test_a_planted_fault_is_caught_by_the_check_that_is_there_for_it(harness: Harness) -> None:
    mark = "selftest"
    out = harness.root / mark
    process = harness.start("selftest", "--fault", "chunk-boundary", "--clean", "0", mark=mark, out=out)
    _, err = process.communicate(timeout=600)
    assert process.returncode == ExitCode.CERTIFIED, err
    (path,) = out.rglob("selftest.json")
    told = json.loads(path.read_text())
    (fault,) = told["faults"]
    assert (fault["id"], fault["caught"], told["score"]) == ("chunk-boundary", True, 1.0)
    assert "ragged_chunked_prefill" in fault["checks"]
    assert "bs1_vs_bsN" not in fault["checks"], "no prefill is split there"
    assert fault["first_request"] > 100
    (journal,) = out.rglob("events.jsonl")
    result = from_journal(journal.parent).predicate.bi_harness
    assert result.verdict == "NOT_CERTIFIED"
    assert {arm.config["planted_fault"] for arm in result.effective} == {"chunk-boundary"}
    assert {arm.arm for arm in result.effective} == {"treatment"}
    assert of_run(mark, out) == ()
