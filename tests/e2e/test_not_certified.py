"""Real runs that must not certify: no invariance mode, and engines that fail in the middle."""

from __future__ import annotations

import subprocess
import textwrap
import time
import uuid
from pathlib import Path

import pytest

from bi_harness.exits import ExitCode
from tests.e2e.real import Harness, Ran, of_run
from tests.runner.standin import wait_for

pytestmark = pytest.mark.engine

# A vLLM plugin that lets the treatment fail at its 20th step, by what the unit's folder is called.
FAULTS = """
import functools, os, signal, time


def register():
    if os.environ.get("BI_HARNESS_CPU_INVARIANCE") != "1":
        return
    from vllm.v1.core.sched.scheduler import Scheduler

    original = Scheduler.schedule
    if getattr(original, "_fault", False):
        return
    unit = os.environ["BI_HARNESS_STEP_LOG"]
    steps = 0

    @functools.wraps(original)
    def schedule(self, *args, **kwargs):
        nonlocal steps
        steps += 1
        if steps == 20:
            if "fp32" in unit:
                time.sleep(600)
            elif "qwen3-tiny" in unit:
                os.kill(os.getpid(), signal.SIGSEGV)
            else:
                import torch
                raise torch.OutOfMemoryError("tried to allocate 20.00 GiB")
        return original(self, *args, **kwargs)

    schedule._fault = True
    Scheduler.schedule = schedule
"""


def plugin(folder: Path) -> str:
    """The folder for PYTHONPATH."""
    info = folder / "faults-1.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: faults\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[vllm.general_plugins]\nfaults = faults:register\n")
    (folder / "faults.py").write_text(textwrap.dedent(FAULTS))
    return str(folder)


@pytest.fixture(scope="module")
def faulty(harness: Harness) -> Ran:
    """Two units, of two checks each; each unit's treatment fails in another way."""
    return _faulty(harness, "faulty", "qwen3-tiny", "llama-tiny")


@pytest.fixture(scope="module")
def hanging(harness: Harness) -> Ran:
    """A third way."""
    return _faulty(harness, "hanging", "qwen3-tiny-fp32", check_s=20)


def _faulty(harness: Harness, name: str, *models: str, **timeouts: int) -> Ran:
    spec = harness.spec(name, checks=2, **timeouts)
    which = [word for model in models for word in ("--model", model)]
    mode = ("--mode", "eager", "--jobs", "2")
    return harness.run(*spec, *mode, *which, PYTHONPATH=plugin(harness.root / f"faults-{name}"))


@pytest.mark.parametrize(
    ("which", "checks"), [("faulty", 4), pytest.param("hanging", 2, marks=pytest.mark.long)]
)
def test_failing_engines_leave_it_open(which: str, checks: int, request: pytest.FixtureRequest) -> None:
    faulty: Ran = request.getfixturevalue(which)
    assert faulty.code == ExitCode.INCONCLUSIVE, faulty.stderr
    assert faulty.ours["verdict"] == "INCONCLUSIVE"
    assert {c["status"] for c in faulty.checks()} == {"error"}
    assert len(faulty.checks()) == checks
    assert faulty.left == ()


@pytest.mark.parametrize(
    ("which", "model", "reason"),
    [
        ("faulty", "qwen3-tiny", "the treatment engine died (killed by SIGSEGV)"),
        pytest.param(
            *("hanging", "qwen3-tiny-fp32", "the treatment engine did not finish within 20 s"),
            marks=pytest.mark.long,
        ),
        ("faulty", "llama-tiny", "it ran out of memory: OutOfMemoryError: tried to allocate 20.00 GiB"),
    ],
)
def test_the_message_names_what_happened(
    which: str, model: str, reason: str, request: pytest.FixtureRequest
) -> None:
    faulty: Ran = request.getfixturevalue(which)
    first, second = faulty.checks(model=model)
    assert reason in first["reason"]
    assert "an earlier check ended its engine" in second["reason"], "no second chance"
    assert reason in second["reason"]
    for check in (first, second):
        assert check["evidence"] is None
        log = faulty.folder / check["log"]
        assert "treatment" in log.name
        assert log.stat().st_size > 0


@pytest.mark.long
def test_a_device_without_an_invariance_mode_is_not_certified(harness: Harness) -> None:
    ran = harness.run(*harness.spec("stock", invariance="{how: none}"), "--mode", "eager")
    assert ran.code == ExitCode.NOT_CERTIFIED, ran.stderr
    assert (ran.predicate["result"], ran.ours["verdict"]) == ("FAILED", "NOT_CERTIFIED")
    (check,) = ran.checks()
    assert check["status"] == "fail"
    assert check["evidence"]["first_divergence"] is not None
    assert check["evidence"]["max_ulp"] > 0
    assert {a["config"]["invariance"] for a in ran.ours["effective"]} == {False}
    assert ran.left == ()


def test_a_mode_that_does_not_switch_on_is_refused_by_the_engine(harness: Harness) -> None:
    switch = '{how: plugin, on: {BI_HARNESS_CPU_INVARIANCE: "0", X: "1"}, off: {%s}}'
    switch %= 'BI_HARNESS_CPU_INVARIANCE: "0", X: "0"'
    ran = harness.run(*harness.spec("unswitched", invariance=switch), "--mode", "eager")
    assert ran.code == ExitCode.INCONCLUSIVE, ran.stderr
    (check,) = ran.checks()
    assert check["status"] == "error"
    assert "invariance was to be on and is not" in check["reason"]
    assert (ran.folder / check["log"]).stat().st_size > 0
    assert ran.left == ()


def _while_its_engines_start(harness: Harness) -> tuple[subprocess.Popen[str], str, Path]:
    """A run whose two engines are in the middle of their start; its mark and the folder for its reports."""
    mark = uuid.uuid4().hex
    out = harness.root / mark
    spec = harness.spec(f"killed-{mark}")
    only = ("--mode", "eager", "--model", "qwen3-tiny-fp32")
    process = harness.start("run", *spec, *only, mark=mark, out=out)
    wait_for(lambda: sum("engine.worker" in p for p in of_run(mark, out)) >= 2, 60, "two engines")
    time.sleep(6)  # Here vLLM has the process.
    return process, mark, out


def test_no_engine_outlives_a_run_that_is_killed(harness: Harness) -> None:
    process, mark, out = _while_its_engines_start(harness)
    process.kill()
    process.communicate(timeout=30)
    wait_for(lambda: not of_run(mark, out), 5, "all processes gone")


def test_no_engine_outlives_a_run_that_is_terminated(harness: Harness) -> None:
    process, mark, out = _while_its_engines_start(harness)
    process.terminate()
    _, err = process.communicate(timeout=30)
    assert process.returncode == ExitCode.INTERRUPTED, err
    assert of_run(mark, out) == ()


@pytest.mark.long
def test_a_run_that_was_killed_while_engines_started_can_be_resumed(harness: Harness) -> None:
    """``tests/survival`` resumes many more, without engines."""
    process, mark, out = _while_its_engines_start(harness)
    process.kill()
    process.communicate(timeout=30)
    (folder,) = out.glob("cpu/*")
    again = harness.start("run", "--resume", str(folder), mark=mark, out=out)
    _, err = again.communicate(timeout=300)
    assert again.returncode == ExitCode.CERTIFIED, err
    assert of_run(mark, out) == ()
