"""``bi-harness plan``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bi_harness.cli import main as cli
from bi_harness.cli import release
from bi_harness.cli.release import vllm_release
from bi_harness.exits import ExitCode
from bi_harness.spec.load import Spec
from tests.spec.small import Files


@pytest.fixture
def spec(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Spec:
    """The small spec, pointed to by the environment; no vLLM is installed."""
    loaded = Files(tmp_path).load()
    monkeypatch.setenv("BI_HARNESS_MODELS", str(loaded.paths.models))
    monkeypatch.setenv("BI_HARNESS_HARDWARE", str(loaded.paths.hardware))
    monkeypatch.setenv("BI_HARNESS_SUITES", str(loaded.paths.suites))
    monkeypatch.setattr(release, "DISTRIBUTIONS", ())
    monkeypatch.setenv("COLUMNS", "80")
    return loaded


def as_json(args: list[str], capsys: pytest.CaptureFixture[str], code: int = 0) -> dict[str, Any]:
    assert cli.main(["plan", "--json", *args]) == code
    data: dict[str, Any] = json.loads(capsys.readouterr().out)
    return data


def test_json(spec: Spec, capsys: pytest.CaptureFixture[str]) -> None:
    data = as_json(["-d", "gpu", "-p", "nightly", "-m", "big", "--vllm-version", "0.21"], capsys)
    assert (data["device"], data["vllm_version"], data["vllm_origin"]) == ("gpu", "0.21", "given")
    assert data["totals"] == {"cells": 8, "run": 4, "skip": 4, "units": 4, "checks": 6}
    cell = data["cells"][1]
    assert cell == {
        "id": "gpu/big/FLASH_ATTN/tp1-dp1/compile/core",
        "unit": "gpu/big/FLASH_ATTN/tp1-dp1/compile",
        "status": "skip",
        "rule": "eager-only",
        "reason": "Eager only.",
        "source": "PR 1",
        "checks": ["alone"],
    }
    assert data["units"][1] == {
        "id": "gpu/big/FLASH_ATTN/tp2-dp1/eager",
        "gpus": 2,
        "cells": ["gpu/big/FLASH_ATTN/tp2-dp1/eager/core"],
    }


def test_every_filter_has_a_flag_and_a_variable(
    spec: Spec, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    flags = [
        "-d",
        "gpu",
        "-m",
        "big",
        "-s",
        "core",
        "--backend",
        "TRITON_ATTN",
        "--mode",
        "eager",
        "-k",
        "spread",
    ]
    by_flag = as_json([*flags, "-p", "nightly", "--gpus", "2", "--vllm-version", "0.30"], capsys)
    assert [cell["id"] for cell in by_flag["cells"]] == ["gpu/big/TRITON_ATTN/tp2-dp1/eager/core"]
    for name, value in {
        "DEVICE": "gpu",
        "MODEL": "big",
        "SUITE": "core",
        "BACKEND": "TRITON_ATTN",
        "MODE": "eager",
        "K": "spread",
        "PROFILE": "nightly",
        "GPUS": "2",
        "VLLM_VERSION": "0.30",
    }.items():
        monkeypatch.setenv(f"BI_HARNESS_{name}", value)
    assert as_json([], capsys) == by_flag


def test_files_can_be_named(
    spec: Spec, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("MODELS", "HARDWARE", "SUITES"):
        monkeypatch.delenv(f"BI_HARNESS_{name}")
    paths = spec.paths
    args = ["--models-file", str(paths.models), "--hardware-file", str(paths.hardware)]
    assert as_json(["-d", "gpu", *args, "--suites-dir", str(paths.suites)], capsys)["device"] == "gpu"


def test_the_table_fits_80_columns_and_gives_reason_and_source(
    spec: Spec, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["plan", "-d", "gpu", "-p", "nightly", "--vllm-version", "0.21.0"]) == 0
    captured = capsys.readouterr()
    assert max(len(line) for line in captured.out.splitlines()) <= 80
    for part in ("vLLM 0.21.0 (given)", "eager-only", "Eager only.", "PR 1", "core: alone, spread"):
        assert part in captured.out
    assert captured.err == ""


def test_the_shipped_plans_fit_80_columns(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    for device in ("cpu", "l4", "a100", "b200"):
        assert cli.main(["plan", "-d", device, "-p", "release", "--vllm-version", "0.20.0"]) == 0
        assert max(len(line) for line in capsys.readouterr().out.splitlines()) <= 80


def test_an_empty_selection_exits_with_5(spec: Spec, capsys: pytest.CaptureFixture[str]) -> None:
    assert as_json(["-d", "cpu", "-k", "nope"], capsys, code=ExitCode.NOTHING_TO_RUN)["cells"] == []
    assert cli.main(["plan", "-d", "cpu", "-m", "big"]) == ExitCode.NOTHING_TO_RUN
    captured = capsys.readouterr()
    assert "all 8 cells are excluded" not in captured.err
    assert "excluded (rules: devices)" in captured.err


def test_a_named_model_without_any_cell_is_told(spec: Spec, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["plan", "-d", "gpu", "-m", "tiny", "-m", "big", "-k", "tiny"]) == 0
    assert "warning: --model big leaves no cell on gpu" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["-d", "gpx"], 'there is no device "gpx". Did you mean "gpu"?'),
        (["-d", "gpu", "-m", "bg"], 'there is no model "bg". Did you mean "big"?'),
        (["-d", "gpu", "-k", "a b"], "column 3"),
        (["-d", "gpu", "--vllm-version", "x"], "not a vLLM version"),
        (["-d", "gpu", "--models-file", "/nowhere/m.yaml"], "/nowhere/m.yaml: cannot be read"),
    ],
)
def test_mistakes_exit_with_4(
    spec: Spec, args: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["plan", "--json", *args]) == ExitCode.USAGE
    captured = capsys.readouterr()
    assert captured.out == ""
    assert message in captured.err


def test_the_release(spec: Spec, monkeypatch: pytest.MonkeyPatch) -> None:
    assert vllm_release(spec, "cpu", "0.1") == ("0.1", "given")
    assert vllm_release(spec, "cpu") == ("0.32.0", "assumed")
    assert vllm_release(spec, "gpu") == ("0.33.0", "assumed")
    monkeypatch.setattr(release, "DISTRIBUTIONS", ("no-such-vllm", "pytest"))
    found = vllm_release(spec, "gpu")
    assert found == (pytest.__version__, "installed")
