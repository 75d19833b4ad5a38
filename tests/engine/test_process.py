"""Real process trees: when stop() returns, nothing of them is left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from bi_harness.engine import process
from bi_harness.errors import InfrastructureError

DEAF = "import signal as s; s.signal(s.SIGTERM, s.SIG_IGN); s.signal(s.SIGINT, s.SIG_IGN)"
SLEEP = "import time; time.sleep(600)"


class Tree:
    """Starts trees, reads the pids that they write, and clears up after a failed test."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.started: list[subprocess.Popen[bytes]] = []

    def start(self, code: str) -> subprocess.Popen[bytes]:
        """Run ``code``, in which ``child(code, **options)`` starts a process and ``ready()`` says go."""
        helpers = f"""
import os, subprocess, sys, time
def note(pid):
    with open({str(self.folder / "pids")!r}, "a") as file:
        file.write(f"{{pid}}\\n")
def child(code, **options):
    made = subprocess.Popen([sys.executable, "-c", code], **options)
    note(made.pid)
    return made
def ready():
    open({str(self.folder / "ready")!r}, "w").close()
note(os.getpid())
"""
        made = process.start(
            [sys.executable, "-c", helpers + code], env=dict(os.environ), log=self.folder / "log" / "out.log"
        )
        self.started.append(made)
        until(lambda: (self.folder / "ready").exists())
        return made

    def pids(self) -> list[int]:
        return [int(line) for line in (self.folder / "pids").read_text().split()]

    def alive(self) -> list[int]:
        """Of all that were started, those that still run (a zombie does not)."""
        return [pid for pid in self.pids() if runs(pid)]


def runs(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def until(condition: object, seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline, "it never came about"
        time.sleep(0.02)


@pytest.fixture
def tree(tmp_path: Path) -> Iterator[Tree]:
    made = Tree(tmp_path)
    yield made
    for pid in made.pids() if (tmp_path / "pids").exists() else []:
        if runs(pid):
            os.kill(pid, signal.SIGKILL)
    for started in made.started:
        started.wait(10)


def test_a_process_that_ends_by_itself_is_not_killed(tree: Tree) -> None:
    made = tree.start("ready(); time.sleep(0.3); sys.exit(3)")
    process.stop(made, grace_s=20)
    assert made.returncode == 3


def test_one_that_does_not_end_is_killed_after_the_grace(tree: Tree) -> None:
    made = tree.start(f"{DEAF}; ready(); {SLEEP}")
    started = time.monotonic()
    process.stop(made, grace_s=0.5)
    assert 0.5 <= time.monotonic() - started < 10
    assert made.returncode == -signal.SIGKILL
    assert tree.alive() == []


@pytest.mark.parametrize("grace_s", [0, 0.3])
def test_children_and_grandchildren_in_any_session_end_with_it(tree: Tree, grace_s: float) -> None:
    made = tree.start(
        f"""
grandchild = {DEAF + "; " + SLEEP!r}
middle = f"import subprocess as s, sys; p = s.Popen([sys.executable, '-c', {{grandchild!r}}]"
middle += ", start_new_session=True); print(p.pid, flush=True); import time; time.sleep(600)"
child({DEAF + "; " + SLEEP!r})
child({SLEEP!r}, start_new_session=True)
between = child(middle, start_new_session=True, stdout=subprocess.PIPE)
note(int(between.stdout.readline()))
ready()
{SLEEP}
"""
    )
    assert len(tree.alive()) == 5
    process.stop(made, grace_s=grace_s)
    assert tree.alive() == []


def test_children_that_outlive_a_leader_that_ends_by_itself_are_killed(tree: Tree) -> None:
    made = tree.start(f"child({SLEEP!r}); child({SLEEP!r}, start_new_session=True); ready(); time.sleep(0.5)")
    process.stop(made, grace_s=20)
    assert made.returncode == 0
    assert tree.alive() == []


def test_what_was_seen_below_a_leader_ends_though_it_died_before(tree: Tree) -> None:
    made = tree.start(f"child({SLEEP!r}, start_new_session=True); ready(); {SLEEP}")
    known = process.sessions_below(made.pid)
    made.kill()
    made.wait()
    assert len(tree.alive()) == 1
    process.stop(made, grace_s=0, known=known)
    assert tree.alive() == []


def test_sessions_below_what_a_dead_leader_left_are_found(tree: Tree) -> None:
    made = tree.start(
        f"""
middle = "import subprocess as s, sys; p = s.Popen([sys.executable, '-c', {SLEEP!r}]"
middle += ", start_new_session=True); print(p.pid, flush=True); import time; time.sleep(600)"
between = child(middle, stdout=subprocess.PIPE)
note(int(between.stdout.readline()))
ready()
{SLEEP}
"""
    )
    made.kill()
    made.wait()
    assert len(tree.alive()) == 2
    process.stop(made, grace_s=0)
    assert tree.alive() == []


def test_a_zombie_does_not_hold_it_up(tree: Tree) -> None:
    made = tree.start(f"child('pass'); time.sleep(0.5); ready(); {SLEEP}")
    zombie = tree.pids()[1]
    until(lambda: psutil.Process(zombie).status() == psutil.STATUS_ZOMBIE)
    started = time.monotonic()
    process.stop(made, grace_s=0)
    assert time.monotonic() - started < 5


def test_stopping_twice_is_harmless(tree: Tree) -> None:
    made = tree.start(f"ready(); {SLEEP}")
    process.stop(made, grace_s=0)
    process.stop(made, grace_s=0)
    assert made.returncode == -signal.SIGKILL


def test_others_are_left_alone(tree: Tree, tmp_path: Path) -> None:
    bystander = subprocess.Popen([sys.executable, "-c", SLEEP])
    try:
        process.stop(tree.start(f"child({SLEEP!r}); ready(); {SLEEP}"), grace_s=0)
        assert bystander.poll() is None
    finally:
        bystander.kill()
        bystander.wait()


def test_what_it_prints_is_appended_to_the_log_and_stdin_is_empty(tmp_path: Path) -> None:
    log = tmp_path / "new" / "folder" / "out.log"
    for _ in range(2):
        code = "import sys; print('out', sys.stdin.read()); sys.stderr.write('err\\n')"
        assert process.start([sys.executable, "-c", code], env=dict(os.environ), log=log).wait(20) == 0
    assert sorted(log.read_text().split()) == ["err", "err", "out", "out"]


def test_it_has_the_given_environment_alone_and_leads_a_session(tmp_path: Path) -> None:
    code = "import os; print(os.environ.get('HOME'), os.environ['X'], os.getsid(0) == os.getpid())"
    log = tmp_path / "out.log"
    assert process.start([sys.executable, "-c", code], env={"X": "1"}, log=log).wait(20) == 0
    assert log.read_text().split() == ["None", "1", "True"]


@pytest.mark.parametrize("program", ["/no/such/python", "/etc/passwd", "/"])
def test_a_program_that_cannot_start_is_named(tmp_path: Path, program: str) -> None:
    with pytest.raises(InfrastructureError, match=f"cannot start {program}"):
        process.start([program], env={}, log=tmp_path / "out.log")


def test_a_log_that_cannot_be_written_is_an_error_of_the_surroundings(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InfrastructureError, match="cannot start"):
        process.start([sys.executable, "-c", ""], env={}, log=tmp_path / "file" / "out.log")


@pytest.mark.parametrize(
    ("code", "text"),
    [
        (None, "still running"),
        (0, "exit code 0"),
        (3, "exit code 3"),
        (-6, "killed by SIGABRT"),
        (-9, "killed by SIGKILL (often the kernel's out-of-memory killer)"),
        (-11, "killed by SIGSEGV"),
        (-40, "killed by signal 40"),
    ],
)
def test_an_exit_in_words(code: int | None, text: str) -> None:
    assert process.describe_exit(code) == text


def test_shared_memory_goes_with_the_processes_that_had_it(tree: Tree) -> None:
    shared = """
from multiprocessing import shared_memory
made = shared_memory.SharedMemory(create=True, size=4096)
open({name!r}, "w").write(made.name)
"""
    name = tree.folder / "name"
    started = tree.start(f"{DEAF}\n{shared.format(name=str(name))}\nready(); {SLEEP}")
    segment = Path("/dev/shm") / name.read_text()
    assert segment.exists()
    began = time.monotonic()
    process.stop(started, grace_s=0)
    assert not segment.exists()
    assert process.members({started.pid}) == []
    assert time.monotonic() - began < process._SWEEP_S, "the tracker ended by itself"


def test_a_tracker_that_does_not_end_is_killed(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "_SWEEP_S", 0.5)
    stuck = f"{DEAF}; {SLEEP} # multiprocessing.resource_tracker"
    started = tree.start(f"child({stuck!r}); ready(); {SLEEP}")
    process.stop(started, grace_s=0)
    assert tree.alive() == []
