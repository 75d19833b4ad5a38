"""Process groups that end whole: start in a session of their own, kill, and wait until nothing is left."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import psutil

from bi_harness.errors import InfrastructureError

GONE_TIMEOUT_S = 30.0
_POLL_S = 0.05
_HOLD_S = 0.5
_SWEEP_S = 3.0


class Running(Protocol):
    """A process that leads its session, as ``subprocess.Popen`` has it: started here or forked elsewhere."""

    @property
    def pid(self) -> int:
        """Its number, and that of its session."""

    def poll(self) -> int | None:
        """Its exit code, the negative signal that killed it, or ``None`` while it runs."""

    def wait(self, timeout: float | None = None) -> int:
        """The same, once it is there.

        Raises:
            subprocess.TimeoutExpired: it runs after ``timeout`` seconds.
        """


def start(
    command: Sequence[str], *, env: Mapping[str, str], log: Path, pass_fds: Sequence[int] = ()
) -> subprocess.Popen[bytes]:
    """Start ``command`` as the leader of a new session; stdout and stderr are appended to ``log``.

    Raises:
        InfrastructureError: when the log cannot be written or the program cannot be started.
    """
    try:
        log.parent.mkdir(parents=True, exist_ok=True)
        with open(log, "ab") as out:
            return subprocess.Popen(
                list(command),
                env=dict(env),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                pass_fds=tuple(pass_fds),
                start_new_session=True,
            )
    except OSError as error:
        raise InfrastructureError(f"cannot start {command[0]}: {error}") from error


def stop(process: Running, *, grace_s: float, known: Collection[int] = ()) -> None:
    """Wait ``grace_s`` for a process that was told to end, then kill what is left of it, and see it gone.

    Killed are its session and the sessions of all its descendants: an engine leads a session of its own.

    Args:
        known: what ``sessions_below`` gave while it lived: the descendants of a process that died by itself
            can no longer be found.

    Raises:
        InfrastructureError: when something outlives SIGKILL for ``GONE_TIMEOUT_S``.
    """
    sessions = {process.pid, *known}
    deadline = time.monotonic() + grace_s
    while process.poll() is None and time.monotonic() < deadline:
        # Looked up while it lives: its children belong to nobody once it is gone.
        sessions |= sessions_below(process.pid)
        time.sleep(_POLL_S)
    if process.poll() is None:
        sessions |= sessions_below(process.pid)
    end_sessions(sessions)
    process.wait()


def end_sessions(which: Collection[int]) -> None:
    """Kill all processes of some sessions and of those of their descendants, and see them gone.

    Raises:
        InfrastructureError: when something outlives SIGKILL for ``GONE_TIMEOUT_S``.
    """
    sessions = set(which)
    deadline = time.monotonic() + GONE_TIMEOUT_S
    sweeping = time.monotonic() + _SWEEP_S
    while left := members(sessions):
        for member in left:
            if _sweeps(member) and time.monotonic() < sweeping:
                continue
            # Held before it is asked for its children: one that it forked after that, into a session of its
            # own, would be nobody's. A leader that died by itself cannot be asked, but its are still known.
            _hold(member)
            sessions |= sessions_below(member.pid)
            with contextlib.suppress(psutil.NoSuchProcess):
                member.send_signal(signal.SIGKILL)
        if time.monotonic() > deadline:
            raise InfrastructureError(
                f"processes {', '.join(str(m.pid) for m in left)} do not end after SIGKILL"
            )
        time.sleep(_POLL_S)


def _sweeps(process: psutil.Process) -> bool:
    """Whether it is Python's resource tracker: once those that it served are gone, it removes the shared
    memory that they had no time to remove (vLLM's workers talk through 160 MiB of it each), and ends."""
    try:
        return "multiprocessing.resource_tracker" in " ".join(process.cmdline())
    except psutil.Error:
        return False


def _hold(process: psutil.Process) -> None:
    """Stop a process where it is, and wait for that: a signal takes its time to another core."""
    held = (psutil.STATUS_STOPPED, psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)
    with contextlib.suppress(psutil.Error):
        process.send_signal(signal.SIGSTOP)
        deadline = time.monotonic() + _HOLD_S
        while process.status() not in held and time.monotonic() < deadline:
            time.sleep(0.001)


def members(sessions: Collection[int]) -> list[psutil.Process]:
    """The live processes of some sessions, zombies left out."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(OSError, psutil.Error):
            if os.getsid(process.pid) in sessions and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def sessions_below(pid: int) -> set[int]:
    """The sessions of a process's live descendants."""
    found = set()
    with contextlib.suppress(psutil.Error):
        for child in psutil.Process(pid).children(recursive=True):
            with contextlib.suppress(OSError):
                found.add(os.getsid(child.pid))
    return found


def describe_exit(returncode: int | None) -> str:
    """``exit code 3``, or the signal's name."""
    if returncode is None:
        return "still running"
    if returncode < 0:
        known = -returncode in {s.value for s in signal.Signals}
        name = signal.Signals(-returncode).name if known else f"signal {-returncode}"
        hint = " (often the kernel's out-of-memory killer)" if name == "SIGKILL" else ""
        return f"killed by {name}{hint}"
    return f"exit code {returncode}"
