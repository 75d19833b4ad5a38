"""Cold and warm starts on real engines: what is certified and counted, and a warm start that recompiles."""

from __future__ import annotations

import json

import pytest
import yaml

from bi_harness.exits import ExitCode
from bi_harness.spec.startup import StartupFile
from tests.e2e.real import Harness, Ran

pytestmark = [pytest.mark.engine, pytest.mark.long]


@pytest.fixture(scope="module")
def started(harness: Harness) -> Ran:
    """What ``make certify`` does with this suite."""
    return harness.run("--profile", "smoke", "--suite", "compile_startup", "--record")


def test_a_warm_start_is_certified_with_its_counters(started: Ran) -> None:
    assert started.code == ExitCode.CERTIFIED, started.stderr
    (check,) = started.checks()
    assert check["status"] == "pass"
    assert started.left == ()
    facts = {fact["name"]: fact for fact in check["facts"]}
    assert int(facts["cold: kernels_built"]["found"]) > 0
    assert facts["warm: kernels_built"]["found"] == "0"
    assert facts["cold: num_aot_compiles"]["found"] == "1"
    assert facts["cold: unique_graphs <= layers / 2"]["found"] == "yes"
    assert float(facts["warm start / cold start"]["found"]) > 0
    control = {fact["name"]: fact["found"] for fact in check["control_facts"]}
    assert control["warm: kernels_built"] == facts["cold: kernels_built"]["found"]


def test_cold_and_warm_have_the_same_bits_and_the_control_has_not(started: Ran) -> None:
    (check,) = started.checks()
    reached = {need["name"]: need["reached"] for need in check["evidence"]["needed"]}
    assert reached == {"restarts": 1}
    assert check["evidence"]["differing_values"] == 0
    assert check["evidence"]["digest"]
    assert check["control"]["differing_prompts"] >= check["control"]["prompts"] / 2


def test_each_start_is_another_engine_that_says_what_it_is(started: Ran) -> None:
    arms = {(arm["arm"], arm["engine"]): arm["config"] for arm in started.ours["effective"]}
    assert set(arms) == {*(("treatment", name) for name in ("cold", "warm", "eager")), ("control", "cold")}
    assert arms["treatment", "eager"].pop("compilation_mode") == "NONE"
    # The counters are no part of the configuration: cold and warm say the same of themselves.
    assert arms["treatment", "cold"] == arms["treatment", "warm"]


def test_what_was_counted_is_proposed_and_nothing_else_is_written(started: Ran) -> None:
    text = (started.folder / "expected.proposal.yaml").read_text()
    (entry,) = yaml.safe_load(text)["expectations"].items()
    file = StartupFile.model_validate({"expectations": {entry[0]: {**entry[1], "id": entry[0]}}})
    assert file.expectations["cpu-qwen3-tiny"].cold["num_aot_compiles"] == 1


def test_a_warm_start_that_finds_nothing_is_caught(harness: Harness) -> None:
    out = harness.root / "startup-fault"
    process = harness.start(
        *("selftest", "--suite", "compile_startup", "--fault", "warm-recompiles", "--clean", "0", "--json"),
        mark="startup-fault",
        out=out,
    )
    told, err = process.communicate(timeout=900)
    assert process.returncode == ExitCode.CERTIFIED, err
    (fault,) = json.loads(told)["faults"]
    assert (fault["caught"], fault["checks"]) == (True, ["startup"])
