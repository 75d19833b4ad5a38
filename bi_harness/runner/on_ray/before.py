"""What earlier units left on a node when they were killed: ended before the next one starts there.

A unit sees by itself that the process it belongs to is gone, and ends within a second; its engines would take
the memory that the next one needs until then. One that was being stopped at that very moment may be held for
good, and would never end by itself.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import psutil

from bi_harness.engine.step_probe import STEP_LOG_VARIABLE
from bi_harness.errors import InfrastructureError

PREFIX = "bi-harness-unit-"
_OWNER = "owner.json"
_ALONE_S = 5.0
"""How long what is left may take to see that it is alone."""

_GONE_S = 30.0
_POLL_S = 0.1


def new_folder() -> Path:
    """A folder for one unit, which says whose it is: this process's."""
    folder = Path(tempfile.mkdtemp(prefix=PREFIX))
    me = {"pid": os.getpid(), "since": psutil.Process().create_time(), "namespace": _namespace()}
    (folder / _OWNER).write_text(json.dumps(me), encoding="utf-8")
    return folder


def clear() -> None:
    """End and remove what units left whose process is gone.

    Raises:
        InfrastructureError: something does not end.
    """
    folders = [folder for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}*") if _abandoned(folder)]
    if not folders:
        return
    began = time.monotonic()
    while left := [process for process in psutil.process_iter() if _of(process, folders)]:
        waited = time.monotonic() - began
        if waited > _GONE_S:
            named = ", ".join(str(process.pid) for process in left)
            raise InfrastructureError(f"processes of an earlier unit do not end: {named}")
        if waited > _ALONE_S:
            for process in left:
                with suppress(psutil.Error):
                    process.send_signal(signal.SIGKILL)
        time.sleep(_POLL_S)
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)


def _abandoned(folder: Path) -> bool:
    """Whether the process that made the folder is gone; of what is not known, it is not."""
    try:
        if folder.is_symlink() or folder.stat().st_uid != os.getuid():
            return False
        owner = json.loads((folder / _OWNER).read_text(encoding="utf-8"))
        if owner["namespace"] != _namespace():
            return False  # Another container's, whose processes are not to be seen from here.
        return bool(psutil.Process(owner["pid"]).create_time() != owner["since"])
    except psutil.NoSuchProcess:
        return True
    except (OSError, ValueError, KeyError, TypeError, psutil.Error):
        return False


def _of(process: psutil.Process, folders: list[Path]) -> bool:
    try:
        if process.status() == psutil.STATUS_ZOMBIE:
            return False
        told = [*process.cmdline(), process.environ().get(STEP_LOG_VARIABLE, "")]
    except (psutil.Error, OSError):
        return False
    return any(f"{folder}{os.sep}" in word for folder in folders for word in told)


def _namespace() -> str:
    return str(Path("/proc/self/ns/pid").readlink())
