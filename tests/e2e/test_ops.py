"""Single operators of a real vLLM: certified as they are, and faults in them caught by the right family."""

from __future__ import annotations

import json

import pytest

from bi_harness.exits import ExitCode
from tests.e2e.real import Harness, Ran, of_run

pytestmark = [pytest.mark.engine, pytest.mark.long]


@pytest.fixture(scope="module")
def ops(harness: Harness) -> Ran:
    """The whole suite."""
    return harness.run("--suite", "ops")


def test_they_are_certified(ops: Ran) -> None:
    assert ops.code == ExitCode.CERTIFIED, ops.stderr
    assert {c["check"]: c["status"] for c in ops.checks()} == dict.fromkeys(
        ("gemm", "norm", "softmax", "attention", "activation", "position", "sampling"), "pass"
    )
    assert ops.left == ()


def test_every_judged_operator_goes_up_to_its_largest_batch_and_is_held_against_float64(ops: Ran) -> None:
    measured = [op for c in ops.checks() for op in c["ops"] if op["judged"] and not op["missing"]]
    assert {"linear_down", "lm_head", "fused_add_rms_norm", "attention_decode", "rotary", "sample"} <= {
        op["op"] for op in measured
    }
    for op in measured:
        assert op["rows"] > 100
        assert op["distance"] <= 1
        if not op["drawn"]:
            assert op["ranges"] == [{"first": 1, "last": op["ranges"][0]["last"], "holds": True}]
    lasts = {op["op"]: op["ranges"][0]["last"] for op in measured if not op["drawn"]}
    assert (lasts["fused_add_rms_norm"], lasts["attention_decode"]) == (4096, 1024)


def test_stock_operators_differ_where_they_do_and_others_are_planted(ops: Ran) -> None:
    found = {f["name"]: f["found"] for c in ops.checks() for f in c["control_facts"]}
    assert found["linear_down bfloat16, 2048 to 256"].startswith("differs from M = ")
    assert found["attention_decode bfloat16, 4 and 2 heads of 64"].startswith("differs from M = ")
    assert found["silu_and_mul bfloat16, 2048"].startswith("planted: ")
    assert "by a planted difference" in ops.ours["why"]


def test_the_sum_over_two_ranks_is_certified(harness: Harness) -> None:
    ran = harness.run("--suite", "ops", "--model", "qwen3-tiny-ranks", "--profile", "nightly")
    assert ran.code == ExitCode.CERTIFIED, ran.stderr
    (check,) = ran.checks()
    (alike, drawn) = check["ops"]
    assert (alike["op"], alike["shape"], alike["judged"]) == ("all_reduce", "2 ranks, 256", True)
    assert alike["ranges"] == [{"first": 1, "last": 4096, "holds": True}]
    assert 0 < alike["distance"] <= 1
    assert drawn["drawn"] > 1
    assert all(fact["found"].startswith("planted: ") for fact in check["control_facts"])
    assert ran.left == ()


def test_what_a_cpu_has_not_got_is_a_skip_with_the_reason(ops: Ran) -> None:
    (norm,) = ops.checks(check="norm")
    missing = {op["op"]: op["missing"] for op in norm["ops"] if op["missing"]}
    assert "GPU's kernel" in missing["rms_norm_static_fp8"]


def test_the_picture_is_in_the_reports(ops: Ran) -> None:
    assert "Operators by size of the batch" in (ops.folder / "certificate.html").read_text()
    assert "| fused_add_rms_norm (256) | bfloat16 | ✓ |" in (ops.folder / "certificate.md").read_text()


@pytest.mark.long
@pytest.mark.parametrize(
    ("fault", "catches", "says"),
    [
        ("op-norm-256", "norm", "rms_norm float32, 256"),
        ("op-split-kv", "attention", "attention_decode"),
        ("op-one-size", "softmax", "differs from M = 17"),
        ("op-all-reduce-size", "all_reduce", "differs from M = 17"),
    ],
)
def test_planted_faults_are_caught(harness: Harness, fault: str, catches: str, says: str) -> None:
    mark = f"selftest-{fault}"
    out = harness.root / mark
    process = harness.start(
        "selftest", "--suite", "ops", "--fault", fault, "--clean", "0", mark=mark, out=out
    )
    _, err = process.communicate(timeout=600)
    assert process.returncode == ExitCode.CERTIFIED, err
    (path,) = out.rglob("selftest.json")
    (found,) = json.loads(path.read_text())["faults"]
    assert (found["id"], found["caught"], found["checks"]) == (fault, True, [catches])
    (journal,) = out.rglob("events.jsonl")
    assert says in journal.read_text()
    assert of_run(mark, out) == ()
