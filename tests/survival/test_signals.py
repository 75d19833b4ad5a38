"""Told to stop with ten seconds to live, as a CI agent does it; stopped where it stands; and in a hurry."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

import pytest

from bi_harness.certificate.build import build
from bi_harness.exits import ExitCode
from bi_harness.report.write import write_reports
from bi_harness.runner.run import StopSignals, stop_signals
from tests.certificate.journals import JOURNAL, sound
from tests.runner.standin import Standin, ended, wait_for
from tests.survival.runs import GOOD, folder, resume, started, statement

# What an engine is, and one that hears no signal.
DEAF_ENGINE = """
watch = "import os, signal, sys, time; from bi_harness.engine.orphan import die_with_parent; "
watch += "[signal.signal(s, signal.SIG_IGN) for s in (1, 2, 15)]; die_with_parent(int(sys.argv[1])); "
watch += "time.sleep(600)"
subprocess.Popen([sys.executable, "-c", watch, str(os.getpid())], start_new_session=True)
[signal.signal(s, signal.SIG_IGN) for s in (1, 2, 15)]
time.sleep(600)
"""


def test_ten_seconds_are_enough(standin: Standin) -> None:
    """SIGTERM, ten seconds, SIGKILL: by then the engines are gone and the report is written."""
    standin.write(one=GOOD, two=DEAF_ENGINE)
    process = started(standin, "two")
    wait_for(lambda: len(standin.marked()) >= 3, 20, "the engine")
    sent = time.monotonic()
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=10)
    assert time.monotonic() - sent < 10
    assert process.returncode == ExitCode.INTERRUPTED, err
    assert standin.marked() == []
    told = statement(folder(standin)).predicate.bi_harness
    assert (told.verdict, told.interrupted) == ("INCONCLUSIVE", True)
    assert (folder(standin) / "junit.xml").is_file()


def test_a_second_signal_leaves_it_at_the_certificate(tmp_path: Path) -> None:
    told = build(sound(), JOURNAL)
    with stop_signals() as stopped:
        assert not stopped()
        os.kill(os.getpid(), signal.SIGTERM)
        assert stopped()
        assert not stopped.again()
        os.kill(os.getpid(), signal.SIGINT)
        assert stopped.again()
        assert list(write_reports(told, tmp_path, enough=stopped.again)) == ["certificate.json"]
    assert [p.name for p in tmp_path.iterdir()] == ["certificate.json"]
    assert len(write_reports(told, tmp_path)) == 5


def test_one_signal_is_no_hurry(tmp_path: Path) -> None:
    wish = StopSignals()
    wish.note(signal.SIGTERM, None)
    assert len(write_reports(build(sound(), JOURNAL), tmp_path, enough=wish.again)) == 5


@pytest.mark.parametrize("what", ["the check", "its engine"])
@pytest.mark.long
def test_what_stands_still_is_ended_by_the_time_limit(standin: Standin, what: str) -> None:
    """No output, no progress, and no signal that it would hear: SIGSTOP."""
    stop = {
        "the check": "os.kill(os.getpid(), signal.SIGSTOP)",
        "its engine": (
            "import bi_harness.engine.orphan\n"
            "engine = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'],"
            " start_new_session=True)\nengine.send_signal(signal.SIGSTOP)\nengine.wait()"
        ),
    }[what]
    began = time.monotonic()
    outcome = standin.write(one=GOOD, two=stop, three=GOOD).unit(timeout_s=6)
    assert time.monotonic() - began < 30
    assert outcome.ended == ("timed_out", "the unit was killed after 6 s")
    assert {n: r.status for n, r in outcome.results.items()} == {
        "one": "pass",
        "two": "error",
        "three": "error",
    }
    assert outcome.verdict == "INCONCLUSIVE"
    assert standin.marked() == []


@pytest.mark.long
def test_a_runner_that_stood_still_goes_on(standin: Standin) -> None:
    """SIGSTOP and SIGCONT of the runner (a laptop that slept, a paused container) change nothing."""
    standin.write(one="time.sleep(2)\n" + GOOD, two=GOOD)
    process = started(standin, "one")
    process.send_signal(signal.SIGSTOP)
    time.sleep(3)
    process.send_signal(signal.SIGCONT)
    _, err = ended(process)
    assert process.returncode == ExitCode.CERTIFIED, err


def test_a_killed_engine_and_a_killed_unit_say_so(standin: Standin) -> None:
    """The message names the signal and what is often behind it; other checks of the run go on."""
    standin.write(one=GOOD, two="os.kill(os.getpid(), signal.SIGKILL)")
    code, out, _ = standin.finish("run", "--json")
    assert code == ExitCode.INCONCLUSIVE
    told = json.loads(out)["certificate"]["predicate"]["bi_harness"]["checks"]
    checks = {c["check"]: c for c in told if c["status"] != "skip"}
    assert "killed by SIGKILL (often the kernel's out-of-memory killer)" in checks["two"]["reason"]
    assert (folder(standin) / checks["two"]["log"]).is_file()
    assert checks["one"]["status"] == "pass"
    # It happens each time: it is an error each time.
    assert resume(standin)[0] == ExitCode.INCONCLUSIVE
