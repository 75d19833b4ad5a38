"""Asking the runner for an engine that is forked from a process with vLLM imported (``forkserver``).

Our side. What is asked of the runner (``runner.preload``) is answered there or by the fork server: with a
process, or with the reason why there is none, and the engine then starts the ordinary way.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bi_harness.engine import messages
from bi_harness.engine.orphan import ended
from bi_harness.engine.process import sessions_below
from bi_harness.reading import read_bounded

SITE = "site"
NOTE = "forked.json"
"""In an engine's folder: which process it is, for the runner to end it where the unit cannot any more."""

_EXIT_S = 5.0
_NOTE_SIZE = 4096


class Forked:
    """A process that another one forked for this one, with the ways of ``subprocess.Popen``.

    Args:
        pid: the process, which leads a session.
        fd: a pidfd of it.
        connection: tells its exit code.
    """

    def __init__(self, pid: int, fd: int, connection: socket.socket) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._fd, self._connection = fd, connection

    def poll(self) -> int | None:
        """Its exit code, the negative signal that killed it, or ``None`` while it runs."""
        if self.returncode is None and ended(self._fd):
            self._ended()
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """The same, once it is there.

        Raises:
            subprocess.TimeoutExpired: it runs after ``timeout`` seconds.
        """
        if self.returncode is None:
            if not ended(self._fd, timeout):
                raise subprocess.TimeoutExpired(f"process {self.pid}", timeout or 0.0)
            self._ended()
        assert self.returncode is not None
        return self.returncode

    def _ended(self) -> None:
        # Where its parent is gone, nobody tells: it ended itself, then, as ``orphan`` does.
        self.returncode = -signal.SIGKILL
        self._connection.settimeout(_EXIT_S)
        with contextlib.suppress(OSError, messages.BadMessage):
            received = messages.receive(self._connection)
            if received is not None and type(code := received[0].get("exit")) is int:
                self.returncode = code
        self._connection.close()
        os.close(self._fd)


class Asked:
    """An engine that was asked for. One of ``answer`` and ``cancel`` must follow.

    Args:
        connection: to the runner.
        folder: of the engine, which the note of its process goes to.
    """

    def __init__(self, connection: socket.socket, folder: Path) -> None:
        self._connection, self._folder = connection, folder

    def answer(self, timeout_s: float) -> Forked | str:
        """The process, or why there is none.

        Raises:
            TimeoutError: neither came.
        """
        self._connection.settimeout(max(0.001, timeout_s))
        files: list[int] = []
        try:
            received = messages.receive(self._connection)
            if received is None:
                return self._without("the process that was to fork it ended")
            message, files = received
            if "refused" in message:
                return self._without(str(message["refused"]))
            pid = message.get("forked")
            if type(pid) is not int or len(files) != 1:
                return self._without("an answer that makes no sense")
            # Noted before it runs: where this process is killed after this line, the runner finds the note;
            # before it, the connection breaks and the fork ends by itself.
            try:
                _note(self._folder, pid)
            except FileNotFoundError:
                return self._without("the fork waited for too long, and ended")
            messages.send(self._connection, {"go": True})
            forked = Forked(pid, files.pop(), self._connection)
        except TimeoutError:
            self._connection.close()
            raise
        except (OSError, messages.BadMessage) as error:
            return self._without(f"{type(error).__name__}: {error}")
        finally:
            messages.close_all(files)
        return forked

    def cancel(self) -> None:
        """It is not wanted any more. A fork that is there already ends without having begun."""
        self._connection.close()

    def _without(self, reason: str) -> str:
        self._connection.close()
        return reason


@dataclass(frozen=True, slots=True)
class Preload:
    """Where to ask.

    Attributes:
        socket: the runner's.
    """

    socket: Path

    @property
    def site(self) -> Path:
        """The folder for PYTHONPATH that all engines share: the process that they are forked from has it."""
        return self.socket.parent / SITE

    def ask(
        self,
        *,
        python: str,
        platform: str,
        env: Mapping[str, str],
        argv: Sequence[str],
        files: Sequence[int],
        log: Path,
        folder: Path,
    ) -> Asked:
        """Ask for an engine, without waiting.

        Args:
            python: the interpreter.
            platform: vLLM's.
            env: the whole environment.
            argv, files: of the worker.
            log: takes its output.
            folder: the engine's.

        Raises:
            OSError: nobody is there to be asked, or the system is too old for it.
        """
        log.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.ExitStack() as stack:
            out = stack.enter_context(open(log, "ab"))
            own = os.pidfd_open(os.getpid())
            stack.callback(os.close, own)
            connection = messages.connect(self.socket)
            try:
                messages.send(
                    connection,
                    {
                        "python": python,
                        "platform": platform,
                        "env": dict(env),
                        "surroundings": messages.surroundings(),
                        "argv": list(argv),
                        "asked": time.monotonic(),
                    },
                    [out.fileno(), *files, own],
                )
            except OSError:
                connection.close()
                raise
        return Asked(connection, folder)


def _note(folder: Path, pid: int) -> None:
    note = {"pid": pid, "started": _started(pid)}
    (folder / NOTE).write_text(json.dumps(note), encoding="utf-8")


def noted_sessions(folder: Path) -> set[int]:
    """The sessions of the forked engines of a unit, whether that still lives or not.

    Args:
        folder: the unit's; its engines' are in it.
    """
    found: set[int] = set()
    for path in folder.glob(f"*/{NOTE}"):
        try:
            note: Any = json.loads(read_bounded(path, _NOTE_SIZE))
            pid, started = int(note["pid"]), int(note["started"])
        except (OSError, ValueError, TypeError, KeyError):
            continue  # Torn: the unit was killed before it said ``go``.
        try:
            # Another process may have its number by now; not while somebody of its session lives.
            if _started(pid) == started:
                found |= {pid, *sessions_below(pid)}
        except OSError:
            found.add(pid)
    return found


def _started(pid: int) -> int:
    """When a process was started, in ticks since the host was.

    Raises:
        OSError: it is gone.
    """
    stat = Path(f"/proc/{pid}/stat").read_bytes()
    return int(stat[stat.rindex(b")") + 2 :].split()[19])  # its name may hold anything
