"""This project's own pipeline, ``.buildkite/``: one step that uploads the rest."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from bi_harness.buildkite.pipeline import RETRIED, schema
from bi_harness.matrix.execution import SAME_AS_DEFAULT
from bi_harness.matrix.expand import expand
from bi_harness.spec.load import load_spec
from bi_harness.spec.policy import load_policy
from bi_harness.spec.types import MODES
from tests.buildkite.plans import ROOT
from tests.buildkite.standin import Agent, Build

FOLDER = ROOT / ".buildkite"


def read(name: str) -> dict[str, Any]:
    data: dict[str, Any] = yaml.safe_load((FOLDER / name).read_text())
    return data


@pytest.mark.parametrize("name", ["pipeline.yaml", "tests.yaml"])
def test_it_is_one_step_that_buildkite_takes(name: str) -> None:
    data = read(name)
    jsonschema.validate(data, schema(), cls=jsonschema.Draft7Validator)
    [step] = data["steps"]
    assert "soft_fail" not in step
    assert {rule["exit_status"] for rule in step["retry"]["automatic"]} <= set(RETRIED)


def checkout(tmp_path: Path) -> Path:
    """What the step needs of a checkout; its virtual environment calls this bi-harness."""
    place = tmp_path / "checkout"
    (place / ".venv" / "bin").mkdir(parents=True)
    for name in (".buildkite", "suites", "models.yaml", "hardware.yaml"):
        (place / name).symlink_to(ROOT / name)
    script = place / ".venv" / "bin" / "bi-harness"
    script.write_text(f'#!/bin/sh\nPYTHONPATH="{ROOT}" exec "{sys.executable}" -m bi_harness.cli "$@"\n')
    script.chmod(0o755)
    return place


def build(tmp_path: Path, agent: Agent) -> Build:
    make = agent.bin / "make"
    make.write_text("#!/bin/sh\n")
    make.chmod(0o755)
    return Build(agent, tmp_path / "jobs", agent.environment(), checkout(tmp_path)).run(read("pipeline.yaml"))


def test_it_uploads_the_tests_and_every_device(tmp_path: Path) -> None:
    agent = Agent.install(tmp_path / "agent")
    done = build(tmp_path, agent)
    assert done.green, done.jobs[0].output
    tests, fleet = agent.uploaded()
    assert [step["key"] for step in tests["steps"]] == ["tests"]
    spec = load_spec(ROOT / "models.yaml", ROOT / "hardware.yaml", ROOT / "suites")
    assert [step["key"] for step in fleet["steps"]] == [
        *(f"bi-harness-{device}-group" for device in spec.devices),
        "bi-harness-gate",
    ]
    for group in fleet["steps"][:-1]:
        assert group["steps"][0]["commands"][1] == "make setup"
        assert group["steps"][0]["commands"][2].startswith(".venv/bin/bi-harness run --device ")


def test_a_pipeline_that_cannot_be_made_fails_the_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BI_HARNESS_MODEL", "there-is-none")
    agent = Agent.install(tmp_path / "agent")
    [job] = build(tmp_path, agent).jobs
    assert job.attempts != [0]
    assert [step["key"] for one in agent.uploaded() for step in one["steps"]] == ["tests"]


def test_its_gate_asks_for_cells_that_every_night_has() -> None:
    policy, _ = load_policy(FOLDER / "nightly.yaml")
    spec = load_spec(ROOT / "models.yaml", ROOT / "hardware.yaml", ROOT / "suites")
    running = {
        (cell.device, cell.model, cell.suite, cell.mode)
        for device in spec.devices
        for planned in expand(spec, device, vllm_version=spec.reference(device), profile="nightly").cells
        # The default cell counts for a mode that was left to it.
        if planned.status == "run" or planned.rule == SAME_AS_DEFAULT
        for cell in [planned.cell]
    }
    asked = {(one.device, one.model, one.suite, one.mode) for one in policy.requirements()}
    assert asked <= running
    assert {mode for *_, mode in asked} == set(MODES)
    assert {device for device, *_ in asked} == set(spec.devices)
