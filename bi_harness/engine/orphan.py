"""A process that must not outlive the one that started it. Both sides: standard library alone."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

PARENT_POLL_S = 0.5
_TRACKER = b"multiprocessing.resource_tracker"


def die_with_parent(parent: int) -> None:
    """Kill this process's whole group once ``parent`` is no longer its parent, also when it is gone already.

    For a process that leads its session: engines and the process of a unit. What those started in sessions of
    their own watches its parent in turn.
    """
    die_when(lambda: os.getppid() != parent)


def die_when(alone: Callable[[], bool]) -> None:
    """Kill this process's whole group once ``alone`` says so; it is asked all the time, from a thread."""

    def watch() -> None:
        while not alone():
            time.sleep(PARENT_POLL_S)
        end_group()

    threading.Thread(target=watch, name="bi-harness-parent-watch", daemon=True).start()


def ended(pidfd: int, timeout_s: float | None = 0.0) -> bool:
    """Whether the process of a pidfd has ended, waiting up to so long (``None``: until then)."""
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(None if timeout_s is None else max(0.0, timeout_s) * 1000))


def end_group() -> None:
    """Kill this process and all of its group but Python's resource tracker. That one ends by itself once the
    others are gone, and removes the shared memory that they had no time to remove."""
    # All are held before the first one is killed, so that none starts what is killed anew; looked for again,
    # since one may have forked meanwhile.
    for number in (signal.SIGSTOP, signal.SIGSTOP, signal.SIGKILL, signal.SIGKILL):
        for pid in _others():
            with contextlib.suppress(OSError):
                os.kill(pid, number)
    os.kill(os.getpid(), signal.SIGKILL)


def _others() -> Iterator[int]:
    group = os.getpgrp()
    for folder in Path("/proc").iterdir():
        if not folder.name.isdecimal() or (pid := int(folder.name)) == os.getpid():
            continue
        with contextlib.suppress(OSError):
            if os.getpgid(pid) == group and _TRACKER not in (folder / "cmdline").read_bytes():
                yield pid
