"""What a run proposes for ``expected.yaml``: YAML that loads, and no defect made right."""

from __future__ import annotations

import yaml

from bi_harness.report.startup_proposal import render_proposal
from bi_harness.spec.startup import StartupFile

from . import samples


def test_what_was_counted_is_proposed_and_what_a_warm_start_must_not_count_is_named() -> None:
    text = render_proposal(samples.startup_cpu())
    data = yaml.safe_load(text)
    assert list(data) == ["expectations"], "an exception takes a person"
    file = StartupFile.model_validate(
        {"expectations": {k: {**v, "id": k} for k, v in data["expectations"].items()}}
    )
    entry = file.expectations["cpu-tiny"]
    assert entry.cold == {"num_aot_compiles": 1, "kernels_built": "> 0"}
    assert entry.warm == {"kernels_built": 0}
    assert (entry.vllm, entry.kind, entry.models) == (">=0.32,<0.33", "cpu", ("tiny",))
    assert entry.torch == ">=2.13,<2.14"
    assert "a warm start counts num_aot_compiles: 1" in text
    assert "a warm start counts num_aot_artifacts_saved: 1" in text


def test_a_run_without_starts_proposes_nothing() -> None:
    assert render_proposal(samples.certified_cpu()) == ""
    assert render_proposal(samples.hostile()) == ""
