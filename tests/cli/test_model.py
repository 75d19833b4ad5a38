"""``bi-harness model make``: what is refused. (Making one needs torch: see tests/e2e.)"""

from __future__ import annotations

from pathlib import Path

import pytest

from bi_harness.cli import main as cli
from bi_harness.exits import ExitCode


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["qwen3-tini"], 'there is no model "qwen3-tini". Did you mean "qwen3-tiny"?'),
        (["qwen3-tiny", "--layers", "5"], "give 1 to 4"),
        (["qwen3-tiny", "--layers", "0"], "--layers"),
        (["qwen3-tiny", "--engine-python", "/nowhere/python"], "/nowhere/python does not run"),
        (["qwen3-tiny", "--engine-python", "/bin/false"], "/bin/false"),
        (["qwen3-tiny", "--models-file", "/nowhere/m.yaml"], "cannot be read"),
        ([], "model"),
    ],
)
def test_mistakes(tmp_path: Path, args: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "checkpoint"
    assert cli.main(["model", "make", *args, "--out", str(out), "--json"]) == ExitCode.USAGE
    captured = capsys.readouterr()
    assert captured.out == ""
    assert message.lower() in captured.err.lower()
    assert "Traceback" not in captured.err
    assert not out.exists()


def test_out_is_required(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["model", "make", "qwen3-tiny"]) == ExitCode.USAGE
    assert "--out" in capsys.readouterr().err


def test_an_interpreter_that_says_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    args = ["model", "make", "qwen3-tiny", "--out", str(tmp_path / "x"), "--engine-python", "/bin/true"]
    assert cli.main(args) == ExitCode.USAGE
    assert "/bin/true" in capsys.readouterr().err
