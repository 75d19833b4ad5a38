"""What a process takes along that ends because its parent is gone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from tests.engine.test_process import runs, until

# An engine: it holds shared memory and a child holds more, which Python's resource tracker is to remove.
ENGINE = """
import os, subprocess, sys, time
from multiprocessing import Process
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path
from bi_harness.engine.orphan import die_with_parent

def work(folder):
    held = SharedMemory(create=True, size=4096)
    Path(folder, "child").write_text(f"{os.getpid()} {held.name}")
    time.sleep(600)

folder = sys.argv[2]
die_with_parent(int(sys.argv[1]))
held = SharedMemory(create=True, size=4096)
Process(target=work, args=(folder,)).start()
Path(folder, "engine").write_text(f"{os.getpid()} {held.name}")
time.sleep(600)
"""
PARENT = f"""
import os, subprocess, sys, time
subprocess.Popen([sys.executable, "-c", {ENGINE!r}, str(os.getpid()), sys.argv[1]], start_new_session=True)
time.sleep(600)
"""


def test_its_group_ends_with_it_and_no_shared_memory_is_left(tmp_path: Path) -> None:
    parent = subprocess.Popen([sys.executable, "-c", PARENT, str(tmp_path)])
    try:
        notes = [tmp_path / "engine", tmp_path / "child"]
        until(lambda: all(n.exists() and " " in n.read_text() for n in notes))
        pids = [int(n.read_text().split()[0]) for n in notes]
        memory = [Path("/dev/shm") / n.read_text().split()[1] for n in notes]
        assert all(m.exists() for m in memory)
        group = os.getpgid(pids[0])
        began = time.monotonic()
        parent.send_signal(signal.SIGKILL)
        until(lambda: not any(runs(pid) for pid in pids), 5)
        until(lambda: not any(m.exists() for m in memory), 5)
        until(lambda: not _group(group), 5)
        assert time.monotonic() - began < 8
    finally:
        parent.kill()
        parent.wait()


def _group(group: int) -> list[int]:
    found = []
    for name in os.listdir("/proc"):
        try:
            if name.isdecimal() and os.getpgid(int(name)) == group and runs(int(name)):
                found.append(int(name))
        except OSError:
            continue
    return found
