"""The pipeline, uploaded by a stand-in agent and run by a stand-in of Buildkite."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bi_harness.cli.commands import COMMANDS
from tests.buildkite.plans import ROOT
from tests.buildkite.standin import Agent, Build
from tests.runner.standin import Standin, marked

HARNESS = r"""#!{python}
import json, os, pathlib, sys
home = pathlib.Path({home!r})
command, argv = sys.argv[1], sys.argv[2:]
index = int(os.environ.get("BUILDKITE_PARALLEL_JOB", 0))
calls = home / "harness"
calls.mkdir(exist_ok=True)
name = f"{{command}}-{{index}}" if command == "run" else command
before = len(list(calls.glob(f"{{name}}.*")))
(calls / f"{{name}}.{{before}}").write_text(json.dumps(sys.argv[1:]))
codes = json.loads((home / "codes.json").read_text()).get(name, [0])
code = codes[min(before, len(codes) - 1)]
if command == "run" and code not in (75, 255):
    device = argv[argv.index("--device") + 1]
    made = pathlib.Path(argv[argv.index("--out") + 1]) / device / f"run-{{index}}"
    made.mkdir(parents=True)
    (made / "events.jsonl").write_text(f"shard {{index}} attempt {{before}}")
if command == "merge":
    made = pathlib.Path(argv[argv.index("--out") + 1]) / "h200" / "merged"
    made.mkdir(parents=True)
    found = sorted(path.read_text() for path in pathlib.Path("bi-harness-shards/h200").glob("*/events.jsonl"))
    (made / "certificate.json").write_text(json.dumps(found))
sys.exit(code)
"""


@pytest.fixture
def agent(tmp_path: Path) -> Agent:
    made = Agent.install(tmp_path / "agent")
    script = made.bin / "bi-harness"
    script.write_text(HARNESS.format(python=sys.executable, home=str(made.home)))
    script.chmod(0o755)
    return made


def upload(agent: Agent, *arguments: str, **environ: str) -> dict[str, Any]:
    """As a step does it: `bi-harness pipeline ... | buildkite-agent pipeline upload`, with pipefail."""
    line = 'set -o pipefail; "$PYTHON" -m bi_harness.cli pipeline "$@" | buildkite-agent pipeline upload'
    subprocess.run(
        ["/bin/bash", "-e", "-c", line, "bash", *arguments],
        env={
            **os.environ,
            **agent.environment(),
            "PYTHONPATH": str(ROOT),
            "PYTHON": sys.executable,
            **environ,
        },
        cwd=ROOT,
        check=True,
        timeout=120,
    )
    return agent.uploaded()[-1]


def build(agent: Agent, tmp_path: Path, pipeline: dict[str, Any], **codes: list[int]) -> Build:
    (agent.home / "codes.json").write_text(
        json.dumps({name.replace("_", "-"): v for name, v in codes.items()})
    )
    return Build(agent, tmp_path / "jobs", agent.environment()).run(pipeline)


def called(agent: Agent, name: str) -> list[list[str]]:
    return [json.loads(path.read_text()) for path in sorted((agent.home / "harness").glob(f"{name}.*"))]


H200 = ("--device", "h200", "--profile", "smoke", "--max-shards", "3", "--policy", "p.yaml")


def test_a_fleet_that_goes_well(agent: Agent, tmp_path: Path) -> None:
    done = build(agent, tmp_path, upload(agent, *H200))
    assert done.green, [job.output for job in done.jobs]
    assert [job.step for job in done.jobs] == [
        *["bi-harness-h200"] * 3,
        "bi-harness-h200-merge",
        "bi-harness-gate",
    ]
    assert called(agent, "run-2") == [
        ["run", "--device", "h200", "--profile", "smoke", "--out", "bi-harness-shards"]
    ]
    shards = [f"bi-harness-shards/h200/run-{index}/" for index in range(3)]
    assert called(agent, "merge") == [["merge", *shards, "--out", "bi-harness-reports"]]
    [gate] = called(agent, "gate")
    assert gate[:4] == ["gate", "--policy", "p.yaml", "bi-harness-reports"]
    kept = (
        agent.home / "artifacts" / "bi-harness-h200-merge" / "bi-harness-reports/h200/merged/certificate.json"
    )
    assert json.loads(kept.read_text()) == [f"shard {index} attempt 0" for index in range(3)]


def test_a_verdict_is_never_retried_and_the_rest_goes_on(agent: Agent, tmp_path: Path) -> None:
    done = build(agent, tmp_path, upload(agent, *H200), run_1=[1, 0], merge=[1, 0], gate=[1, 0])
    assert [job.attempts for job in done.jobs] == [[0], [1], [0], [1], [1]]
    # The failing shard's evidence is in what is merged.
    assert len(called(agent, "merge")[0]) == 3 + 3


@pytest.mark.long
@pytest.mark.parametrize("code", [75, 255])
def test_lost_surroundings_are_retried_twice(agent: Agent, tmp_path: Path, code: int) -> None:
    done = build(agent, tmp_path, upload(agent, *H200), run_0=[code, code, 0], run_2=[code])
    assert [job.attempts for job in done.of("bi-harness-h200")] == [[code, code, 0], [0], [code] * 3]
    assert not done.green
    # Merge sees that one is missing: it gets those that there are, and says so by its own exit code.
    assert called(agent, "merge")[0][1:-2] == [f"bi-harness-shards/h200/run-{index}/" for index in range(2)]
    [gate] = done.of("bi-harness-gate")
    assert gate.attempts == [0]


@pytest.mark.long
@pytest.mark.parametrize("code", [2, 3, 4, 5, 6])
def test_nothing_else_is_retried(agent: Agent, tmp_path: Path, code: int) -> None:
    done = build(agent, tmp_path, upload(agent, *H200), run_0=[code, 0])
    assert done.of("bi-harness-h200")[0].attempts == [code]


@pytest.mark.long
def test_where_no_shard_left_anything_merge_is_retried_and_the_gate_says_so(
    agent: Agent, tmp_path: Path
) -> None:
    pipeline = upload(agent, *H200)
    done = build(agent, tmp_path, pipeline, run_0=[75], run_1=[75], run_2=[75], gate=[1])
    assert done.of("bi-harness-h200-merge")[0].attempts == [75, 75, 75]
    [gate] = done.of("bi-harness-gate")
    assert gate.attempts == [1]
    assert "h200: no certificate came" in gate.output


@pytest.mark.long
def test_what_an_earlier_build_left_in_the_checkout_is_not_taken(agent: Agent, tmp_path: Path) -> None:
    checkout = tmp_path / "checkout"
    for folder in ("bi-harness-shards/h200/old", "bi-harness-reports/h200/old"):
        (checkout / folder).mkdir(parents=True)
        (checkout / folder / "events.jsonl").write_text("old")
        (checkout / folder / "certificate.json").write_text("old")
    (agent.home / "codes.json").write_text("{}")
    done = Build(agent, tmp_path / "jobs", agent.environment(), checkout).run(upload(agent, *H200))
    assert done.green
    assert not list((agent.home / "artifacts").rglob("old"))
    assert "bi-harness-shards/h200/old/" not in called(agent, "merge")[0]


def test_hostile_words_come_through_to_the_command(agent: Agent, tmp_path: Path) -> None:
    expression = "batch and not (`touch owned` or $HOME or \\$X or 'a')"
    files = tmp_path / "m $(touch owned) 'x' \\$Y" / "models.yaml"
    files.parent.mkdir()
    files.write_bytes((ROOT / "models.yaml").read_bytes())
    pipeline = upload(agent, *H200, "--models-file", str(files), "--harness", "bi-harness", HOME="/elsewhere")
    assert pipeline
    done = build(agent, tmp_path, pipeline)
    assert done.green, [job.output for job in done.jobs]
    assert f"--models-file={files}" in called(agent, "run-0")[0]
    assert not list(tmp_path.rglob("owned"))
    # An expression that pytest's grammar has no word for is refused before it gets there.
    with pytest.raises(subprocess.CalledProcessError):
        upload(agent, *H200, "-k", expression)
    assert len(agent.uploaded()) == 1


def test_nothing_is_uploaded_where_the_pipeline_cannot_be_made(agent: Agent) -> None:
    with pytest.raises(subprocess.CalledProcessError):
        upload(agent, "--device", "h2000")
    assert not (agent.home / "uploaded").exists()


@pytest.fixture
def standin(tmp_path: Path) -> Iterator[Standin]:
    made = Standin(tmp_path / "s", uuid.uuid4().hex) if (tmp_path / "s").mkdir() is None else None
    assert made is not None
    made.write(one="good(check, workload)", two="good(check, workload)")
    yield made
    assert marked(made.mark) == []


@pytest.mark.skipif("merge" not in COMMANDS, reason="this bi-harness has no merge")
@pytest.mark.parametrize("fails", [True, pytest.param(False, marks=pytest.mark.long)])
def test_the_real_harness_in_a_real_pipeline(tmp_path: Path, standin: Standin, fails: bool) -> None:
    """`bi-harness` itself in every step, on a suite that stands in for a real one."""
    agent = Agent.install(tmp_path / "agent")
    script = agent.bin / "bi-harness"
    script.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m bi_harness.cli "$@"\n')
    script.chmod(0o755)
    if fails:
        standin.write(one="good(check, workload)", two="bad(check, workload)")
    files = standin.environment()
    suite = Path(files["BI_HARNESS_SUITES"])
    policy = tmp_path / "policy.yaml"
    policy.write_text(
        "schema: bi-harness/policy/1\nvllm: '>=0.32'\nallow_dirty: true\nallow_synthetic: true\n"
        "allow_skips: true\nrequires:\n- {devices: [cpu], models: [tiny], suites: [core], modes: [eager]}\n"
    )
    steps = {k: v for k, v in files.items() if k not in ("PATH", "BI_HARNESS_DEVICE", "BI_HARNESS_OUT")}
    pipeline = upload(
        agent,
        "--profile",
        "nightly",
        "--device",
        "cpu",
        "--shard-minutes",
        "1",
        "--policy",
        str(policy),
        **steps,
    )
    assert suite.is_dir()
    done = Build(agent, tmp_path / "jobs", steps).run(pipeline)
    said = "\n".join(job.output for job in done.jobs)
    codes = {job.step: job.attempts for job in done.jobs}
    assert len(done.of("bi-harness-cpu")) == 2, said
    assert codes["bi-harness-cpu-merge"] == [1 if fails else 0], said
    # The stand-in has no engine that could say which vLLM it is, and the gate takes nobody's word for it.
    assert codes["bi-harness-gate"] == [1], said
    if not fails:
        assert "it does not say which vLLM ran" in said
    shown = {call["argv"][2]: call for call in agent.calls("annotate")}
    assert set(shown) == {
        *("bi-harness-cpu-shard-1-of-2", "bi-harness-cpu-shard-2-of-2"),
        *("bi-harness-cpu", "bi-harness-gate"),
    }
    assert shown["bi-harness-cpu"]["argv"][-1] == ("error" if fails else "success")
    assert shown["bi-harness-cpu-shard-1-of-2"]["argv"][-1] == ("error" if fails else "info")
    merged = agent.home / "artifacts" / "bi-harness-cpu-merge"
    [certificate] = merged.rglob("certificate.json")
    told = json.loads(certificate.read_text())["predicate"]["bi_harness"]
    assert told["verdict"] == ("NOT_CERTIFIED" if fails else "CERTIFIED")
    assert list(merged.rglob("test-engine.json"))
