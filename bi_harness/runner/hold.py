"""One process at a time on a run's folder, and nothing left of the one before."""

from __future__ import annotations

import errno
import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from bi_harness.engine.step_probe import STEP_LOG_VARIABLE
from bi_harness.errors import InfrastructureError, UsageError
from bi_harness.runner.engines import safe_name

WORK = ".work"
"""Folder of a run for what its units need while they run; gone when the run has come to its end."""

GONE_TIMEOUT_S = 30.0
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
_POLL_S = 0.1


@contextmanager
def held(journal: Path, *, new: bool = False) -> Iterator[None]:
    """Hold a run's folder by its journal: no other run may write there. The lock is the kernel's, which lets
    go of it when this process ends, however it does: nothing is left that could be stale.

    Args:
        new: the folder was made by this process a moment ago. Where the file system knows no locks, that is
            enough; nothing can be resumed there.

    Raises:
        UsageError: another process holds it.
        InfrastructureError: it cannot be held.
    """
    try:
        # For writing: NFS gives an exclusive lock to no other.
        fd = os.open(journal, os.O_RDWR)
    except OSError as error:
        raise InfrastructureError(f"cannot write the journal {journal}: {error.strerror}") from error
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if new and error.errno in _NO_LOCKS:
            os.close(fd)
            yield
            return
        os.close(fd)
        if error.errno not in (errno.EAGAIN, errno.EACCES):
            raise InfrastructureError(f"cannot lock the journal {journal}: {error.strerror}") from error
        raise UsageError(
            f"a run is going on in {journal.parent} ({_holder(journal)}). "
            "Wait for it or end it, and resume then"
        ) from None
    try:
        yield
    finally:
        os.close(fd)


def _holder(journal: Path) -> str:
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            if process.pid != os.getpid() and any(
                Path(file.path) == journal.resolve() for file in process.open_files()
            ):
                return f"process {process.pid}"
    return "its process is not to be seen from here"


def unit_folder(run_dir: Path, attempt: int, unit: str) -> Path:
    """Where a unit works in an attempt: never where it did in an earlier one, of which something may live."""
    return run_dir / WORK / f"attempt-{attempt}" / safe_name(unit)


def wait_until_gone(run_dir: Path, timeout_s: float = GONE_TIMEOUT_S) -> None:
    """Wait for what a killed run left: it sees by itself that it is alone, and ends, within a second or two.

    Its engines would take the memory that new ones need, and its unit may still write down a result.

    Raises:
        InfrastructureError: something is still there.
    """
    deadline = time.monotonic() + timeout_s
    while left := leftovers(run_dir):
        if time.monotonic() > deadline:
            raise InfrastructureError(
                f"processes of an earlier attempt at {run_dir} are still there: "
                f"{', '.join(str(process.pid) for process in left)}. End them, and resume then"
            )
        time.sleep(_POLL_S)


def leftovers(run_dir: Path) -> list[psutil.Process]:
    """The live units and engines of a run's folder, by where they were told to work."""
    # By the folder's name, which is drawn at random: the path may be another by now (a mount, a link).
    work = f"/{run_dir.resolve().name}/{WORK}/"
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            if process.pid == os.getpid() or process.status() == psutil.STATUS_ZOMBIE:
                continue
            words = process.cmdline()
            of_unit = "--bi-unit-file" in words and any(work in word for word in words)
            if of_unit or work in process.environ().get(STEP_LOG_VARIABLE, ""):
                found.append(process)
    return found
