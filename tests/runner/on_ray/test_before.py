"""What killed units left on a node is gone before the next one starts, and nobody else's is touched."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from bi_harness.runner.on_ray import before
from bi_harness.runner.on_ray.before import clear, new_folder


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(before, "_ALONE_S", 0.3)


def abandoned(**changes: object) -> Path:
    """A folder of a process that is gone."""
    folder = new_folder()
    owner = json.loads((folder / "owner.json").read_text())
    gone = subprocess.Popen([sys.executable, "-c", "pass"])
    gone.wait()
    (folder / "owner.json").write_text(json.dumps({**owner, "pid": gone.pid, **changes}))
    return folder


def engine(folder: Path) -> subprocess.Popen[bytes]:
    """A process that works there, as an engine does."""
    environ = {**os.environ, "BI_HARNESS_STEP_LOG": str(folder / "run" / "steps")}
    return subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], env=environ)


def test_an_engine_that_was_held_for_good_is_ended() -> None:
    folder = abandoned()
    process = engine(folder)
    try:
        process.send_signal(signal.SIGSTOP)
        clear()
        assert process.wait(10) == -signal.SIGKILL
        assert not folder.exists()
    finally:
        process.kill()
        process.wait()


KEPT: dict[str, Callable[[], Path]] = {
    "of a live process": new_folder,
    "of another container": lambda: abandoned(namespace="pid:[1]"),
    "of nobody known": lambda: Path(tempfile.mkdtemp(prefix=before.PREFIX)),
    "damaged": lambda: abandoned(pid="x"),
}


@pytest.mark.parametrize("make", KEPT.values(), ids=KEPT.keys())
def test_what_is_not_known_to_be_left_over_stays(make: Callable[[], Path]) -> None:
    folder = make()
    process = engine(folder)
    try:
        clear()
        assert process.poll() is None
        assert folder.exists()
    finally:
        process.kill()
        process.wait()


def test_a_pid_that_was_given_again_is_another_process() -> None:
    folder = abandoned(pid=os.getpid(), since=1.0)
    clear()
    assert not folder.exists()
