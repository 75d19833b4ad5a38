"""One process at a time on a run's folder, and nothing left of an earlier one."""

from __future__ import annotations

import errno
import fcntl
import os
import subprocess
import sys
from pathlib import Path

import pytest

from bi_harness.engine.step_probe import STEP_LOG_VARIABLE
from bi_harness.errors import InfrastructureError, UsageError
from bi_harness.exits import ExitCode
from bi_harness.runner.hold import held, leftovers, unit_folder, wait_until_gone

HOLDS = """
import sys, time
from pathlib import Path
from bi_harness.runner.hold import held
with held(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    path = tmp_path / "20260101T000000Z-abcdef" / "events.jsonl"
    path.parent.mkdir()
    path.touch()
    return path


def test_a_second_one_is_refused_with_the_first_ones_number(journal: Path) -> None:
    first = subprocess.Popen([sys.executable, "-c", HOLDS, str(journal)], stdout=subprocess.PIPE)
    assert first.stdout is not None
    try:
        assert first.stdout.readline() == b"held\n"
        with pytest.raises(UsageError, match=rf"a run is going on in .* \(process {first.pid}\)") as caught:
            held(journal).__enter__()
        assert caught.value.exit_code == ExitCode.USAGE
    finally:
        first.kill()
        first.communicate()
    with held(journal):
        pass  # The kernel let go of it.


def test_it_is_let_go_of(journal: Path) -> None:
    for _ in range(3):
        with held(journal), pytest.raises(UsageError, match="not to be seen from here"), held(journal):
            pass


def test_it_leaves_no_file_and_changes_none(journal: Path) -> None:
    journal.write_text("text")
    with held(journal):
        pass
    assert [p.name for p in journal.parent.iterdir()] == ["events.jsonl"]
    assert journal.read_text() == "text"


def test_what_is_not_there_cannot_be_held(tmp_path: Path) -> None:
    with pytest.raises(InfrastructureError, match="cannot write the journal"):
        held(tmp_path / "events.jsonl").__enter__()


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK])
def test_a_file_system_without_locks(journal: Path, number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A new run goes on in the folder that it made; nothing is resumed where two could be."""

    def flock(fd: int, how: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", flock)
    with held(journal, new=True):
        pass
    with pytest.raises(InfrastructureError, match="cannot lock the journal"):
        held(journal).__enter__()


def process(*words: str, **environ: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-c", "import time; time.sleep(600)", *words], env={**os.environ, **environ}
    )


def test_units_and_engines_of_a_folder_are_found_by_where_they_work(journal: Path) -> None:
    run, elsewhere = journal.parent, journal.parent.with_name("other")
    here, there = unit_folder(run, 1, "a/b"), unit_folder(elsewhere, 1, "a/b")
    assert here == run / ".work" / "attempt-1" / "a_b"
    found = [process("--bi-unit-file", str(here / "unit.json")), process(**{STEP_LOG_VARIABLE: str(here)})]
    others = [
        process("--bi-unit-file", str(there / "unit.json")),
        process(**{STEP_LOG_VARIABLE: str(there)}),
        process(str(here / "unit.json")),  # somebody looks at a file
    ]
    try:
        assert {p.pid for p in leftovers(run)} == {p.pid for p in found}
        with pytest.raises(InfrastructureError, match=f"still there: .*{found[0].pid}"):
            wait_until_gone(run, timeout_s=0.3)
        for one in found:
            one.kill()
            one.wait()
        wait_until_gone(run, timeout_s=5)
    finally:
        for one in [*found, *others]:
            one.kill()
            one.wait()
