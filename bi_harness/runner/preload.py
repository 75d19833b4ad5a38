"""Importing vLLM once for many engines of a run: the processes to fork them from, and who gets which.

Units ask over a Unix socket in the run's work folder. A request names the interpreter and the whole
environment of its engine; it is served by a process (``engine.forkserver``) that was started with the same,
but for variables that are known to be read late, and with the same working folder, cores and limits. The
first request of a kind starts the process and waits for it: the import takes as long as the engine's own
would have. Whatever does not fit is refused with the reason, and the engine starts the ordinary way.
"""

from __future__ import annotations

import os
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bi_harness.engine import messages, process
from bi_harness.engine.preload_list import MODULES, late
from bi_harness.engine.preloaded import SITE
from bi_harness.engine.site import make_site
from bi_harness.errors import InfrastructureError

FOLDER = "preload"
SOCKET = "s"
MOST_SERVERS = 8
"""Processes with vLLM imported at once: each holds about a gigabyte."""

REQUEST_S = 10.0
IMPORT_S = 600.0
STOP_S = 5.0
_FILES = 4
"""The log, the worker's two pipes, and a pidfd of whoever asks."""


class Refused(Exception):
    """Why there is no process to fork an engine from."""


@dataclass(frozen=True, slots=True)
class Request:
    """An engine that is asked for, see ``engine.preloaded.Preload.ask``."""

    python: str
    platform: str
    env: Mapping[str, str]
    surroundings: Mapping[str, Any]
    argv: tuple[str, ...]
    asked: float

    @staticmethod
    def of(message: Mapping[str, Any]) -> Request:
        """What a message asks for.

        Raises:
            Refused: it makes no sense.
        """
        python, platform, env = (message.get(name) for name in ("python", "platform", "env"))
        around, argv, asked = (message.get(name) for name in ("surroundings", "argv", "asked"))
        good = (
            isinstance(python, str)
            and platform in MODULES
            and isinstance(env, dict)
            and all(isinstance(value, str) for value in env.values())
            and isinstance(around, dict)
            and isinstance(around.get("cores"), list)
            and all(type(core) is int for core in around["cores"])
            and isinstance(argv, list)
            and all(isinstance(word, str) for word in argv)
            and isinstance(asked, float)
        )
        if not good:
            raise Refused("a request that makes no sense")
        return Request(python, platform, env, around, tuple(argv), asked)  # type: ignore[arg-type]


@dataclass
class Server:
    """A process to fork engines from.

    Attributes:
        first: the request that it was started for.
        ready: set when it is known whether it serves.
        why_not: why it does not, else empty.
        early: variables that its imports read, so that they must be the same though they are read late, too.
    """

    first: Request
    ready: threading.Event = field(default_factory=threading.Event)
    why_not: str = ""
    early: frozenset[str] = frozenset()
    process: subprocess.Popen[bytes] | None = None
    control: socket.socket | None = None
    sending: threading.Lock = field(default_factory=threading.Lock)

    def fits(self, request: Request) -> bool:
        """Whether an engine of this request may be forked from it, as far as is known yet."""
        same = ("python", "platform", "surroundings")
        return all(getattr(self.first, name) == getattr(request, name) for name in same) and all(
            late(name) and name not in self.early for name in different(self.first.env, request.env)
        )


def different(a: Mapping[str, str], b: Mapping[str, str]) -> set[str]:
    """The variables that two environments do not have in common."""
    return {name for name in {*a, *b} if a.get(name) != b.get(name)}


@contextmanager
def preloading(work: Path, logs: Path) -> Iterator[Path | None]:
    """Serve units until the end of the block; then all that was forked here is gone.

    Args:
        work: the run's work folder.
        logs: for the output of the processes.

    Yields:
        The socket for ``Context.preload``; ``None`` where this host cannot do it, which is told on stderr.
    """
    folder = work / FOLDER
    try:
        os.close(os.pidfd_open(os.getpid()))
        folder.mkdir(parents=True, mode=0o700)
        make_site(folder / SITE)
        listening = messages.listen(folder / SOCKET)
    except OSError as error:
        sys.stderr.write(f"bi-harness: --preload: not on this host: {error}\n")
        yield None
        return
    service = Service(listening, logs)
    try:
        yield folder / SOCKET
    finally:
        service.close()


class Service:
    """Takes requests, starts servers, and brings both together.

    Args:
        listening: the socket; closed in the end.
        logs: for the servers' output.
    """

    def __init__(self, listening: socket.socket, logs: Path) -> None:
        self._listening, self._logs = listening, logs
        self._own = messages.surroundings()
        self._lock = threading.Lock()
        self._servers: list[Server] = []
        self._over = False
        # A thread of its own, which waits in ``accept``; it ends with the socket.
        threading.Thread(target=self._accept, name="preload", daemon=True).start()

    def close(self) -> None:
        """Take no more requests, and end all servers and what was forked from them.

        Raises:
            InfrastructureError: something of it outlives SIGKILL.
        """
        with suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        with self._lock:
            self._over = True
            servers = list(self._servers)
        with ExitStack() as stack:  # Each is ended, whatever becomes of the others.
            for server in servers:
                stack.callback(self._end, server, "the run is over")

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listening.accept()
            except OSError:
                return
            threading.Thread(
                target=self._answer, args=(connection,), name="preload-request", daemon=True
            ).start()

    def _answer(self, connection: socket.socket) -> None:
        files: list[int] = []
        with connection:
            try:
                _of_this_user(connection)
                connection.settimeout(REQUEST_S)
                received = messages.receive(connection)
                if received is None:
                    return
                message, files = received
                if len(files) != _FILES:
                    raise Refused("a request that makes no sense: other files than an engine has")
                self._pass_on(Request.of(message), connection, files)
            except (Refused, OSError, messages.BadMessage, InfrastructureError) as error:
                with suppress(OSError):
                    messages.send(connection, {"refused": str(error)})
            finally:
                messages.close_all(files)

    def _pass_on(self, request: Request, connection: socket.socket, files: list[int]) -> None:
        server = self._server(request)
        assert server.control is not None
        names = {name for name in {*server.first.env, *request.env} if late(name)}
        order = {
            "argv": list(request.argv),
            "asked": request.asked,
            "late": {name: request.env.get(name) for name in sorted(names)},
        }
        with server.sending:
            messages.send(server.control, order, [connection.fileno(), *files])

    def _server(self, request: Request) -> Server:
        """One that serves the request, ready.

        Raises:
            Refused: there is none.
        """
        others = {
            name
            for name in {*self._own, *request.surroundings} - {"cores"}
            if self._own.get(name) != request.surroundings.get(name)
        }
        if others:
            raise Refused(f"the unit has not what the run has: {', '.join(sorted(others))}")
        while True:
            with self._lock:
                if self._over:
                    raise Refused("the run is over")
                server = next((s for s in self._servers if s.fits(request)), None)
                new = server is None
                if server is None:
                    if len(self._servers) >= MOST_SERVERS:
                        raise Refused(f"{MOST_SERVERS} processes have vLLM imported for other engines")
                    server = Server(request)
                    self._servers.append(server)
                    number = len(self._servers)
            if new:
                self._start(server, number)
            server.ready.wait()
            if (
                server.process is not None
                and (code := server.process.poll()) is not None
                and not server.why_not
            ):
                server.why_not = f"the process to fork it from ended: {process.describe_exit(code)}"
            if server.why_not:
                raise Refused(server.why_not)
            if server.fits(request):  # What its imports read is known by now.
                return server

    def _start(self, server: Server, number: int) -> None:
        """Start its process and wait until it is ready, or it is known why it will not be."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            first = server.first
            with theirs, self._lock:
                if self._over:
                    raise Refused("the run is over")
                server.process = process.start(
                    [
                        *(first.python, "-m", "bi_harness.engine.forkserver"),
                        *(str(theirs.fileno()), str(os.getpid()), first.platform),
                        ",".join(map(str, first.surroundings["cores"])),
                    ],
                    env=first.env,
                    log=self._logs / f"preload-{number}.log",
                    pass_fds=(theirs.fileno(),),
                )
                server.control = ours
            ours.settimeout(IMPORT_S)
            received = messages.receive(ours)
            if received is None:
                code = server.process.wait(STOP_S)
                raise Refused(f"the process to fork it from ended: {process.describe_exit(code)}")
            message, files = received
            messages.close_all(files)
            if message.get("ready") is not True:
                raise Refused(str(message.get("refused", "the process to fork it from says nothing of use")))
            server.early = frozenset(map(str, message.get("early", ())))
        except (
            Refused,
            OSError,
            messages.BadMessage,
            InfrastructureError,
            subprocess.TimeoutExpired,
        ) as error:
            server.why_not = str(error) or type(error).__name__
        finally:
            server.ready.set()

    def _end(self, server: Server, why: str) -> None:
        server.why_not = server.why_not or why
        if server.control is not None:
            with suppress(OSError):
                server.control.shutdown(socket.SHUT_RDWR)  # It ends by itself where it serves.
        if server.process is not None:
            process.stop(server.process, grace_s=STOP_S if server.ready.is_set() else 0)
        server.ready.wait(STOP_S)
        if server.control is not None:
            server.control.close()


def _of_this_user(connection: socket.socket) -> None:
    """See that whoever asks is who runs this.

    Raises:
        Refused: it is somebody else.
    """
    size = struct.calcsize("3i")
    told = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size)
    _, user, _ = struct.unpack("3i", told)
    if user != os.getuid():
        raise Refused("a request of another user")
