"""NVFP4 on a real vLLM: its choice of kernels, a checkpoint served, and faults in both."""

from __future__ import annotations

import json

import pytest

from bi_harness.exits import ExitCode
from tests.e2e.real import Harness, Ran, of_run

pytestmark = [pytest.mark.engine, pytest.mark.long]

WHERE = ("--suite", "nvfp4", "--model", "qwen3-nvfp4-tiny")


@pytest.fixture(scope="module")
def nvfp4(harness: Harness) -> Ran:
    """The whole suite, eager."""
    return harness.run(*WHERE, "--mode", "eager")


@pytest.fixture(scope="module")
def compiled(harness: Harness) -> Ran:
    """What of it is compiled, and a model that a rule excludes."""
    return harness.run(*WHERE, "--model", "qwen3-moe-nvfp4-tiny", "--mode", "compile")


def test_it_is_certified(nvfp4: Ran) -> None:
    assert nvfp4.code == ExitCode.CERTIFIED, nvfp4.stderr
    assert {c["check"]: c["status"] for c in nvfp4.checks()} == {
        "selection": "pass",
        "bs1_vs_bsN": "pass",
        "beside_prefills": "pass",
    }
    assert nvfp4.left == ()


def test_the_right_kernel_was_taken_in_every_case_and_others_without_invariance(nvfp4: Ran) -> None:
    (check,) = nvfp4.checks(check="selection")
    found = {fact["name"]: fact["found"] for fact in check["facts"]}
    others = {fact["name"]: fact["found"] for fact in check["control_facts"]}
    assert len(found) == 174
    assert found.keys() == others.keys()
    assert all(fact["found"] in fact["expected"] for fact in check["facts"] if fact["expected"])
    assert found["blackwell, --linear-backend marlin"] == "CutlassNvFp4LinearKernel"
    assert others["blackwell, --linear-backend marlin"] == "MarlinNvFp4LinearKernel"
    assert sum(found[name] != others[name] for name in found) == 165
    assert check["evidence"] is None


def test_the_layers_of_what_ran_have_nvfp4_kernels(nvfp4: Ran) -> None:
    engines = [arm for arm in nvfp4.ours["effective"] if not arm["engine"]]
    assert {arm["arm"] for arm in engines} == {"treatment", "control"}
    for arm in engines:
        # qkv, o, gate_up and down of each layer.
        assert arm["config"]["nvfp4_linear"] == {"EmulationNvFp4LinearKernel": 8}
        assert arm["config"]["parameter_dtypes"]["uint8"] == 8
        assert arm["config"]["quantization"] == "compressed-tensors"
    for check in nvfp4.checks():
        if check["check"] != "selection":
            assert check["control"]["differing_prompts"] >= check["control"]["prompts"] / 2


@pytest.mark.long
def test_compiled_it_is_too_and_experts_are_skipped_by_a_rule(compiled: Ran) -> None:
    assert compiled.code == ExitCode.CERTIFIED, compiled.stderr
    assert {c["check"] for c in compiled.checks()} == {"bs1_vs_bsN", "beside_prefills"}
    skipped = [c for c in compiled.ours["checks"] if c["status"] == "skip"]
    assert {c["rule"] for c in skipped} == {"cpu-nvfp4-experts"}


@pytest.mark.long
@pytest.mark.parametrize(
    ("fault", "catches"),
    [("override-first", {"selection"}), ("activation-scale", {"bs1_vs_bsN", "beside_prefills"})],
)
def test_planted_faults_are_caught(harness: Harness, fault: str, catches: set[str]) -> None:
    mark = f"selftest-{fault}"
    out = harness.root / mark
    command = ["selftest", "--suite", "nvfp4", "--fault", fault, "--clean", "0"]
    process = harness.start(*command, mark=mark, out=out)
    _, err = process.communicate(timeout=600)
    assert process.returncode == ExitCode.CERTIFIED, err
    (path,) = out.rglob("selftest.json")
    (found,) = json.loads(path.read_text())["faults"]
    assert (found["id"], found["caught"], set(found["checks"])) == (fault, True, catches)
    assert of_run(mark, out) == ()
