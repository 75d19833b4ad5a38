"""Real engines forked from a process with vLLM imported: the same bits, and faults are still caught."""

from __future__ import annotations

from typing import Any

import pytest

from bi_harness.exits import ExitCode
from bi_harness.invariance.faults.registry import PLANT_VARIABLE
from tests.e2e.real import Harness, Ran

pytestmark = [pytest.mark.engine, pytest.mark.long]

RUN = ("--mode", "eager", "--model", "qwen3-tiny-fp32")


def bits(ran: Ran) -> list[Any]:
    """What was compared, found and digested, of both arms of each check."""
    return [(c["cell"], c["check"], c["status"], c["evidence"]) for c in ran.ours["checks"]]


def ways(ran: Ran) -> dict[str, Any]:
    return {arm["arm"]: arm.get("preloaded") for arm in ran.ours["effective"]}


@pytest.fixture(scope="module")
def preloaded(harness: Harness) -> Ran:
    return harness.run(*harness.spec("preloaded"), *RUN, "--preload")


def test_bits_and_configuration_are_those_of_engines_that_import_vllm_by_themselves(
    harness: Harness, preloaded: Ran
) -> None:
    plain = harness.run(*harness.spec("plain"), *RUN, "--no-preload")
    assert (preloaded.code, plain.code) == (ExitCode.CERTIFIED, ExitCode.CERTIFIED)
    assert ways(preloaded) == {"treatment": True, "control": True}
    assert ways(plain) == {"treatment": None, "control": None}
    assert "preloaded" not in (plain.folder / "certificate.json").read_text()
    assert bits(preloaded) == bits(plain)
    configured = [[arm["config"] for arm in ran.ours["effective"]] for ran in (preloaded, plain)]
    assert configured[0] == configured[1]
    assert (preloaded.left, plain.left) == ((), ())


def test_a_planted_fault_is_loaded_read_back_and_caught(harness: Harness) -> None:
    environ = {PLANT_VARIABLE: "norm-256", "BI_HARNESS_LOCALIZE": "1"}
    ran = harness.run(*harness.spec("planted"), *RUN, "--preload", **environ)
    assert ran.code == ExitCode.NOT_CERTIFIED
    assert {c["status"] for c in ran.checks()} == {"fail"}
    (treatment,) = [arm for arm in ran.ours["effective"] if arm["arm"] == "treatment"]
    assert treatment["preloaded"] is True
    assert treatment["config"]["planted_fault"] == "norm-256"
    (told,) = ran.ours["localized"]
    assert (told["outcome"], told["class_name"]) == ("module", "RMSNorm"), told
    (log,) = ran.folder.glob("logs/*-localize-1.log")
    assert "imports vLLM by itself" not in log.read_text(encoding="utf-8", errors="replace")
    assert ran.left == ()
