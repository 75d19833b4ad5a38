"""A planted fault in a real engine is traced to its module, by a run and by nothing but its journal."""

from __future__ import annotations

import os
from pathlib import Path

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


COMPILED_FAULT = """\
def register():
    import torch
    from vllm.v1.worker.gpu_model_runner import GPUModelRunner as Runner

    stock = Runner._model_forward
    if getattr(stock, "planted", False):
        return

    def forward(self, *args, **kwargs):
        out = stock(self, *args, **kwargs)
        config = self.vllm_config.compilation_config
        if config.mode.name != "NONE" and config.backend == "inductor" and out.shape[0] > 4:
            out.view(torch.int16).bitwise_xor_(1)
        return out

    forward.planted = True
    Runner._model_forward = forward
"""


def planted(folder: Path) -> dict[str, str]:
    """A defect of what Inductor makes: a plugin of vLLM's, of which the registry of faults knows nothing."""
    info = folder / "compiled_fault-1.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: compiled-fault\nVersion: 1\n")
    (info / "entry_points.txt").write_text(
        "[vllm.general_plugins]\ncompiled_fault = compiled_fault:register\n"
    )
    (folder / "compiled_fault.py").write_text(COMPILED_FAULT)
    return {"PYTHONPATH": str(folder), "VLLM_PLUGINS": "compiled_fault", "BI_HARNESS_LOCALIZE": "1"}


@pytest.mark.long
def test_a_defect_of_compiled_code_names_no_module_but_its_option(harness: Harness, tmp_path: Path) -> None:
    environ = planted(tmp_path / "plugin")
    ran = harness.run(
        *harness.spec("compiled"), "--mode", "compile", "--model", "qwen3-tiny", timeout_s=1500, **environ
    )
    assert ran.code == ExitCode.NOT_CERTIFIED, ran.stderr
    assert ran.left == ()
    (told,) = ran.ours["localized"]
    assert (told["outcome"], told["module"], told["eager"]) == ("compiled", "", False), told
    assert told["smallest"]["neighbours"] <= 4
    assert {o["name"]: o["differs"] for o in told["options"]} == {
        "as it failed": True,
        "Dynamo without Inductor": False,
        "custom operators in all places": True,
    }
    assert "it goes away with another option: Dynamo without Inductor" in told["reason"]
    assert (
        "the smallest pair that differs with torch.compile or CUDA graphs does not differ on an eager engine"
        in (ran.folder / "certificate.html").read_text()
    )
