"""Reading a file that somebody else may have put there: a regular one, up to a size, without waiting."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path


class NotRegular(OSError):
    """What is there is a pipe or a device (a folder is an ``IsADirectoryError``)."""


def read_bounded(path: Path | str, limit: int) -> bytes:
    """The file's bytes, at most one more than ``limit``: then there is more, whatever stat says (/proc).

    Raises:
        NotRegular: it is no regular file.
        OSError: it is not there, or cannot be read.
        ValueError: the path is none (a NUL in it).
    """
    # Not to wait: a FIFO without a writer would be waited for without end.
    with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise NotRegular(errno.EINVAL, "it is not a regular file")
        return file.read(limit + 1)
