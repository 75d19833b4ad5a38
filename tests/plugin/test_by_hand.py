"""pytest over a suite by hand, as a developer of a check runs it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.runner.standin import ROOT, Standin, marked

USAGE = pytest.ExitCode.USAGE_ERROR


@pytest.fixture
def standin(tmp_path: Path) -> Iterator[Standin]:
    made = Standin(tmp_path, uuid.uuid4().hex)
    made.write(one="good(check, workload)", two="bad(check, workload)", three="good(check, workload)")
    yield made
    assert marked(made.mark) == []


def by_hand(standin: Standin, *arguments: str, **environ: str) -> tuple[int, str]:
    """pytest's exit code, and all that it said."""
    command = [sys.executable, "-m", "pytest", "-p", "bi_harness.pytest_plugin", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [*command, "--import-mode=importlib", "-rA", *arguments],
        env={**standin.environment(), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", **environ},
        capture_output=True,
        text=True,
        cwd=standin.root,
        timeout=120,
    )
    return done.returncode, done.stdout + done.stderr


def test_it_runs(standin: Standin) -> None:
    code, said = by_hand(standin, "suites/core", "--bi-device", "cpu")
    assert code == pytest.ExitCode.TESTS_FAILED, said
    assert "2 passed" in said
    assert "1 failed" in said
    assert "fail: 4 of 4 prompts differ" in said
    assert "journal and logs in" in said
    cell = "cpu/tiny/CPU_ATTN/tp1-dp1/eager/core"
    assert f"test_one[{cell}]" in said, "the cell is the parameter"


def test_k_selects_as_ever(standin: Standin) -> None:
    code, said = by_hand(standin, "suites/core", "--bi-device", "auto", "-k", "three and eager")
    assert (code, "1 passed, 2 deselected" in said) == (pytest.ExitCode.OK, True), said
    code, said = by_hand(standin, "suites/core", "--bi-device", "cpu", "-k", "nothing")
    assert code == pytest.ExitCode.NO_TESTS_COLLECTED, said
    code, said = by_hand(standin, "suites/core/test_core.py::test_one", "--bi-device", "cpu")
    assert (code, "1 passed" in said) == (pytest.ExitCode.OK, True), said


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "a suite needs --bi-device ID (or auto)"),
        (("--bi-device", "cpi"), "Did you mean cpu?"),
        (("--bi-device", "a100"), "a100 is a GPU (sm_80); this host is a CPU"),
        (("--bi-device", "cpu", "--bi-model", "tinny"), 'Did you mean "tiny"?'),
        (("--bi-device", "cpu", "--bi-engine-python", "/nowhere/python"), "does not run"),
        (("--bi-device", "cpu", "--bi-layers", "x"), "--bi-layers"),
        (("--bi-unit-file", "/nowhere/unit.json"), "is not a unit's file"),
    ],
)
def test_mistakes_are_usage_errors(standin: Standin, arguments: tuple[str, ...], message: str) -> None:
    code, said = by_hand(standin, "suites/core", *arguments)
    assert code == USAGE, said
    assert message in said
    assert "INTERNALERROR" not in said
    assert "passed" not in said


def test_the_yaml_must_be_right(standin: Standin) -> None:
    path = standin.root / "models.yaml"
    path.write_text(path.read_text().replace("synthetic:", "sinthetic:", 1))
    code, said = by_hand(standin, "suites/core", "--bi-device", "cpu")
    assert code == USAGE, said
    assert 'Did you mean "synthetic"' in said


def test_it_is_inert_elsewhere(standin: Standin, tmp_path: Path) -> None:
    """It is loaded in every pytest of an environment that has bi-harness."""
    module = tmp_path / "elsewhere" / "test_other.py"
    module.parent.mkdir()
    module.write_text(
        "import sys\nimport pytest\n\n@pytest.fixture\ndef cell(): return 7\n\n"
        "def test_one(cell): assert cell == 7\n\ndef test_nothing_heavy():\n"
        "    assert not {'numpy', 'pydantic', 'yaml', 'psutil'} & set(sys.modules)\n"
    )
    code, said = by_hand(standin, str(module))
    assert (code, "2 passed" in said) == (pytest.ExitCode.OK, True), said
    assert "bi-harness:" not in said


def test_tests_without_a_cell_run_beside_suites(standin: Standin) -> None:
    module = standin.suite / "test_other.py"
    module.write_text("def test_plain(): pass\n")
    code, said = by_hand(standin, "suites/core", "--bi-device", "cpu", "-k", "plain or one")
    assert (code, "2 passed" in said) == (pytest.ExitCode.OK, True), said


def test_a_reruns_plugin_makes_no_pass(standin: Standin) -> None:
    """What pytest-rerunfailures does, in small: run the protocol again until it passes."""
    (standin.root / "again.py").write_text(
        "from _pytest.runner import runtestprotocol\n\n"
        "def pytest_runtest_protocol(item, nextitem):\n"
        "    for _ in range(3):\n"
        "        item._initrequest()\n"
        "        reports = runtestprotocol(item, nextitem=nextitem, log=False)\n"
        "        if all(r.passed for r in reports): break\n"
        "    for report in reports: item.ihook.pytest_runtest_logreport(report=report)\n"
        "    return True\n"
    )
    flaky = "import pathlib\nseen = pathlib.Path('seen')\nif seen.exists():\n    good(check, workload)\n"
    flaky += "else:\n    seen.touch()\n    bad(check, workload)"
    standin.write(flaky=flaky)
    path = f"{standin.root}{os.pathsep}{ROOT}{os.pathsep}{standin.root / 'site'}"
    code, said = by_hand(standin, "suites/core", "--bi-device", "cpu", "-p", "again", PYTHONPATH=path)
    assert code == pytest.ExitCode.TESTS_FAILED, said
    (line,) = [line for line in said.splitlines() if "journal and logs in" in line]
    folder = Path(line.rpartition(" in ")[2])
    journal = (folder / "events.jsonl").read_text()
    assert journal.count('"check_finished"') == 1
    assert '"status":"fail"' in journal
    shutil.rmtree(folder)
