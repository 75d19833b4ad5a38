"""Messages with open files between processes of this host: JSON over Unix sockets that keep packets whole.

Both sides: standard library alone. A packet is one message; there is no waiting for the rest of one.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

MOST = 1 << 18
"""Bytes of a message: a whole environment fits, and the kernel's limit of a packet is of that order."""

MOST_FILES = 8


class Order(NamedTuple):
    """What a forked process is to do.

    Attributes:
        argv: its arguments.
        files: open files for it, in the order in which they were sent.
        asked: when it was asked for, by ``time.monotonic``.
        parent: the process that forked it.
    """

    argv: list[str]
    files: list[int]
    asked: float
    parent: int


class BadMessage(ValueError):
    """What came is no message."""


def send(sock: socket.socket, message: dict[str, Any], files: Sequence[int] = ()) -> None:
    """Send one message, with copies of open files.

    Raises:
        OSError: nobody is there, or it is too large.
    """
    data = json.dumps(message, separators=(",", ":")).encode()
    if files:
        socket.send_fds(sock, [data], list(files), socket.MSG_NOSIGNAL)
    else:
        sock.send(data, socket.MSG_NOSIGNAL)


def receive(sock: socket.socket) -> tuple[dict[str, Any], list[int]] | None:
    """The next message and its files, which are the caller's to close; ``None`` when the other end is gone.

    Raises:
        BadMessage: it is none; its files are closed.
        OSError: as ``socket.recvmsg``; ``TimeoutError`` among them.
    """
    flags = socket.MSG_CMSG_CLOEXEC
    data, files, told, _ = socket.recv_fds(sock, MOST, MOST_FILES, flags)
    if not data and not files:
        return None
    try:
        if told & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
            raise BadMessage(f"a message of more than {MOST} bytes or {MOST_FILES} files")
        try:
            message = json.loads(data)
        except (ValueError, RecursionError) as error:
            raise BadMessage(f"not JSON: {data[:100]!r}") from error
        if not isinstance(message, dict):
            raise BadMessage(f"not an object: {data[:100]!r}")
    except BadMessage:
        close_all(files)
        raise
    return message, files


def close_all(files: Sequence[int]) -> None:
    """Close open files."""
    for fd in files:
        os.close(fd)


def listen(path: Path) -> socket.socket:
    """A socket that its user alone may connect to, at ``path``, however long that is.

    Raises:
        OSError: it cannot be made.
    """
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        os.fchmod(sock.fileno(), 0o600)  # before it has a name: bind gives it this mode
        _by_folder(path, sock.bind)
        path.chmod(0o600)
        sock.listen(64)
    except OSError:
        sock.close()
        raise
    return sock


def connect(path: Path) -> socket.socket:
    """Connect to such a socket.

    Raises:
        OSError: nobody listens.
    """
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        _by_folder(path, sock.connect)
    except OSError:
        sock.close()
        raise
    return sock


def _by_folder(path: Path, call: Any) -> None:
    # A socket's address has 107 bytes at most; by way of the open folder it is short.
    folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        call(f"/proc/self/fd/{folder}/{path.name}")
    finally:
        os.close(folder)


def surroundings() -> dict[str, Any]:
    """What a process has of its parent beside environment and open files, and engines may depend on."""
    import resource

    limits = {name: getattr(resource, name) for name in dir(resource) if name.startswith("RLIMIT_")}
    status = Path("/proc/self/status").read_text(encoding="utf-8", errors="replace")
    return {
        "cwd": str(Path.cwd()),
        # ``os.umask`` would change it, for all threads.
        "umask": next((line.split()[1] for line in status.splitlines() if line.startswith("Umask:")), ""),
        "nice": os.nice(0),
        "cores": sorted(os.sched_getaffinity(0)),
        "limits": {name: list(resource.getrlimit(number)) for name, number in sorted(limits.items())},
    }
