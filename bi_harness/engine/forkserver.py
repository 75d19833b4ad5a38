"""A process that imports modules once and forks processes that have them:
``python -m bi_harness.engine.forkserver CONTROL_FD PARENT PLATFORM CORE,CORE,...``.

It speaks with the runner over an inherited socket (``runner.preload``). Each request brings a connection to
whoever asked, the files of the process to be, and its arguments. The fork waits for ``go`` on that connection
and ends at once where it does not come: whoever asked has noted by then which process is its own. The
connection stays, and carries the exit code in the end.

Forking is only defined for a process with one thread, and CUDA does not survive it. Both is looked at before
each fork, and what does not hold is told in place of a fork; engines then start the ordinary way. NVML does
survive it: torch and vLLM ask it for GPUs while they are imported, and so leave the GPUs' files open.

Worker side: standard library alone, and what it is told to import.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import importlib.util
import os
import re
import selectors
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bi_harness.engine import messages
from bi_harness.engine.env_reads import environment_reads
from bi_harness.engine.messages import Order
from bi_harness.engine.orphan import PARENT_POLL_S
from bi_harness.engine.preload_list import HARMLESS, MODULES, ONE_KIND, late

GO_S = 60.0
_SETTLE_S = 2.0
_CUDA = "libcuda.so.1"
_NOT_INITIALIZED = 3
"""CUDA_ERROR_NOT_INITIALIZED"""

# The first waits for events of NVML, which vLLM asks for GPUs (seen on an H200, driver 580: with it in the
# parent, and CUDA's driver not initialised, which is looked at by itself, a fork computes on the GPU). The
# other returns unused memory of pyarrow's allocator, which pandas brings: jemalloc knows of forks.
_HARMLESS_THREADS = re.compile(r"cuda[0-9a-f]{6,}|jemalloc_bg_thd")


Job = Callable[[Order], int]


@dataclass
class _Forked:
    pid: int
    fd: int
    connection: socket.socket


class Unfit(Exception):
    """Why this process must not fork."""


def main(argv: list[str]) -> int:
    """Import, say so, and fork on request until the runner is gone. A fork comes back here, too, and ends as
    any Python process does."""
    control = socket.socket(fileno=int(argv[0]))
    control.set_inheritable(False)
    # Before OpenMP is loaded, which counts the cores then.
    os.sched_setaffinity(0, {int(core) for core in argv[3].split(",")})
    return serve(control, int(argv[1]), MODULES[argv[2]], _engine)


def _engine(order: Order) -> int:
    from bi_harness.engine import worker

    return worker.forked(order)


def serve(control: socket.socket, parent: int, modules: Sequence[str], job: Job) -> int:
    """Import ``modules`` and serve.

    Args:
        control: from the runner.
        parent: the runner; without it this process ends.
        modules: to import; one that is not there is left out.
        job: what a fork does; its result is the exit code.
    """
    began = time.monotonic()
    try:
        early = _import(modules, parent)
        _settle()
        check()
    except BaseException as error:
        traceback.print_exc()
        reason = str(error) if isinstance(error, Unfit) else f"{type(error).__name__}: {error}"
        messages.send(control, {"refused": reason[:2000]})
        return 1
    messages.send(control, {"ready": True, "early": sorted(early), "import_s": time.monotonic() - began})
    own = os.getpid()
    code = _Server(control, parent, job).run()
    if os.getpid() == own:
        # It has nothing to put away, and to tear down all that it imported would take seconds. Forks do.
        sys.stderr.flush()
        os._exit(code)
    return code


def _import(modules: Sequence[str], parent: int) -> set[str]:
    """Import them. Returns the variables that may be others in a fork, but were read already."""
    done = threading.Event()

    def watch() -> None:
        while not done.wait(PARENT_POLL_S):
            if os.getppid() != parent:
                os._exit(1)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        with environment_reads() as reads:
            for name in modules:
                if _there(name):
                    importlib.import_module(name)
                else:
                    sys.stderr.write(f"{name} is not there: left out\n")
    finally:
        done.set()
        watcher.join()
    harmless = HARMLESS | ONE_KIND if _gpus_of_one_kind() else HARMLESS
    early = sorted((name, module) for name, module in reads if late(name) and (name, module) not in harmless)
    sys.stderr.writelines(f"{name} was read by {module}\n" for name, module in early)
    return {name for name, _ in early}


def _there(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:  # nor is its package
        return False


def _gpus_of_one_kind() -> bool:
    """Whether all GPUs of this host have the same name and compute capability, as vLLM's NVML tells."""
    nvml: Any = sys.modules.get("vllm.third_party.pynvml")
    if nvml is None:
        return False
    try:
        nvml.nvmlInit()
        try:
            gpus = [nvml.nvmlDeviceGetHandleByIndex(i) for i in range(nvml.nvmlDeviceGetCount())]
            kinds = {
                (nvml.nvmlDeviceGetName(gpu), tuple(nvml.nvmlDeviceGetCudaComputeCapability(gpu)))
                for gpu in gpus
            }
        finally:
            nvml.nvmlShutdown()
    except Exception:  # no driver, or one that does not tell
        return False
    return len(kinds) == 1


def _settle() -> None:
    """Have the threads end that end before a fork: OpenBLAS, which numpy and others bring, starts its threads
    when it is loaded, ends them in a handler before each fork, and starts them again when they are needed.
    So a first fork, of a process that does nothing, leaves one thread here, or there are others."""
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
    deadline = time.monotonic() + _SETTLE_S
    while _threads() > 1 and time.monotonic() < deadline:
        time.sleep(0.01)


def _threads() -> int:
    """How many threads of this process a fork would miss: all but those that are known to be harmless."""
    return sum(_HARMLESS_THREADS.fullmatch(name) is None for name in _thread_names())


def _thread_names() -> list[str]:
    """The kernel's names of this process's threads."""
    names = []
    for task in Path("/proc/self/task").iterdir():
        with contextlib.suppress(OSError):  # It has ended.
            names.append((task / "comm").read_text(encoding="utf-8", errors="replace").strip())
    return names


def check() -> None:
    """See that this process may fork.

    Raises:
        Unfit: it may not, and why.
    """
    threads = _threads()
    if threads != 1:
        raise Unfit(f"the imports left {threads} threads ({', '.join(sorted(_thread_names()))})")
    torch: Any = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        raise Unfit("the imports initialised CUDA")
    if _driver_is_up():
        raise Unfit("the imports initialised CUDA's driver")
    tracker: Any = sys.modules.get("multiprocessing.resource_tracker")
    if tracker is not None and getattr(tracker._resource_tracker, "_fd", None) is not None:
        raise Unfit("the imports started Python's resource tracker")
    plugins: Any = sys.modules.get("vllm.plugins")
    if getattr(plugins, "plugins_loaded", False):
        raise Unfit("the imports loaded vLLM's plugins")
    envs: Any = sys.modules.get("vllm.envs")
    if hasattr(getattr(envs, "__getattr__", None), "cache_info"):
        raise Unfit("the imports made vLLM keep its variables")


def _driver_is_up() -> bool:
    """Whether CUDA's driver is initialised in this process: where it is loaded at all, it says so itself."""
    try:
        driver = ctypes.CDLL(_CUDA, mode=os.RTLD_NOLOAD | os.RTLD_LAZY)
    except OSError:
        return False
    count = ctypes.c_int()
    return bool(driver.cuDeviceGetCount(ctypes.byref(count)) != _NOT_INITIALIZED)


class _Server:
    """Forks, and tells how each fork ended. No thread, no signal handler: both would be in the forks, too."""

    def __init__(self, control: socket.socket, parent: int, job: Job) -> None:
        self._control, self._parent, self._job = control, parent, job
        self._pid = os.getpid()
        self._selector = selectors.DefaultSelector()
        self._forked: dict[int, _Forked] = {}

    def run(self) -> int:
        self._selector.register(self._control, selectors.EVENT_READ)
        while os.getppid() == self._parent:
            for key, _ in self._selector.select(PARENT_POLL_S):
                if isinstance(key.data, _Forked):
                    self._ended(key.data)
                    continue
                received = messages.receive(self._control)
                if received is None:
                    return 0  # The runner is done with it; forks see that they are alone, and end.
                code = self._request(*received)
                if code is not None:
                    return code  # This is the fork, at its end.
        return 0

    def _request(self, request: dict[str, Any], files: list[int]) -> int | None:
        connection = socket.socket(fileno=files[0])
        log, given = files[1], files[2:]
        try:
            check()
            sys.stdout.flush()
            sys.stderr.flush()
            pid = os.fork()
        except (Unfit, OSError) as error:
            _tell(connection, {"refused": str(error)})
            connection.close()
            messages.close_all(files[1:])
            return None
        if pid == 0:
            return self._child(connection, log, request, given)
        messages.close_all(files[1:])
        fd = os.pidfd_open(pid)
        forked = _Forked(pid, fd, connection)
        self._forked[pid] = forked
        self._selector.register(fd, selectors.EVENT_READ, forked)
        _tell(connection, {"forked": pid}, [fd])
        return None

    def _ended(self, forked: _Forked) -> None:
        _, status = os.waitpid(forked.pid, 0)
        _tell(forked.connection, {"exit": os.waitstatus_to_exitcode(status)})
        self._selector.unregister(forked.fd)
        os.close(forked.fd)
        forked.connection.close()
        del self._forked[forked.pid]

    def _child(self, connection: socket.socket, log: int, request: dict[str, Any], files: list[int]) -> int:
        os.setsid()
        self._selector.close()
        self._control.close()
        for other in self._forked.values():
            os.close(other.fd)
            other.connection.close()
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.close(log)
        if not _told_to_go(connection) or os.getppid() != self._pid:
            os._exit(0)
        connection.close()
        _as_if_started(request["late"])
        sys.argv = [sys.argv[0], *request["argv"]]
        return self._job(Order(request["argv"], files, request["asked"], self._pid))


def _tell(connection: socket.socket, message: dict[str, Any], files: Sequence[int] = ()) -> None:
    # Where whoever asked is gone, so will be the fork, which watches for that.
    with contextlib.suppress(OSError):
        messages.send(connection, message, files)


def _told_to_go(connection: socket.socket) -> bool:
    connection.settimeout(GO_S)
    try:
        received = messages.receive(connection)
    except (OSError, messages.BadMessage):
        return False
    if received is None:
        return False
    messages.close_all(received[1])
    return received[0].get("go") is True


def _as_if_started(late_variables: dict[str, str | None]) -> None:
    """What a process has of its own that a fork would have from its parent: those variables that may be
    others, and random numbers. (Python's own are drawn anew after each fork.)"""
    for name, value in late_variables.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
    numpy: Any = sys.modules.get("numpy")
    if numpy is not None:
        numpy.random.seed()
    torch: Any = sys.modules.get("torch")
    if torch is not None:
        torch.default_generator.seed()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
