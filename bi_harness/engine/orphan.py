"""A process that must not outlive the one that started it. Both sides: standard library alone."""

from __future__ import annotations

import os
import signal
import threading
import time

PARENT_POLL_S = 0.5


def die_with_parent(parent: int) -> None:
    """Kill this process's whole group once ``parent`` is no longer its parent, also when it is gone already.

    For a process that leads its session: engines and the process of a unit. What those started in sessions of
    their own watches its parent in turn.
    """

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(PARENT_POLL_S)
        os.killpg(os.getpgrp(), signal.SIGKILL)

    threading.Thread(target=watch, name="bi-harness-parent-watch", daemon=True).start()
