"""A unit's process, however it ends: its checks get a result or an error, and nothing of it is left."""

from __future__ import annotations

import time

import pytest

from tests.runner.standin import Standin

FORK = """
import multiprocessing
subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
time.sleep(0.5)  # longer than the runner takes between two looks
"""


def test_a_sound_unit(standin: Standin) -> None:
    outcome = standin.write(one="good(check, workload)", two="good(check, workload)").unit()
    assert {name: r.status for name, r in outcome.results.items()} == {"one": "pass", "two": "pass"}
    assert outcome.ended == ("completed", "")
    assert outcome.verdict == "CERTIFIED"
    assert [e.type for e in outcome.events][:3] == ["run_started", "unit_started", "check_started"]
    progress = [e for e in outcome.events if e.type == "check_progress" and e.check == "one"]
    assert all(e.done <= e.of for e in progress)


def test_checks_run_in_the_order_of_the_yaml(standin: Standin) -> None:
    standin.write(**dict.fromkeys(("zulu", "alpha", "mike"), "good(check, workload)"))
    module = standin.suite / "test_core.py"
    head, *tests = module.read_text().split("\n\n\n\ndef test_")
    module.write_text("\n\n\n\ndef test_".join([head, *reversed(tests)]) + "\n")
    began = [e.check for e in standin.unit().events if e.type == "check_started"]
    assert began == ["zulu", "alpha", "mike"]


def test_a_unit_that_finds_a_difference(standin: Standin) -> None:
    outcome = standin.write(one="good(check, workload)", two="bad(check, workload)").unit()
    assert {name: r.status for name, r in outcome.results.items()} == {"one": "pass", "two": "fail"}
    assert outcome.ended == ("completed", "")
    assert outcome.verdict == "NOT_CERTIFIED"


DIES = {
    "os._exit(0)": ("os._exit(0)", "without a result"),
    "os._exit(1)": ("os._exit(1)", "without a result"),
    "os._exit(7)": ("os._exit(7)", "exit code 7"),
    "SIGKILL": ("os.kill(os.getpid(), signal.SIGKILL)", "killed by SIGKILL"),
    "SIGTERM": ("os.kill(os.getpid(), signal.SIGTERM)", "killed by SIGTERM"),
    "segfault": ("ctypes.string_at(0)", "killed by SIGSEGV"),
    "abort": ("os.abort()", "killed by SIGABRT"),
    "KeyboardInterrupt": ("raise KeyboardInterrupt", "exit code 2"),
    "pytest.exit": ("pytest.exit('enough')", "exit code"),
    "pytest.exit(0)": ("pytest.exit('enough', returncode=0)", "without a result"),
}


@pytest.mark.parametrize(("how", "reason"), DIES.values(), ids=DIES.keys())
def test_a_unit_that_dies(standin: Standin, how: str, reason: str) -> None:
    outcome = standin.write(before="good(check, workload)", dies=how, after="good(check, workload)").unit()
    results = outcome.results
    assert results["before"].status == "pass"
    for name in ("dies", "after"):
        assert results[name].status == "error", name
        assert reason in results[name].reason
        assert results[name].log == "logs/unit.log"
    assert "test_core.py" in standin.log()
    assert outcome.verdict == "INCONCLUSIVE"


def test_a_unit_that_dies_leaves_nothing_behind(standin: Standin) -> None:
    for how in ("os._exit(3)", "ctypes.string_at(0)", "time.sleep(600)", "good(check, workload)"):
        standin.write(dies=FORK + how).unit(timeout_s=4)
        assert standin.marked() == [], how


def test_a_unit_that_hangs_is_killed(standin: Standin) -> None:
    started = time.monotonic()
    outcome = standin.write(before="good(check, workload)", hangs="time.sleep(600)").unit(timeout_s=4)
    assert time.monotonic() - started < 30
    assert outcome.ended == ("timed_out", "the unit was killed after 4 s")
    assert outcome.results["before"].status == "pass"
    assert (outcome.results["hangs"].status, outcome.results["hangs"].reason) == (
        "error",
        "the unit was killed after 4 s",
    )
    assert outcome.verdict == "INCONCLUSIVE"


def test_a_unit_that_ignores_sigterm_and_hangs_is_killed(standin: Standin) -> None:
    body = "[signal.signal(s, signal.SIG_IGN) for s in (2, 15)]\ntime.sleep(600)"
    assert standin.write(hangs=body).unit(timeout_s=4).ended[0] == "timed_out"


def test_a_unit_that_ends_badly_after_its_checks_certifies_nothing(standin: Standin) -> None:
    standin.write(one="good(check, workload)")
    for text, outcome in (("os._exit(9)", "crashed"), ("time.sleep(600)", "timed_out")):
        (standin.suite / "conftest.py").write_text(
            f"import os, time\ndef pytest_sessionfinish():\n    {text}\n"
        )
        got = standin.unit(timeout_s=4)
        assert got.results["one"].status == "pass"
        assert got.ended[0] == outcome
        assert got.verdict == "INCONCLUSIVE"


NO_PASS = {
    "says nothing": ("pass", "ended without a conclusion"),
    "returns": ("return", "ended without a conclusion"),
    "compares and does not conclude": (
        "check.compare(Stub('treatment'), workload)\ncheck.compare(Stub('control'), workload)",
        "ended without a conclusion",
    ),
    "raises": ("raise ValueError('no such kernel')", "no such kernel"),
    "raises without words": ("raise ValueError", "ValueError"),
    "asserts": ("assert 1 == 2", "assert 1 == 2"),
    "skips": ("pytest.skip('not today')", "not today"),
    "skips after its pass": ("good(check, workload)\npytest.skip('not today')", "not today"),
    "fails after its pass": ("good(check, workload)\npytest.fail('after all')", "after all"),
    "raises after its pass": ("good(check, workload)\nraise ValueError('after all')", "after all"),
    "xfails": ("pytest.xfail('known')", "known"),
    "xfails after its pass": ("good(check, workload)\npytest.xfail('known')", "known"),
    "is skipped by a mark": ("@pytest.mark.skip(reason='later')\n---\ngood(check, workload)", "later"),
    "is skipped by a condition": (
        "@pytest.mark.skipif(True, reason='later')\n---\ngood(check, workload)",
        "later",
    ),
    "is not run by a mark": ("@pytest.mark.xfail(run=False)\n---\ngood(check, workload)", "NOTRUN"),
    "is expected to fail": ("@pytest.mark.xfail\n---\nraise ValueError('x')", "x"),
    "passes where a failure is expected": (
        "@pytest.mark.xfail(strict=True)\n---\nraise RuntimeError('y')",
        "y",
    ),
    "asks for a fixture that is not there": (
        "@pytest.mark.usefixtures('nowhere')\n---\ngood(check, workload)",
        "nowhere",
    ),
    "concludes on nothing": ("check.conclude()", "compared nothing"),
    "has no control": ("check.compare(Stub('treatment'), workload)\ncheck.conclude()", "did not run"),
    "has a control that does not diverge": (
        "same = Stub('control')\nsame.off = False\ngood(check, workload, same)",
        "has no power",
    ),
    "compares the treatment again": (
        "check.compare(Stub('treatment'), workload)\ncheck.compare(Stub('treatment'), workload)",
        "a second time",
    ),
    "concludes again": ("good(check, workload)\ncheck.conclude()", "a second time"),
    "ends by SystemExit": ("sys.exit(0)", "0"),
}


def test_what_is_no_pass(standin: Standin) -> None:
    names = {f"n{number}": how for number, (how, _) in enumerate(NO_PASS.values())}
    outcome = standin.write(**names, last="good(check, workload)").unit()
    assert outcome.results["last"].status == "pass"
    for (what, (_, reason)), name in zip(NO_PASS.items(), names, strict=True):
        result = outcome.results[name]
        assert result.status in ("error", "inconclusive"), f"{what}: {result.status}"
        assert reason in result.reason, f"{what}: {result.reason}"
    assert outcome.verdict == "INCONCLUSIVE"


STAYS_A_FAILURE = {
    "is expected to fail": "@pytest.mark.xfail\n---\nbad(check, workload)",
    "swallows it": "try:\n    bad(check, workload)\nexcept BaseException:\n    pass",
    "swallows it and tries again": (
        "try:\n    bad(check, workload)\nexcept BaseException:\n    pass\ngood(check, workload)"
    ),
    "skips then": "try:\n    bad(check, workload)\nfinally:\n    pytest.skip('not today')",
    "xfails then": "try:\n    bad(check, workload)\nfinally:\n    pytest.xfail('known')",
    "raises before it concludes": (
        "check.compare(Stub('treatment', sound=False), workload)\nraise ValueError('boom')"
    ),
    "compares until it is equal": (
        "check.compare(Stub('treatment', sound=False), workload)\n"
        "check.compare(Stub('treatment'), workload)\n"
        "check.compare(Stub('control'), workload)\ncheck.conclude()"
    ),
}


def test_what_stays_a_failure(standin: Standin) -> None:
    names = {f"n{number}": how for number, how in enumerate(STAYS_A_FAILURE.values())}
    outcome = standin.write(**names).unit()
    for what, name in zip(STAYS_A_FAILURE, names, strict=True):
        result = outcome.results[name]
        assert result.status == "fail", f"{what}: {result.status}: {result.reason}"
        assert "4 of 4 prompts differ" in result.reason
    assert outcome.verdict == "NOT_CERTIFIED"


CONFTEST = {
    "deselects": "def pytest_collection_modifyitems(items): items[:] = []",
    "does not call": "def pytest_pyfunc_call(pyfuncitem): return True",
    "protocol of its own": "def pytest_runtest_protocol(item, nextitem): return True",
    "says passed": (
        "import pytest\n@pytest.hookimpl(wrapper=True, tryfirst=True)\n"
        "def pytest_runtest_makereport(item, call):\n"
        "    report = yield\n    report.outcome = 'passed'\n    report.longrepr = None\n    return report"
    ),
    "swallows exceptions": (
        "import pytest\n@pytest.hookimpl(wrapper=True)\n"
        "def pytest_pyfunc_call(pyfuncitem):\n    try:\n        return (yield)\n"
        "    except BaseException:\n        return True"
    ),
    "marks all as xfail": (
        "import pytest\ndef pytest_collection_modifyitems(items):\n"
        "    for item in items: item.add_marker(pytest.mark.xfail)"
    ),
    "marks all as skip": (
        "import pytest\ndef pytest_collection_modifyitems(items):\n"
        "    for item in items: item.add_marker(pytest.mark.skip)"
    ),
    "ignores the module": "collect_ignore = ['test_core.py']",
    "exit status 0": "def pytest_sessionfinish(session): session.exitstatus = 0",
    "breaks": "raise RuntimeError('conftest')",
}


@pytest.mark.parametrize("text", CONFTEST.values(), ids=CONFTEST.keys())
def test_no_trick_of_a_conftest_makes_a_pass(standin: Standin, text: str) -> None:
    standin.write(raises="raise ValueError('boom')", differs="bad(check, workload)")
    (standin.suite / "conftest.py").write_text(text + "\n")
    outcome = standin.unit()
    assert not {r.status for r in outcome.results.values()} & {"pass", "skip", "waived"}
    assert outcome.verdict != "CERTIFIED"
    assert all(r.reason for r in outcome.results.values())


def test_a_check_that_runs_twice_is_refused(standin: Standin) -> None:
    twice = "@pytest.mark.parametrize('n', [1, 2])\n---\ngood(check, workload)"
    standin.write(one=twice, two="good(check, workload)")
    module = standin.suite / "test_core.py"
    module.write_text(module.read_text().replace("test_one(cell,", "test_one(n, cell,"))
    outcome = standin.unit()
    assert outcome.ended[0] == "crashed"
    assert {r.status for r in outcome.results.values()} == {"error"}
    assert "more than once" in outcome.results["one"].reason


BROKEN = {
    "syntax": "def test_one(:\n",
    "import": "import no_such_module\n",
    "no such test": "def test_other(cell, check): pass\n",
    "a test that suite.yaml does not name": (
        "def test_one(cell, check): pass\ndef test_more(cell, check): pass\n"
    ),
    "empty": "",
    "exits": "import os; os._exit(0)\n",
    "module skip": "import pytest; pytest.skip('no', allow_module_level=True)\n",
}


@pytest.mark.parametrize("text", BROKEN.values(), ids=BROKEN.keys())
def test_a_module_that_cannot_be_collected(standin: Standin, text: str) -> None:
    standin.write(one="good(check, workload)")
    (standin.suite / "test_core.py").write_text(text)
    outcome = standin.unit()
    assert outcome.results["one"].status == "error"
    assert outcome.results["one"].reason
    assert outcome.verdict == "INCONCLUSIVE"


def test_the_yaml_must_be_what_the_run_began_with(standin: Standin) -> None:
    standin.write(one="good(check, workload)")
    task = standin.task()
    (standin.root / "models.yaml").write_text((standin.root / "models.yaml").read_text() + "\n# new\n")
    standin.task = lambda timeout_s=60: task  # type: ignore[method-assign]
    outcome = standin.unit()
    assert outcome.ended[0] == "crashed"
    assert "the YAML files changed" in outcome.results["one"].reason


@pytest.mark.parametrize(
    "line",
    [
        "not json\\n",
        '{"type": "surprise"}\\n',
        '{"type": "run_finished", "time": "", "interrupted": false}\\n',
    ],
)
@pytest.mark.parametrize("read", ["at once", "after its end"])
def test_a_unit_that_writes_nonsense_into_its_journal(
    standin: Standin, line: str, read: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bi_harness.runner.local.POLL_S", 0.02 if read == "at once" else 60)
    body = f"""
from pathlib import Path
path = Path({str(standin.root)!r}) / "run/.work/unit/events.jsonl"
with open(path, "a") as journal:
    journal.write('{line}')
good(check, workload)
"""
    outcome = standin.write(one=body, two="good(check, workload)").unit()
    assert outcome.ended[0] == "crashed"
    assert "journal is damaged" in outcome.ended[1]
    assert outcome.results["two"].status == "error"
    assert outcome.verdict == "INCONCLUSIVE"


def test_nothing_of_the_host_reaches_a_unit(standin: Standin) -> None:
    """Neither options nor plugins: each of these would change or break the run."""
    standin.write(one="good(check, workload)")
    (standin.root / "site").mkdir()
    (standin.root / "site" / "spoiler.py").write_text(
        "import pytest\n\n@pytest.hookimpl(wrapper=True)\n"
        "def pytest_runtest_call(item):\n    yield\n    pytest.fail('spoiled')\n"
    )
    info = standin.root / "site" / "spoiler-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: spoiler\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[pytest11]\nspoiler = spoiler\n")
    (standin.root / "pytest.ini").write_text("[pytest]\naddopts = -p spoiler --no-such-option\n")
    (standin.root / "suites" / "pytest.ini").write_text("[pytest]\naddopts = -p spoiler --no-such-option\n")
    outcome = standin.unit(
        environ={
            "PYTHONPATH": f"{standin.root / 'site'}",
            "PYTEST_ADDOPTS": "-p spoiler --deselect=test_core.py",
            "PYTEST_PLUGINS": "spoiler",
        }
    )
    assert outcome.results["one"].status == "pass", standin.log()
    assert outcome.ended == ("completed", "")


def test_a_stop_that_is_asked_for(standin: Standin) -> None:
    standin.write(one="good(check, workload)", two=FORK + "time.sleep(600)", three="good(check, workload)")
    journal = standin.root / "run/.work/unit/events.jsonl"
    began = time.monotonic()

    def stopped() -> bool:
        return journal.exists() and '"two"' in journal.read_text()

    outcome = standin.unit(stopped=stopped)
    assert time.monotonic() - began < 30
    assert outcome.ended == ("interrupted", "the run was interrupted")
    assert outcome.results["one"].status == "pass"
    assert {outcome.results[n].reason for n in ("two", "three")} == {"the run was interrupted"}
    assert standin.marked() == []
