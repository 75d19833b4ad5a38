"""``bi-harness pipeline``, and what ``run``, ``report`` and ``gate`` tell a Buildkite job."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from bi_harness.certificate.events import Event
from bi_harness.cli import main as cli
from bi_harness.exits import ExitCode
from bi_harness.spec.load import load_data
from bi_harness.spec.times import TimesFile
from tests.buildkite.plans import ROOT
from tests.buildkite.standin import Agent
from tests.certificate.journals import result, sound
from tests.cli.test_report import digests
from tests.cli.test_report import folder as written
from tests.cli.test_run import standin  # noqa: F401 - a fixture
from tests.runner.standin import Standin


def folder(root: Path, events: list[Event]) -> Path:
    root.mkdir(parents=True)
    return written(root, events)


def made(capsys: pytest.CaptureFixture[str], *args: str, code: int = 0) -> tuple[dict[str, Any], str]:
    assert cli.main(["pipeline", *args]) == code
    captured = capsys.readouterr()
    return yaml.safe_load(captured.out or "{}"), captured.err


def keys(pipeline: dict[str, Any]) -> list[str]:
    return [inner["key"] for step in pipeline["steps"] for inner in step.get("steps", [step])]


def test_yaml_and_json_are_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    found, err = made(capsys, "-p", "smoke", "-d", "cpu", "-d", "h200")
    assert cli.main(["pipeline", "-p", "smoke", "-d", "cpu", "-d", "h200", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == found
    assert keys(found) == [
        "bi-harness-cpu",
        "bi-harness-cpu-merge",
        "bi-harness-h200",
        "bi-harness-h200-merge",
    ]
    assert re.search(r"note: cpu: [1-9]\d* units with [1-9]\d* checks", err)
    assert "note: no gate: no --policy is given" in err


def test_every_filter_comes_to_the_step(capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["-m", "qwen3-1.7b", "--backend", "FLASH_ATTN", "--mode", "eager", "-k", "not needle"]
    flags += [
        "--shard-minutes",
        "600",
        "--weights",
        "synthetic",
        "--layers",
        "2",
        "-s",
        "batch_invariance",
        "-s",
        "online",
    ]
    files = ["--models-file", "models.yaml", "--hardware-file", "hardware.yaml", "--suites-dir", "suites"]
    found, _ = made(
        capsys, "-d", "h200", *flags, *files, "--set-up", "make setup", "--harness", ".venv/bin/x"
    )
    step = found["steps"][0]["steps"][0]
    flags = (
        "--model=qwen3-1.7b --backend=FLASH_ATTN --mode=eager -k 'not needle' --weights=synthetic --layers=2 "
        "--models-file=models.yaml --hardware-file=hardware.yaml --suites-dir=suites "
        "--suite batch_invariance --suite online --out bi-harness-shards --shard 1/1"
    )
    run = f".venv/bin/x run --device h200 --profile nightly {flags}"
    assert step["commands"][1:] == ["make setup", run]


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        (["-d", "h2000"], ExitCode.USAGE, 'there is no device "h2000"'),
        (["-d", "auto"], ExitCode.USAGE, 'there is no device "auto"'),
        (["-m", "qwen"], ExitCode.USAGE, 'there is no model "qwen"'),
        (["-s", "op"], ExitCode.USAGE, 'there is no suite "op"'),
        (["-k", "("], ExitCode.USAGE, "column"),
        (["-k", "nothing_is_called_that"], ExitCode.NOTHING_TO_RUN, "nothing to run on cpu, l4"),
        (["--harness", "'"], ExitCode.USAGE, "--harness"),
        (["--harness", " "], ExitCode.USAGE, "--harness is empty"),
        (["--set-up", "echo \\$X"], ExitCode.USAGE, "backslash"),
        (["--changed-files", "@/nowhere"], ExitCode.USAGE, "cannot read --changed-files @/nowhere"),
        (["--shard-minutes", "0"], ExitCode.USAGE, "shard-minutes"),
        (["--measure", "/nowhere"], ExitCode.USAGE, "/nowhere"),
    ],
)
def test_mistakes(args: list[str], code: ExitCode, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["pipeline", *args]) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    assert message in captured.err
    assert "Traceback" not in captured.err


def test_a_change_limits_what_runs(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    policy = ["-d", "cpu", "--policy", "p.yaml"]
    found, err = made(capsys, *policy, "--changed-files", "suites/ops/suite.yaml,docs/x.md")
    assert keys(found) == ["bi-harness-cpu", "bi-harness-cpu-merge"]
    assert "--suite ops" in found["steps"][0]["steps"][0]["commands"][-1]
    assert "note: of 2 changed files, some touch ops (suites/ops/suite.yaml)" in err
    assert "no gate: only what a change touches runs" in err
    listed = tmp_path / "changed"
    listed.write_text("docs/a.md\nREADME.md\n")
    found, err = made(capsys, *policy, "--changed-files", f"@{listed}")
    assert keys(found) == ["bi-harness-nothing"]
    listed.write_bytes(b"docs/a.md\0bi_harness/x y.py\0")
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(listed.read_bytes())))
    found, err = made(capsys, *policy, "--changed-files", "-")
    assert keys(found) == ["bi-harness-cpu", "bi-harness-cpu-merge", "bi-harness-gate"]
    assert "some touch every suite (bi_harness/x y.py)" in err
    assert "--suite" not in found["steps"][0]["steps"][0]["commands"][-1]
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"")))
    found, err = made(capsys, *policy, "--changed-files", "-")
    assert "bi-harness-gate" in keys(found)
    assert "no changed file was named: everything runs" in err


def test_a_change_and_a_suite_that_was_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    found, _ = made(capsys, "-d", "cpu", "-s", "online", "--changed-files", "suites/ops/suite.yaml")
    assert keys(found) == ["bi-harness-nothing"]


def test_more_changed_files_never_take_a_step_away(capsys: pytest.CaptureFixture[str]) -> None:
    files = [
        "docs/a.md",
        "suites/ops/x.py",
        "suites/nvfp4/x.py",
        "vllm/entrypoints/cli/x.py",
        "vllm/envs.py",
        "new",
    ]
    before: set[str] = set()
    for count in range(1, len(files) + 1):
        found, _ = made(capsys, "--policy", "p", "--changed-files", ",".join(files[:count]))
        here = set(keys(found)) - {"bi-harness-nothing"}  # The one that stands for no other.
        assert before <= here
        before = here
    assert "bi-harness-gate" in before


def test_too_many_jobs_for_one_upload_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    _, err = made(capsys, "--shard-minutes", "1", "--max-shards", "200")
    assert "Buildkite takes 500 of an upload" in err
    _, err = made(capsys)
    assert "Buildkite takes" not in err


def test_times_are_measured_from_certificates(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    run = folder(tmp_path / "cpu" / "run", sound(result(duration_s=12.5)))
    assert cli.main(["report", str(run)]) == 0
    capsys.readouterr()
    assert cli.main(["pipeline", "--measure", str(tmp_path)]) == 0
    captured = capsys.readouterr()
    (tmp_path / "times.yaml").write_text(captured.out)
    [cell] = load_data(tmp_path / "times.yaml", TimesFile).measured
    assert cell.checks == {"alone": 12.5}
    assert captured.err == f"note: from run {cell.runs[0]}\n", "the runs that were read are named"


def test_times_are_measured_although_the_shell_has_emptied_the_file(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    run = folder(tmp_path / "cpu" / "run", sound(result(duration_s=12.5)))
    assert cli.main(["report", str(run)]) == 0
    capsys.readouterr()
    (tmp_path / "hardware.yaml").touch()
    (tmp_path / "times.yaml").touch()
    args = ["--hardware-file", str(tmp_path / "hardware.yaml"), "--measure", str(run)]
    assert cli.main(["pipeline", *args]) == 0
    captured = capsys.readouterr()
    assert "assumed_check_s: 300.0\n" in captured.out
    assert "times.yaml is empty: assumed_check_s is the default, 300 s" in captured.err


@pytest.fixture
def agent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Agent:
    made = Agent.install(tmp_path / "agent")
    for name, value in made.environment().items():
        monkeypatch.setenv(name, value)
    return made


def test_report_annotates_the_build(agent: Agent, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = folder(tmp_path / "run", sound(result("fail")))
    assert cli.main(["report", str(run)]) == ExitCode.NOT_CERTIFIED
    [call] = agent.calls("annotate")
    assert call["argv"] == ["annotate", "--context", "bi-harness-cpu", "--style", "error"]
    assert call["stdin"].startswith("## ❌ NOT CERTIFIED")
    assert "because fail" in call["stdin"]
    assert json.loads((run / "test-engine.json").read_text())[0]["result"] == "failed"
    assert "warning" not in capsys.readouterr().err


def test_a_shards_annotation_is_its_own(
    agent: Agent, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BUILDKITE_PARALLEL_JOB", "1")
    monkeypatch.setenv("BUILDKITE_PARALLEL_JOB_COUNT", "4")
    assert cli.main(["report", str(folder(tmp_path / "run", sound()))]) == ExitCode.CERTIFIED
    [call] = agent.calls("annotate")
    assert call["argv"][2] == "bi-harness-cpu-shard-2-of-4"


def test_whoever_does_not_want_it_is_not_annotated(
    agent: Agent, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = folder(tmp_path / "run", sound())
    assert cli.main(["report", str(run), "--no-annotate"]) == ExitCode.CERTIFIED
    monkeypatch.setenv("BI_HARNESS_ANNOTATE", "0")
    assert cli.main(["report", str(run)]) == ExitCode.CERTIFIED
    assert agent.calls() == []


def test_outside_of_buildkite_nothing_changes(
    agent: Agent, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("BUILDKITE")
    run = folder(tmp_path / "run", sound())
    assert cli.main(["report", str(run)]) == ExitCode.CERTIFIED
    assert agent.calls() == []
    assert not (run / "test-engine.json").exists()
    before = digests(run)
    assert cli.main(["report", str(run), "--test-engine"]) == ExitCode.CERTIFIED
    assert (run / "test-engine.json").exists()
    assert digests(run) == before


@pytest.mark.parametrize("status", ["pass", "fail", "inconclusive"])
@pytest.mark.parametrize("trouble", [{"code": 1, "says": "502 Bad Gateway"}, {"hangs": True}, {}])
def test_trouble_with_the_agent_changes_no_exit_code(
    agent: Agent,
    tmp_path: Path,
    status: Any,
    trouble: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("bi_harness.buildkite.agent.TIMEOUT_S", 1.0)
    if trouble:
        agent.behave(**trouble)
    else:
        monkeypatch.setattr("bi_harness.buildkite.annotation.body", lambda *args: 1 / 0)
    run = folder(tmp_path / "run", sound(result(status)))
    code = cli.main(["report", str(run)])
    assert code == {"pass": 0, "fail": 1, "inconclusive": 6}[status]
    err = capsys.readouterr().err
    assert "warning: Buildkite was not told of the result, which stands: " in err
    assert "Traceback" not in err
    # Other than the annotation, everything is as without an agent.
    monkeypatch.delenv("BUILDKITE")
    before = digests(run)
    assert cli.main(["report", str(run)]) == code
    assert digests(run) == before


def test_without_an_agent_nothing_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("BUILDKITE", "true")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert cli.main(["report", str(folder(tmp_path / "run", sound()))]) == ExitCode.CERTIFIED
    assert "warning" not in capsys.readouterr().err


def test_a_run_annotates_and_a_resumed_one_leaves_no_old_file(standin: Standin, tmp_path: Path) -> None:  # noqa: F811
    agent = Agent.install(tmp_path / "agent")
    standin.write(one="good(check, workload)", two="bad(check, workload)", three="os._exit(3)")
    code, _, err = standin.finish("run", **agent.environment())
    assert code == ExitCode.NOT_CERTIFIED, err
    [call] = agent.calls("annotate")
    assert call["argv"][-1] == "error"
    (run,) = standin.root.glob("out/cpu/*")
    assert {case["result"] for case in json.loads((run / "test-engine.json").read_text())} == {
        *("passed", "failed"),
        "skipped",
    }
    code, _, err = standin.finish("run", "--resume", str(run))
    assert code == ExitCode.NOT_CERTIFIED, err
    assert not (run / "test-engine.json").exists()


def test_the_gate_annotates(agent: Agent, tmp_path: Path) -> None:
    policy = tmp_path / "policy.yaml"
    policy.write_text(
        "schema: bi-harness/policy/1\nvllm: '>=0.32'\n"
        "requires:\n- {devices: [cpu], models: [tiny], suites: [core], modes: [eager]}\n"
    )
    (tmp_path / "reports").mkdir()
    args = ["gate", "--policy", str(policy), str(tmp_path / "reports")]
    assert cli.main(args) == ExitCode.NOT_CERTIFIED
    [call] = agent.calls("annotate")
    assert call["argv"] == ["annotate", "--context", "bi-harness-gate", "--style", "error"]
    assert "cpu/tiny" in call["stdin"]
    agent.behave(code=1)
    assert cli.main(args) == ExitCode.NOT_CERTIFIED
    assert cli.main([*args, "--no-annotate"]) == ExitCode.NOT_CERTIFIED
    assert len(agent.calls("annotate")) == 2
