"""What vLLM notes of a model's class, found out by a fork.

vLLM looks at the class in a process of its own, so that CUDA is not initialised for it, and that process
imports vLLM anew, which takes as long as half of a start (28 s of the first one on an H200). An engine that
was forked with vLLM imported, and has not touched CUDA yet, can have a fork do it. What is noted is the same,
and no compiled code.

Worker side: standard library alone.
"""

from __future__ import annotations

import os
import pickle
import select
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Callable
from typing import Any

REGISTRY = "vllm.model_executor.models.registry"
NAME = "_run_in_subprocess"
LIMIT_S = 120.0


def in_forks() -> None:
    """Have vLLM of this process look at classes in forks, where it has what that takes (0.25 to 0.32)."""
    registry: Any = sys.modules.get(REGISTRY)
    ordinary = getattr(registry, NAME, None)
    if ordinary is not None:
        setattr(registry, NAME, lambda look: by_fork(look, ordinary))


def by_fork(look: Callable[[], Any], ordinary: Callable[[Callable[[], Any]], Any]) -> Any:
    """What ``look`` gives in a fork; ``ordinary`` does it where this process has touched CUDA already, or
    where the fork failed, and then tells why."""
    torch: Any = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        return ordinary(look)
    read, write = os.pipe()
    with warnings.catch_warnings():
        # The thread that watches the parent is none that holds anything.
        warnings.simplefilter("ignore", DeprecationWarning)
        pid = os.fork()
    if pid == 0:
        _tell(look, write)
    os.close(write)
    try:
        data = _read(read, time.monotonic() + LIMIT_S)
    finally:
        os.close(read)
        os.kill(pid, signal.SIGKILL)  # Where it did not end by itself.
        os.waitpid(pid, 0)
    # Of our own fork, through a pipe that nobody else has; vLLM's own process answers so, too.
    return pickle.loads(data) if data else ordinary(look)  # noqa: S301


def _tell(look: Callable[[], Any], write: int) -> None:
    """In the fork: it says nothing where it cannot."""
    try:
        data = memoryview(pickle.dumps(look()))
        while data:
            data = data[os.write(write, data) :]
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)
    os._exit(0)


def _read(fd: int, deadline: float) -> bytes:
    """All that comes until the other end is closed; nothing where that takes too long."""
    data = bytearray()
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    while poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
        if not (part := os.read(fd, 1 << 16)):
            return bytes(data)
        data += part
    return b""
