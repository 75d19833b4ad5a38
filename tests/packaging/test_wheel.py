"""What an installed bi-harness has: the package, the YAML, the suites, and its entry points."""

from __future__ import annotations

import configparser
import importlib
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import bi_harness

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    pytest.importorskip("hatchling")
    out = tmp_path_factory.mktemp("dist")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", out], cwd=ROOT, check=True
    )
    (built,) = out.glob("*.whl")
    return zipfile.ZipFile(built)


def read(wheel: zipfile.ZipFile, name: str) -> str:
    return wheel.read(f"bi_harness-{bi_harness.__version__}.dist-info/{name}").decode()


def test_modules_and_data_are_in_it(wheel: zipfile.ZipFile) -> None:
    names = set(wheel.namelist())
    tracked = subprocess.run(
        ["git", "ls-files", "bi_harness", "suites"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split()
    for name in tracked:
        if (ROOT / name).exists():
            assert (f"bi_harness/_data/{name}" if name.startswith("suites/") else name) in names
    assert {
        "bi_harness/py.typed",
        *(f"bi_harness/_data/{name}.yaml" for name in ("models", "hardware", "times", "releases")),
    } <= names


def test_nothing_else_is_in_it(wheel: zipfile.ZipFile) -> None:
    assert {name.partition("/")[0] for name in wheel.namelist()} == {
        "bi_harness",
        f"bi_harness-{bi_harness.__version__}.dist-info",
    }
    assert not [n for n in wheel.namelist() if "__pycache__" in n or n.endswith(".pyc")]


def test_metadata(wheel: zipfile.ZipFile) -> None:
    text = read(wheel, "METADATA")
    assert f"Version: {bi_harness.__version__}" in text
    assert "Requires-Python: >=3.11" in text
    required = [
        line for line in text.splitlines() if line.startswith("Requires-Dist") and "extra ==" not in line
    ]
    assert required
    assert not [line for line in required if "torch" in line or "vllm" in line]


def test_entry_points_lead_somewhere(wheel: zipfile.ZipFile) -> None:
    parser = configparser.ConfigParser(delimiters=("=",))
    parser.read_string(read(wheel, "entry_points.txt"))
    assert dict(parser["console_scripts"]) == {"bi-harness": "bi_harness.cli.main:main"}
    assert dict(parser["pytest11"]) == {"bi_harness": "bi_harness.pytest_plugin"}
    assert dict(parser["vllm.general_plugins"]) == {"bi_harness": "bi_harness.invariance.plugin:register"}
    for section in parser.sections():
        for target in parser[section].values():
            module, _, function = target.partition(":")
            loaded = importlib.import_module(module)
            assert not function or callable(getattr(loaded, function))
