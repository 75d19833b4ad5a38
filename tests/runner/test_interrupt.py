"""``bi-harness run`` that is told to stop, or killed, in the middle of a unit."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from bi_harness.errors import UsageError
from bi_harness.exits import ExitCode
from bi_harness.runner.run import make_run_dir
from tests.runner.standin import Standin, certificates, ended, marked, wait_for

HANG = """
subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
time.sleep(600)
"""
# What an engine is: a session of its own that watches the process of its unit.
ENGINE = """
watch = "import os, sys, time; from bi_harness.engine.orphan import die_with_parent; "
watch += "die_with_parent(int(sys.argv[1])); time.sleep(600)"
subprocess.Popen([sys.executable, "-c", watch, str(os.getpid())], start_new_session=True)
time.sleep(600)
"""


def in_the_middle(standin: Standin, body: str, *arguments: str) -> subprocess.Popen[str]:
    """A run whose second check has begun, and has started a process of its own."""
    standin.write(one="good(check, workload)", two=body, three="good(check, workload)")
    process = standin.cli("run", *arguments)

    def begun() -> bool:
        assert process.poll() is None, process.communicate()[1]
        texts = [j.read_text() for j in standin.root.glob("out/*/*/events.jsonl")]
        return any('"check_started"' in t and '"two"' in t.partition("check_started")[2] for t in texts)

    wait_for(begun, 60, "the second check begins")
    # bi-harness, the unit's pytest, and what the check started
    wait_for(lambda: len(standin.marked()) >= 3, 20, "the check's own process")
    return process


def certificate(standin: Standin) -> dict[str, Any]:
    (path,) = standin.root.glob("out/cpu/*/certificate.json")
    told: dict[str, Any] = json.loads(path.read_text())["predicate"]
    return told


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_run_that_is_told_to_stop(standin: Standin, number: int) -> None:
    process = in_the_middle(standin, HANG)
    sent = time.monotonic()
    process.send_signal(number)
    _, err = ended(process)
    assert time.monotonic() - sent < 20
    assert process.returncode == ExitCode.INTERRUPTED, err
    assert standin.marked() == []
    told = certificate(standin)
    assert told["result"] == "FAILED"
    ours = told["bi_harness"]
    assert (ours["verdict"], ours["interrupted"]) == ("INCONCLUSIVE", True)
    checks = {c["check"]: c for c in ours["checks"] if c["status"] != "skip"}
    assert {name: c["status"] for name, c in checks.items()} == {
        "one": "pass",
        "two": "error",
        "three": "error",
    }
    assert checks["two"]["reason"] == "the run was interrupted"
    assert (standin.root / "out").is_dir()
    (run,) = standin.root.glob("out/cpu/*")
    assert (run / checks["two"]["log"]).is_file()
    assert {p.name for p in run.iterdir()} >= {"certificate.html", "junit.xml", "events.jsonl"}
    code, _, _ = standin.finish("report", str(run))
    assert code == ExitCode.INTERRUPTED


def test_a_difference_outweighs_the_interruption(standin: Standin) -> None:
    standin.write(one="bad(check, workload)", two=HANG)
    process = standin.cli("run")
    wait_for(
        lambda: any('"fail"' in j.read_text() for j in standin.root.glob("out/*/*/events.jsonl")),
        60,
        "a fail",
    )
    process.send_signal(signal.SIGTERM)
    ended(process)
    assert process.returncode == ExitCode.NOT_CERTIFIED
    assert certificate(standin)["bi_harness"]["verdict"] == "NOT_CERTIFIED"


def test_a_second_ctrl_c_changes_nothing(standin: Standin) -> None:
    process = in_the_middle(standin, HANG)
    for _ in range(20):
        if process.poll() is None and not certificates(standin.root / "out"):
            process.send_signal(signal.SIGINT)
        time.sleep(0.02)
    _, err = ended(process)
    assert process.returncode == ExitCode.INTERRUPTED, err
    assert certificate(standin)["bi_harness"]["interrupted"] is True


def test_nothing_outlives_a_runner_that_is_killed(standin: Standin) -> None:
    process = in_the_middle(standin, ENGINE)
    process.kill()
    ended(process)
    wait_for(lambda: not standin.marked(), 5, f"all processes gone: {standin.marked()}")
    (run,) = standin.root.glob("out/cpu/*")
    code, out, _ = standin.finish("report", str(run), "--json")
    assert code == ExitCode.INTERRUPTED
    told = json.loads(out)["certificate"]["predicate"]["bi_harness"]
    assert (told["verdict"], told["interrupted"], told["finished"]) == ("INCONCLUSIVE", True, None)


def test_a_process_whose_parent_is_gone_already_ends(standin: Standin, tmp_path: Path) -> None:
    """Its parent died before it could look: what it was told counts, not who its parent is now."""
    body = (
        "import sys, time; from bi_harness.engine.orphan import die_with_parent; "
        "die_with_parent(2**22 - 1); time.sleep(600)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", body], env=standin.environment(), start_new_session=True
    )
    assert process.wait(timeout=10) == -signal.SIGKILL
    assert marked(standin.mark) == []


@pytest.mark.parametrize("place", ["file", "/proc", "/dev/null"])
def test_a_folder_that_cannot_be_made(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").touch()
    out = tmp_path / "file" if place == "file" else Path(place)
    with pytest.raises(UsageError, match="Choose another with --out") as caught:
        make_run_dir(out, "cpu")
    assert caught.value.exit_code == ExitCode.USAGE


def test_each_run_has_a_folder_of_its_own(tmp_path: Path) -> None:
    folders = {make_run_dir(tmp_path, "cpu") for _ in range(20)}
    assert len(folders) == 20
    assert all((folder / "logs").is_dir() and folder.parent.name == "cpu" for folder in folders)
