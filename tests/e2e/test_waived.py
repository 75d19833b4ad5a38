"""A real vLLM with a defect that one check finds: waived, it is certified with a warning; else it is not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bi_harness.certificate.build import build
from bi_harness.certificate.events import RunStarted
from bi_harness.certificate.statement import Statement
from bi_harness.exits import ExitCode
from bi_harness.runner.journal import JOURNAL, read
from tests.e2e.real import Harness, Ran

pytestmark = [pytest.mark.engine, pytest.mark.long]

CELL = "cpu/qwen3-tiny/CPU_ATTN/tp1-dp1/eager/batch_invariance"

# A vLLM plugin that nobody declares as a planted fault: logprobs of the treatment lose bits in the first full
# batches, which are the first check's.
DEFECT = """
import os


def register():
    if os.environ.get("BI_HARNESS_CPU_INVARIANCE") != "1":
        return
    from bi_harness.invariance.faults.sampling import _coarse

    full = []

    def early(rows):
        full.extend([rows] if rows >= 8 else [])
        return rows >= 8 and len(full) <= 4

    _coarse(early)
"""

WAIVERS = f"""\
version: 1
waivers:
  - cell: "cpu/qwen3-tiny/*/eager/batch_invariance"
    check: bs1_vs_bsN
    reason: The logprobs lose bits.
    link: https://example.org/issues/7
    owner: A. Reviewer
    expires: 2999-12-31
  - cell: {CELL.replace("eager", "compile")}
    check: bs1_vs_bsN
    reason: Of another mode.
    link: https://example.org/issues/8
    owner: A. Reviewer
    expires: 2020-12-31
"""


@pytest.fixture(scope="module")
def waived(harness: Harness) -> Ran:
    folder = harness.root / "defect"
    info = folder / "defect-1.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: defect\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[vllm.general_plugins]\ndefect = defect:register\n")
    (folder / "defect.py").write_text(DEFECT)
    (folder / "waivers.yaml").write_text(WAIVERS)
    spec = harness.spec("waived", checks=2)
    chosen = ("--model", "qwen3-tiny", "--mode", "eager", "--waivers", str(folder / "waivers.yaml"))
    return harness.run(*spec, *chosen, PYTHONPATH=str(folder))


def test_the_failure_is_waived_with_its_evidence_and_the_rest_passes(waived: Ran) -> None:
    assert waived.code == ExitCode.CERTIFIED, waived.stderr
    assert (waived.predicate["result"], waived.ours["verdict"]) == ("WARNED", "CERTIFIED")
    assert waived.predicate["passedTests"] == [f"{CELL}::again_2"]
    assert waived.predicate["warnedTests"] == [f"{CELL}::bs1_vs_bsN"]
    (check,) = waived.checks(check="bs1_vs_bsN")
    assert (check["status"], check["waiver"]["owner"]) == ("waived", "A. Reviewer")
    assert check["evidence"]["differing_prompts"] > 0
    assert check["evidence"]["first_divergence"] is not None
    assert "prompts differ" in check["reason"]
    assert [use["state"] for use in waived.ours["waivers"]] == ["in_force", "not_in_run"]
    assert "CERTIFIED, 1 check waived: not passed" in (waived.folder / "certificate.md").read_text()
    assert waived.left == ()


def from_journal(waived: Ran, change: dict[str, Any]) -> Statement:
    events, digest = read(waived.folder / JOURNAL)
    start = events[0]
    assert isinstance(start, RunStarted)
    given = tuple(waiver.model_copy(update=change) for waiver in start.waivers[:1]) if change else ()
    return build([start.model_copy(update={"waivers": given}), *events[1:]], digest)


@pytest.mark.parametrize(
    ("change", "status", "state"),
    [
        ({}, "fail", None),
        ({"expires": "2026-01-01"}, "fail", "expired"),
        ({"check": "again_2"}, "fail", "stale"),
    ],
)
def test_the_same_run_with_other_waivers_is_not_certified(
    waived: Ran, change: dict[str, Any], status: str, state: str | None
) -> None:
    ours = from_journal(waived, change).predicate.bi_harness
    assert ours.verdict == "NOT_CERTIFIED"
    assert {c.check: c.status for c in ours.checks if c.status != "skip"} == {
        "bs1_vs_bsN": status,
        "again_2": "pass",
    }
    assert [use.state for use in ours.waivers] == ([state] if state else [])


def test_the_reports_follow_from_the_journal(waived: Ran, tmp_path: Path) -> None:
    told = json.loads((waived.folder / JOURNAL).read_text().split("\n", 1)[0])
    assert [waiver["check"] for waiver in told["waivers"]] == ["bs1_vs_bsN", "bs1_vs_bsN"]
    statement = build(*read(waived.folder / JOURNAL))
    assert statement.to_json() == (waived.folder / "certificate.json").read_text()
