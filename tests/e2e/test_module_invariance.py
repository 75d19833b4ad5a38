"""The modules of a real engine's loaded model: certified as they are, and faults in them found and named."""

from __future__ import annotations

import json
from typing import Any

import pytest

from bi_harness.certificate.modules import HOLDS
from bi_harness.exits import ExitCode
from bi_harness.runner.run import from_journal
from tests.e2e.real import Harness, Ran, of_run

# `make certify` runs the suite, too; an engine more is too much for each commit.
pytestmark = [pytest.mark.engine, pytest.mark.long]


@pytest.fixture(scope="module")
def modules(harness: Harness) -> Ran:
    """The whole suite on the smoke model."""
    return harness.run("--suite", "module_invariance")


def audited(check: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """By class and what it is called with."""
    return {" ".join(filter(None, (m["type"], m.get("form", "")))): m for m in check["modules"]}


def test_a_healthy_model_is_certified_with_every_type_of_module_in_it(modules: Ran) -> None:
    assert modules.code == ExitCode.CERTIFIED, modules.stderr
    assert modules.left == ()
    (check,) = modules.checks()
    told = audited(check)
    rows = {
        *("QKVParallelLinear bfloat16[256]", "RowParallelLinear bfloat16[256]"),
        *("RowParallelLinear bfloat16[2048]", "MergedColumnParallelLinear bfloat16[256]"),
        *("RMSNorm bfloat16[256]", "RMSNorm bfloat16[256], bfloat16[256]"),
        *("RMSNorm bfloat16[4, 64]", "RMSNorm bfloat16[2, 64]", "SiluAndMul bfloat16[4096]"),
        *("RotaryEmbedding int64[], bfloat16[256], bfloat16[128]", "VocabParallelEmbedding int32[]"),
        *("Qwen2MLP bfloat16[256]", "LogitsProcessor bfloat16[256], ParallelLMHead (lm_head)"),
    }
    sequences = {"Attention", "Qwen3Attention", "Qwen3DecoderLayer"}
    assert {name for name, m in told.items() if m["how"] == "rows" and m["rows"]} == rows
    assert {name for name, m in told.items() if m["how"] == "sequences" and m["rows"]} == sequences
    for name in rows:
        assert told[name]["ranges"] == [{"first": 1, "last": 513, "holds": True}], name
    # All four layers.
    assert told["RowParallelLinear bfloat16[2048]"]["audited"] == 4
    assert told["ParallelLMHead"]["through"] == "logits_processor"
    assert told["Qwen3Model"]["missing"].startswith("no call of it was seen")
    found = {fact["name"]: fact["found"] for fact in check["facts"]}
    assert sum(said == HOLDS for said in found.values()) == len(rows | sequences)


def test_stock_modules_differ_where_they_do_and_others_are_planted(modules: Ran) -> None:
    (check,) = modules.checks()
    found = {fact["name"]: fact["found"] for fact in check["control_facts"]}
    # From which number of rows on depends on the CPU: 2 with AVX-512, 5 with AMX.
    assert found["RowParallelLinear 256x2048 of bfloat16[2048]"].startswith("differs from M = ")
    assert found["RMSNorm weight 256 bfloat16 of bfloat16[256]"].startswith("planted: ")
    assert "by a planted difference" in modules.ours["why"]


def test_the_table_is_in_the_reports(modules: Ran) -> None:
    for report in ("certificate.html", "certificate.md"):
        text = (modules.folder / report).read_text()
        assert "Modules of the loaded model" in text
        assert "16 types audited, 0 failed, 1 not audited" in text


def test_a_mixture_of_experts_is_fed_rows_too(harness: Harness) -> None:
    ran = harness.run("--suite", "module_invariance", "--model", "qwen3-moe-tiny")
    assert ran.code == ExitCode.CERTIFIED, ran.stderr
    (check,) = ran.checks()
    told = audited(check)
    assert told["Qwen3MoeSparseMoeBlock bfloat16[1536]"]["rows"] > 1000
    assert not [name for name, m in told.items() if m["parameters"] and m["missing"]]


@pytest.mark.parametrize(
    ("fault", "first", "where"),
    [
        ("module-lm-head-m64", "LogitsProcessor", "logits_processor"),
        ("module-norm-256", "RMSNorm", "model.layers.0"),
        ("module-one-projection", "RowParallelLinear", "model.layers.1.mlp.down_proj"),
        ("module-split-kv", "Attention", "self_attn.attn"),
    ],
)
def test_planted_faults_are_found_and_named(harness: Harness, fault: str, first: str, where: str) -> None:
    mark = f"selftest-{fault}"
    out = harness.root / mark
    process = harness.start(
        *("selftest", "--suite", "module_invariance", "--fault", fault, "--clean", "0"), mark=mark, out=out
    )
    _, err = process.communicate(timeout=600)
    assert process.returncode == ExitCode.CERTIFIED, err
    (path,) = out.rglob("selftest.json")
    (told,) = json.loads(path.read_text())["faults"]
    assert (told["id"], told["caught"], told["checks"]) == (fault, True, ["modules"])
    (journal,) = out.rglob("events.jsonl")
    result = from_journal(journal.parent).predicate.bi_harness
    assert result.verdict == "NOT_CERTIFIED"
    (check,) = result.checks
    wrong = [fact for fact in check.facts if fact.wrong]
    assert wrong[0].name.startswith(first)
    assert where in wrong[0].found
    agree = next(fact.found for fact in check.facts if fact.name.startswith("requests whose logprobs"))
    if fault == "module-lm-head-m64":
        assert agree == "0 of 12, by up to 0 ULP", "no batch of requests is that large"
        assert len(wrong) == 1
    assert of_run(mark, out) == ()
