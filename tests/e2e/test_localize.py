"""A planted fault in a real engine is traced to its module, by a run and by nothing but its journal."""

from __future__ import annotations

import os

import pytest

from bi_harness.cli import main as cli
from bi_harness.exits import ExitCode
from bi_harness.runner.run import from_journal
from tests.e2e.real import Harness

pytestmark = pytest.mark.engine

FAULT = {"BI_HARNESS_PLANT_FAULT": "lm-head", "BI_HARNESS_LOCALIZE": "1"}


@pytest.mark.long
def test_a_fault_in_a_module_is_traced_to_it(harness: Harness) -> None:
    ran = harness.run(*harness.spec("localize"), "--mode", "eager", "--model", "qwen3-tiny", **FAULT)
    assert ran.code == ExitCode.NOT_CERTIFIED, ran.stderr
    assert ran.left == ()
    (told,) = ran.ours["localized"]
    assert (told["outcome"], told["module"], told["eager"]) == ("module", "lm_head", True), told
    assert (told["class_name"], told["check"]) == ("ParallelLMHead", "bs1_vs_bsN")
    # A head that splits K from two rows on needs one neighbour, and no second step of its own.
    assert told["smallest"]["neighbours"] == 1
    (output,) = told["outputs"]
    assert output["differing_values"] > 0
    assert output["shape_alone"][0] == 1
    assert output["shape_batch"][0] == 2
    assert sum(band["values"] for band in output["ulps"]) == output["differing_values"]
    assert told["ran_alone"] != told["ran_batch"], "the batch runs its matrix product twice"
    states = {m["name"]: m["state"] for m in told["modules"]}
    assert states["lm_head"] == "culprit"
    # Those that only hold others are never called.
    below = {name: state for name, state in states.items() if name.startswith("model.layers.")}
    assert set(below.values()) <= {"equal", "unseen"}
    assert {below[f"model.layers.0.{name}"] for name in ("self_attn.qkv_proj", "mlp.down_proj")} == {"equal"}
    assert told["cost"]["starts"] == 1
    assert told["cost"]["watched_s"] > 0
    assert "culprit" in (ran.folder / "certificate.html").read_text()
    assert cli.main(["verify", str(ran.folder)]) == ExitCode.CERTIFIED
    assert from_journal(ran.folder).predicate.bi_harness.localized[0].module == "lm_head"
    assert not os.path.lexists(ran.folder / ".work")
