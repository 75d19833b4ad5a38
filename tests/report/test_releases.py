"""Certificates → ``releases.yaml`` and its page: complete, in one order, and readable again."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from bi_harness.certificate.statement import EndpointScope, Scope, ShardPart, Statement
from bi_harness.errors import UsageError
from bi_harness.report.read import read_certificate
from bi_harness.report.releases import (
    covered,
    releases_of,
    render_page,
    render_releases,
    tried_run,
    unusable_because,
)
from bi_harness.spec.load import load_data
from bi_harness.spec.releases import FILE, ReleasesFile, load_releases
from tests.kept import ROOT, kept_folders, kept_run, kept_runs
from tests.report import samples

needs_kept_runs = pytest.mark.skipif(not kept_runs(), reason="no kept runs in a source archive")


def changed(statement: Statement, **changes: Any) -> Statement:
    """The same certificate with other fields in ``bi_harness``."""
    ours = statement.predicate.bi_harness.model_copy(update=changes)
    return statement.model_copy(
        update={"predicate": statement.predicate.model_copy(update={"bi_harness": ours})}
    )


def certified() -> Statement:
    """The sample with the facts of its host that real certificates have."""
    host = {"cpu_model": "AMD EPYC", "logical_cores": 2, "gpus": []}
    return changed(samples.certified_cpu(), device={"id": "cpu", "host": host})


def with_provenance(statement: Statement, **changes: Any) -> Statement:
    provenance = {**statement.predicate.bi_harness.provenance, **changes}
    return changed(statement, provenance=provenance)


def test_the_entry_of_a_certificate() -> None:
    statement = read_certificate(kept_run("h200/0.25.1/20261121T090857Z-dcb970"))
    run = tried_run(statement)
    assert run.model_dump(exclude_none=True) == {
        "vllm": "0.25.1",
        "torch": "2.11.0+cu130",
        "device": "h200",
        "hardware": "NVIDIA H200",
        "scope": {
            "profile": "nightly",
            "suites": ("batch_invariance",),
            "models": ("qwen3-1.7b",),
            "backends": ("FLASH_ATTN",),
            "sizes": ("tp1-dp1",),
            "modes": ("compile",),
            "expression": "compile and (lora or restart)",
        },
        "verdict": "CERTIFIED",
        "interrupted": False,
        "checks": {"passed": 2, "failed": 0, "inconclusive": 0, "error": 0, "waived": 0, "skip": 2},
        "date": "2026-11-21",
        "harness": "0.1.0",
        "dirty": False,
        "run": "20261121T090857Z-dcb970",
    }
    assert covered(run) == (
        "batch_invariance (nightly); qwen3-1.7b; FLASH_ATTN; tp1-dp1; compile; "
        "-k 'compile and (lora or restart)'"
    )


@needs_kept_runs
def test_the_shipped_data_are_those_of_the_kept_runs() -> None:
    statements = [read_certificate(folder) for folder in kept_folders()]
    releases = releases_of(s for s in statements if unusable_because(s) is None)
    assert (ROOT / FILE).read_text() == render_releases(releases), "out of date: run `make releases`"


def test_the_shipped_page_is_that_of_the_shipped_data() -> None:
    text = render_page(load_releases())
    assert (ROOT / "docs" / "releases.md").read_text() == text, "out of date: run `make releases`"
    for run in load_releases().runs:
        assert text.count(run.run) == 1


@needs_kept_runs
def test_the_order_of_certificates_changes_nothing() -> None:
    statements = [read_certificate(folder) for folder in kept_folders()]
    first = releases_of(statements)
    shuffled = [*statements, statements[0]]
    random.Random(0).shuffle(shuffled)
    assert releases_of(shuffled) == first
    assert render_page(releases_of(shuffled)) == render_page(first)


def test_the_file_reads_as_it_was_written(tmp_path: Path) -> None:
    statement = with_provenance(
        certified(), harness={"version": "0.1.0", "git_commit": "a" * 40, "dirty": True}
    )
    releases = releases_of([changed(statement, interrupted=True)])
    (tmp_path / FILE).write_text(render_releases(releases))
    assert load_data(tmp_path / FILE, ReleasesFile) == releases
    (run,) = releases.runs
    assert (run.commit, run.dirty, run.interrupted) == ("a" * 12, True, True)
    page = render_page(releases)
    assert "with uncommitted changes" in page
    assert "stopped before its end" in page


def test_a_later_run_of_the_same_scope_does_not_replace_an_earlier_one() -> None:
    statement = certified()
    releases = releases_of([statement, changed(statement, run_id="later", verdict="NOT_CERTIFIED")])
    assert [run.verdict for run in releases.runs] == ["CERTIFIED", "NOT_CERTIFIED"]


def test_two_certificates_of_one_run_that_differ_are_refused() -> None:
    statement = certified()
    with pytest.raises(UsageError, match="two certificates with different content"):
        releases_of([statement, changed(statement, verdict="INCONCLUSIVE")])


def test_no_run_on_record() -> None:
    assert render_releases(ReleasesFile()).endswith("\nruns: []\n")
    assert "No run is on record." in render_page(ReleasesFile())


LACKING: dict[str, tuple[dict[str, Any], str]] = {
    "no vLLM": ({"vllm": None}, "vllm"),
    "a vLLM that is not a release": ({"vllm": {"version": "dev"}}, "vllm"),
    "no torch": ({"torch": None}, "torch"),
    "no harness": ({"harness": None}, "harness"),
}


@pytest.mark.parametrize(("changes", "field"), LACKING.values(), ids=LACKING.keys())
def test_a_certificate_that_lacks_a_value_is_refused(changes: dict[str, Any], field: str) -> None:
    with pytest.raises(UsageError, match=f"no valid {field}: "):
        tried_run(with_provenance(certified(), **changes))


def test_a_certificate_without_the_facts_of_its_host_is_refused() -> None:
    with pytest.raises(UsageError, match="no valid hardware: "):
        tried_run(samples.certified_cpu())


def test_hostile_text_stays_text(tmp_path: Path) -> None:
    statement = with_provenance(certified(), torch={"version": samples.HOSTILE + samples.ANSI})
    releases = releases_of([statement])
    (tmp_path / FILE).write_text(render_releases(releases))
    assert load_data(tmp_path / FILE, ReleasesFile) == releases
    page = render_page(releases)
    assert "<script>" not in page
    assert "\x1b" not in page
    rows = [line for line in page.splitlines() if line.startswith("| 20")]
    assert len(rows) == 1


def test_what_says_nothing_about_a_release() -> None:
    statement = certified()
    assert unusable_because(statement) is None
    result = statement.predicate.bi_harness
    scope: Scope = result.scope.model_copy(update={"endpoint": EndpointScope(url="http://h")})
    assert "running server" in (unusable_because(changed(statement, scope=scope)) or "")
    shard = ShardPart(index=2, count=3, plan="sha256:" + "0" * 64, passed=True)
    assert "shard 2 of 3" in (unusable_because(changed(statement, shard=shard)) or "")
    arm = result.effective[0].model_copy(update={"config": {"planted_fault": "swap"}})
    assert "a fault was planted: swap" in (unusable_because(changed(statement, effective=(arm,))) or "")
    skipped = samples.statement("INCONCLUSIVE", (samples.check("a", "b", "skip"),))
    assert unusable_because(skipped) == "no check ran"
