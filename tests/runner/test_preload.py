"""Engines that are forked from a process with modules imported: real processes, a small module for vLLM."""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psutil
import pytest

from bi_harness.engine import forkserver, messages, process
from bi_harness.engine import preloaded as preloaded_module
from bi_harness.engine.client import EngineClient
from bi_harness.engine.config import EngineConfig
from bi_harness.engine.preloaded import NOTE, Preload, noted_sessions
from bi_harness.errors import EngineDied
from bi_harness.runner import preload as preload_module
from bi_harness.runner.hold import leftovers
from bi_harness.runner.preload import preloading
from tests.engine.test_process import runs, until

FAKE = Path(__file__).parents[1] / "engine" / "fake_forkserver.py"
ROOT = Path(__file__).parents[2]

IMPORTED = """
import os, time
with open(os.environ["COUNT"], "a") as file:
    file.write(f"{os.getpid()}\\n")
"""


class Preloads:
    """A run's folder with its service, and engines that ask it."""

    def __init__(self, folder: Path) -> None:
        # Named at random, as a run's folder is: leftovers are found by it.
        self.run = folder / f"20260101T000000Z-{uuid.uuid4().hex}"
        self.work = self.run / ".work"
        self.unit = self.work / "attempt-1" / "unit"
        self.logs = self.run / "logs"
        self.modules = folder / "modules"
        self.modules.mkdir()
        self.count = folder / "count"
        self.python = folder / "python"
        self.python.write_text(f'#!/bin/sh\nshift 2\nexec "{sys.executable}" "{FAKE}" "$@"\n')
        self.python.chmod(0o755)
        self.module("imported", IMPORTED)
        self.made: list[EngineClient] = []
        self.socket: Path | None = None
        self.service: Any = None

    def module(self, name: str, text: str) -> None:
        (self.modules / f"{name}.py").write_text(text)

    def client(
        self, how: str = "", arm: str = "treatment", imported: str = "imported", **env: str
    ) -> EngineClient:
        fields: dict[str, Any] = dict.fromkeys(EngineConfig.__dataclass_fields__)
        fields |= {"arm": arm, "python": str(self.python), "platform": "cpu", "llm": {"model": "m"}}
        fields["env"] = {
            "PATH": os.environ["PATH"],
            "COUNT": str(self.count),
            "IMPORTED": imported,
            "BI_HARNESS_HOW": how,
            "PYTHONPATH": os.pathsep.join(
                [str(self.modules), *(p for p in sys.path if "site-packages" in p)]
            ),
            **env,
        }
        name = f"engine-{len(self.made)}"
        assert self.socket is not None
        made = EngineClient(
            EngineConfig(**fields), self.unit / name, self.logs / f"{name}.log", Preload(self.socket)
        )
        self.made.append(made)
        return made

    def ready(self, *args: str, **env: str) -> tuple[EngineClient, Any]:
        made = self.client(*args, **env)
        made.spawn()
        return made, made.wait_ready(30)

    def imports(self) -> list[int]:
        return [int(line) for line in self.count.read_text().split()] if self.count.exists() else []

    def servers(self) -> list[psutil.Process]:
        return [p for p in leftovers(self.run) if p.pid in self.imports()]


@pytest.fixture
def preloads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Preloads]:
    made = Preloads(tmp_path)
    with ExitStack() as stack:
        made.socket = stack.enter_context(preloading(made.work, made.logs))
        yield made
        for client in made.made:
            client.kill()
    until(lambda: not leftovers(made.run), 5)


def test_two_begin_before_one_is_waited_for(preloads: Preloads) -> None:
    """A fork ends where nobody says go: the second arm's must not wait for the first one's start."""
    clients = [preloads.client("", arm) for arm in ("treatment", "control")]
    for client in clients:
        client.spawn()
    for client in clients:
        client.begin(30)
    assert all(client.pid for client in clients)
    assert all(client.wait_ready(30).preloaded for client in clients)


def zombies() -> list[psutil.Process]:
    return [c for c in psutil.Process().children(recursive=True) if c.status() == psutil.STATUS_ZOMBIE]


def test_two_engines_share_one_import_and_are_processes_of_their_own(preloads: Preloads) -> None:
    first, one = preloads.ready()
    second, two = preloads.ready("", "control")
    (server,) = preloads.imports()
    assert one.preloaded
    assert two.preloaded
    assert len({server, one.effective["pid"], two.effective["pid"]}) == 3
    for client, ready in ((first, one), (second, two)):
        told = ready.effective
        assert client.pid == told["pid"] == told["session"], "it leads a session"
        assert told["arm"] == client.config.arm
        assert told["cwd"] == str(Path.cwd())
        assert told["cores"] == sorted(os.sched_getaffinity(0))
        assert client.startup(timeout_s=10) == ({"steps": 1},)
        assert "an engine begins" in client.log.read_text()
    assert one.effective["random"] != two.effective["random"], "nothing drawn is drawn twice"
    assert 0 < one.start_s < 30
    # Its own pipes, a pidfd and its log; nothing of the server's or of another engine's.
    kinds = [f.split(":")[0] for f in two.effective["files"]]
    assert (kinds.count("pipe"), kinds.count("socket")) == (2, 0), two.effective["files"]
    assert not any("engine-0" in f for f in two.effective["files"])
    first.close()
    second.close()
    assert not runs(one.effective["pid"])
    assert not runs(two.effective["pid"])
    assert not zombies()


def test_without_the_flag_nothing_of_it_is_told(preloads: Preloads) -> None:
    client = preloads.client()
    client._preload = None
    client.spawn()
    ready = client.wait_ready(30)
    assert not ready.preloaded
    assert ready.start_s == 1.5
    assert preloads.imports() == []


def test_variables_that_are_read_late_are_the_engines_own_and_others_want_another_import(
    preloads: Preloads,
) -> None:
    _, plain = preloads.ready(VLLM_CACHE_ROOT="/a", BI_HARNESS_X="1", PYTEST_CURRENT_TEST="one")
    _, late = preloads.ready(VLLM_CACHE_ROOT="/b", VLLM_BATCH_INVARIANT="1", PYTEST_CURRENT_TEST="two")
    assert len(preloads.imports()) == 1
    assert plain.effective["env"]["VLLM_CACHE_ROOT"] == "/a"
    assert late.effective["env"]["VLLM_CACHE_ROOT"] == "/b"
    assert late.effective["env"]["VLLM_BATCH_INVARIANT"] == "1"
    assert "BI_HARNESS_X" not in late.effective["env"], "what the first one has alone is not there"
    _, other = preloads.ready(OMP_NUM_THREADS="1")
    assert other.preloaded
    assert len(preloads.imports()) == 2
    assert other.effective["env"]["OMP_NUM_THREADS"] == "1"


@pytest.mark.parametrize(
    "read",
    [
        'os.environ.get("VLLM_BATCH_INVARIANT")',
        'os.getenv("VLLM_BATCH_INVARIANT", "0")',
        '"VLLM_BATCH_INVARIANT" in os.environ',
    ],
)
def test_a_variable_that_an_import_did_read_wants_another_import(preloads: Preloads, read: str) -> None:
    preloads.module("early", f"import imported, os\nX = {read}\n")
    _, one = preloads.ready("", "treatment", "early", VLLM_BATCH_INVARIANT="1")
    _, two = preloads.ready("", "control", "early", VLLM_BATCH_INVARIANT="0")
    _, three = preloads.ready("", "control", "early", VLLM_BATCH_INVARIANT="0", VLLM_CACHE_ROOT="/b")
    assert one.preloaded
    assert two.preloaded
    assert three.preloaded
    assert len(preloads.imports()) == 2


def test_a_module_that_is_not_there_is_left_out(preloads: Preloads) -> None:
    _, ready = preloads.ready("", "treatment", "no.such.module imported")
    assert ready.preloaded
    assert "no.such.module is not there: left out" in (preloads.logs / "preload-1.log").read_text()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (
            "import threading, time\nthreading.Thread(target=time.sleep, args=(600,), daemon=True).start()",
            "threads",
        ),
        ("raise ImportError('broken')", "ImportError: broken"),
        ("import os\nos._exit(3)", "ended: exit code 3"),
        ("import os\nos.kill(os.getpid(), 11)", "ended: killed by SIGSEGV"),
        (
            "from multiprocessing.shared_memory import SharedMemory as S; X = S(None, True, 9); X.unlink()",
            "resource tracker",
        ),
    ],
)
def test_where_it_cannot_be_forked_engines_start_the_ordinary_way_and_say_why(
    preloads: Preloads, text: str, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    preloads.module("bad", text)
    for _ in range(2):  # the second is told at once
        client, ready = preloads.ready("", "treatment", "imported bad")
        assert not ready.preloaded
        assert client.startup(timeout_s=10)
        told = client.log.read_text()
        assert "imports vLLM by itself" in told
        assert says in told
    assert len(preloads.imports()) == 1


@pytest.fixture
def fit(monkeypatch: pytest.MonkeyPatch) -> None:
    """This process may fork, as far as the look at it goes, whatever other tests imported and started."""
    monkeypatch.setattr(forkserver, "_threads", lambda: 1)
    for name in ("torch", "vllm.plugins", "vllm.envs", "multiprocessing.resource_tracker"):
        monkeypatch.delitem(sys.modules, name, raising=False)


@pytest.mark.parametrize(
    ("name", "counts"),
    [("cuda00001800007", False), ("jemalloc_bg_thd", False), ("cuda-EvtHandlr", True), ("python", True)],
)
def test_threads_that_a_fork_may_lack(name: str, counts: bool) -> None:
    before = forkserver._threads()
    done = threading.Event()

    def body() -> None:
        (Path("/proc/self/task") / str(threading.get_native_id()) / "comm").write_text(name)
        named.set()
        done.wait(30)

    named = threading.Event()
    thread = threading.Thread(target=body)
    thread.start()
    try:
        assert named.wait(10)
        assert forkserver._threads() - before == counts
    finally:
        done.set()
        thread.join()


@pytest.mark.usefixtures("fit")
@pytest.mark.parametrize(
    ("name", "module", "says"),
    [
        (
            "torch",
            {"cuda": type("C", (), {"is_initialized": staticmethod(lambda: True)})},
            "initialised CUDA",
        ),
        ("vllm.plugins", {"plugins_loaded": True}, "loaded vLLM's plugins"),
        ("vllm.envs", {"__getattr__": type("F", (), {"cache_info": None})}, "keep its variables"),
        (
            "multiprocessing.resource_tracker",
            {"_resource_tracker": type("T", (), {"_fd": 3})},
            "started Python's resource tracker",
        ),
    ],
)
def test_what_forbids_a_fork_is_told(
    monkeypatch: pytest.MonkeyPatch, name: str, module: dict[str, Any], says: str
) -> None:
    forkserver.check()
    monkeypatch.setitem(sys.modules, name, type("M", (), module))  # type: ignore[arg-type]
    with pytest.raises(forkserver.Unfit, match=says):
        forkserver.check()


@pytest.fixture
def driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Loads what stands for CUDA's driver, with its answer to how many GPUs there are."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("there is no C compiler")

    def load(answer: int) -> None:
        source, built = tmp_path / "driver.c", tmp_path / f"driver-{answer}.so"
        source.write_text(f"int cuDeviceGetCount(int *count) {{ return {answer}; }}")
        soname = f"libbih{uuid.uuid4().hex}.so.1"
        monkeypatch.setattr(forkserver, "_CUDA", soname)
        subprocess.run(
            [compiler, "-shared", "-fPIC", f"-Wl,-soname,{soname}", "-o", built, source], check=True
        )
        ctypes.CDLL(str(built))

    monkeypatch.setattr(forkserver, "_CUDA", "libbih-of-nobody.so.1")
    return load


@pytest.mark.usefixtures("fit")
def test_cuda_that_was_initialised_by_whomever_forbids_a_fork(driver: Callable[[int], None]) -> None:
    forkserver.check()  # it is not loaded
    driver(3)  # CUDA_ERROR_NOT_INITIALIZED: loaded, as with vLLM's own operators
    forkserver.check()
    for answer in (0, 100):  # CUDA_SUCCESS, CUDA_ERROR_NO_DEVICE
        driver(answer)
        with pytest.raises(forkserver.Unfit, match="initialised CUDA's driver"):
            forkserver.check()


NVML = """
import sys, types
nvml = types.ModuleType("vllm.third_party.pynvml")
nvml.nvmlInit = nvml.nvmlShutdown = lambda: None
nvml.nvmlDeviceGetCount = lambda: 2
nvml.nvmlDeviceGetHandleByIndex = lambda i: i
nvml.nvmlDeviceGetName = lambda gpu: "a GPU"
nvml.nvmlDeviceGetCudaComputeCapability = lambda gpu: (9, gpu * OTHER)
sys.modules[nvml.__name__] = nvml
"""


@pytest.mark.parametrize(
    ("reader", "nvml", "imports"),
    [
        ("vllm.triton_utils.importing", "", 1),
        ("vllm.platforms.interface", "", 2),
        ("vllm.platforms.interface", "OTHER = 0" + NVML, 1),
        ("vllm.platforms.interface", "OTHER = 1" + NVML, 2),
        ("some.other.module", "OTHER = 0" + NVML, 2),
    ],
)
def test_engines_on_other_gpus_share_an_import_that_did_not_look_which_they_are(
    preloads: Preloads, reader: str, nvml: str, imports: int
) -> None:
    asks = 'exec("import os; os.environ.get(\'CUDA_VISIBLE_DEVICES\')", {"__name__": NAME})\n'
    preloads.module(
        "gpus",
        f"import imported\n{nvml}\n{asks.replace('NAME', repr(reader))}"
        f"{asks.replace('NAME', repr('triton.backends.nvidia.driver'))}",
    )
    for gpu in ("0", "1"):
        _, ready = preloads.ready("", "treatment", "gpus", CUDA_VISIBLE_DEVICES=gpu)
        assert ready.preloaded
        assert ready.effective["env"]["CUDA_VISIBLE_DEVICES"] == gpu
    assert len(preloads.imports()) == imports


@pytest.mark.parametrize(
    ("how", "says"),
    [("SIGSEGV", "killed by SIGSEGV"), ("SIGKILL", "killed by SIGKILL"), ("exit7", "exit code 7")],
)
def test_how_an_engine_ended_is_passed_on(preloads: Preloads, how: str, says: str) -> None:
    client, ready = preloads.ready(how)
    with pytest.raises(EngineDied, match=says):
        client.startup(timeout_s=10)
    assert client.pid is None
    assert not runs(ready.effective["pid"])
    _, another = preloads.ready()
    assert another.preloaded, "the others are not affected"


def test_an_engine_takes_its_children_along(preloads: Preloads) -> None:
    client, ready = preloads.ready("child")
    child = ready.effective["child"]
    assert runs(child)
    client.close()
    assert not runs(child)


def test_a_server_that_is_killed_takes_its_engines_along_and_later_ones_start_the_ordinary_way(
    preloads: Preloads,
) -> None:
    client, ready = preloads.ready("child")
    (server,) = preloads.imports()
    os.kill(server, signal.SIGKILL)
    until(lambda: not runs(ready.effective["pid"]), 5)
    with pytest.raises(EngineDied, match="SIGKILL"):
        client.startup(timeout_s=10)
    assert not runs(ready.effective["pid"])
    assert not runs(ready.effective["child"])
    later, ordinary = preloads.ready()
    assert not ordinary.preloaded
    assert "ended: killed by SIGKILL" in later.log.read_text()


def test_one_that_is_not_wanted_any_more_never_begins(preloads: Preloads) -> None:
    preloads.ready()
    client = preloads.client()
    client.spawn()
    client.close()
    time.sleep(1.0)
    assert "begins" not in client.log.read_text()
    assert not (client._folder / NOTE).exists()
    assert len(preloads.servers()[0].children()) == 1
    client.close()


def test_an_engine_that_is_asked_for_twice_works_twice(preloads: Preloads) -> None:
    client, one = preloads.ready()
    client.close()
    client.spawn()
    two = client.wait_ready(30)
    assert two.preloaded
    assert one.effective["pid"] != two.effective["pid"]


ASKS = """
import sys, time
from pathlib import Path
from tests.runner.test_preload import Preloads
made = Preloads.__new__(Preloads)
made.__dict__.update(eval(sys.argv[1], {"Path": Path, "PosixPath": Path}))
client, ready = made.ready("child")
print(ready.effective["pid"], ready.effective["child"], flush=True)
time.sleep(600)
"""


def unit_of(preloads: Preloads) -> tuple[subprocess.Popen[bytes], int, int]:
    """A process that has an engine; its engine's and that one's child's number."""
    told = {k: v for k, v in vars(preloads).items() if k != "service"} | {"made": []}
    unit = subprocess.Popen(
        [sys.executable, "-c", ASKS, repr(told)],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        start_new_session=True,
    )
    assert unit.stdout is not None
    pid, child = map(int, unit.stdout.readline().split())
    return unit, pid, child


def test_a_unit_that_is_killed_takes_its_engines_along(preloads: Preloads) -> None:
    unit, pid, child = unit_of(preloads)
    with unit:
        unit.kill()
    until(lambda: not runs(pid) and not runs(child), 5)
    until(lambda: not preloads.servers()[0].children(), 5)


def test_the_runner_finds_the_engines_of_a_unit_that_is_gone(
    preloads: Preloads, monkeypatch: pytest.MonkeyPatch
) -> None:
    unit, pid, child = unit_of(preloads)
    os.kill(pid, signal.SIGSTOP)  # so that it does not see by itself that it is alone
    with unit:
        unit.kill()
    assert noted_sessions(preloads.unit) == {pid}
    process.end_sessions(noted_sessions(preloads.unit))
    assert not runs(pid)
    assert not runs(child)
    assert process.members(noted_sessions(preloads.unit)) == []


@pytest.mark.parametrize("text", ["", "{", "[]", '{"pid": "x", "started": 1}', '{"pid": 1}', "9" * 5000])
def test_notes_that_make_no_sense_name_nobody(tmp_path: Path, text: str) -> None:
    (tmp_path / "engine").mkdir()
    (tmp_path / "engine" / NOTE).write_text(text)
    assert noted_sessions(tmp_path) == set()


def test_a_number_that_is_somebody_elses_by_now_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "engine").mkdir()
    started = preloaded_module._started(os.getpid())
    (tmp_path / "engine" / NOTE).write_text(json.dumps({"pid": os.getpid(), "started": started - 1}))
    assert noted_sessions(tmp_path) == set()


RUNS = """
import sys, time
from pathlib import Path
from bi_harness.runner.preload import preloading
from tests.runner.test_preload import Preloads
made = Preloads(Path(sys.argv[1]))
with preloading(made.work, made.logs) as made.socket:
    client, ready = made.ready("child")
    print(*made.imports(), ready.effective["pid"], ready.effective["child"], flush=True)
    time.sleep(600)
"""


def test_a_runner_that_is_killed_takes_all_along(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", RUNS, str(tmp_path)],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    ) as runner:
        assert runner.stdout is not None
        pids = [int(word) for word in runner.stdout.readline().split()]
        assert len(pids) == 3
        (folder,) = tmp_path.glob("2026*")
        found = {p.pid for p in leftovers(folder)}
        assert {pids[0], pids[1]} <= found, "a run that is resumed waits for them"
        runner.kill()
    until(lambda: not any(runs(pid) for pid in pids), 5)


@pytest.mark.long
def test_a_runner_that_dies_while_vllm_is_imported_takes_that_along(tmp_path: Path) -> None:
    made = Preloads(tmp_path)
    code = RUNS.replace('made.ready("child")', 'made.ready("", "treatment", "imported slow")').replace(
        "made = Preloads(Path(sys.argv[1]))",
        "made = Preloads.__new__(Preloads); made.__dict__.update(eval(sys.argv[1], {'PosixPath': Path}))",
    )
    made.module("slow", "import time\ntime.sleep(600)")
    with subprocess.Popen(
        [sys.executable, "-c", code, repr(vars(made))], env={**os.environ, "PYTHONPATH": str(ROOT)}
    ) as runner:
        until(lambda: len(made.imports()) == 1, 20)
        runner.kill()
    until(lambda: not runs(made.imports()[0]), 5)


def test_the_end_of_a_run_does_not_wait_for_an_import(tmp_path: Path) -> None:
    made = Preloads(tmp_path)
    made.module("slow", "import time\ntime.sleep(600)")
    with preloading(made.work, made.logs) as made.socket:
        client = made.client("", "treatment", "imported slow")
        client.spawn()
        until(lambda: len(made.imports()) == 1, 20)
        began = time.monotonic()
    assert time.monotonic() - began < 10
    assert not runs(made.imports()[0])
    client.close()


def test_nobody_else_can_reach_it(preloads: Preloads) -> None:
    assert preloads.socket is not None
    assert stat.S_IMODE(preloads.socket.stat().st_mode) == 0o600
    assert stat.S_IMODE(preloads.socket.parent.stat().st_mode) == 0o700


def test_another_user_is_refused(preloads: Preloads, monkeypatch: pytest.MonkeyPatch) -> None:
    own = os.getuid()
    monkeypatch.setattr(preload_module.os, "getuid", lambda: own + 1)
    client, ready = preloads.ready()
    assert not ready.preloaded
    # Nothing of what it says is read, so that the answer may be lost on the way.
    assert "imports vLLM by itself" in client.log.read_text()
    assert len(preloads.imports()) == 0


def test_a_path_of_any_length_will_do(tmp_path: Path) -> None:
    folder = tmp_path / ("a" * 100) / ("b" * 100)
    folder.mkdir(parents=True)
    made = Preloads(folder)
    with preloading(made.work, made.logs) as made.socket:
        client, ready = made.ready()
        assert ready.preloaded
        client.close()


def test_a_folder_that_cannot_be_written_means_no_preloading(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "work").write_text("a file")
    with preloading(tmp_path / "work", tmp_path) as found:
        assert found is None
    assert "--preload: not on this host" in capsys.readouterr().err


def good_request(preloads: Preloads) -> dict[str, Any]:
    config = preloads.client().config
    return {
        "python": config.python,
        "platform": "cpu",
        "env": dict(config.env),
        "surroundings": messages.surroundings(),
        "argv": ["x"],
        "asked": time.monotonic(),
    }


@pytest.mark.parametrize(
    "wrong",
    [
        {"python": 1},
        {"platform": "../cpu"},
        {"env": {"A": 1}},
        {"env": None},
        {"surroundings": {}},
        {"surroundings": {"cores": ["0"]}},
        {"argv": "x"},
        {"argv": [1]},
        {"asked": "now"},
    ],
)
def test_requests_that_make_no_sense_are_refused(preloads: Preloads, wrong: dict[str, Any]) -> None:
    assert preloads.socket is not None
    with messages.connect(preloads.socket) as connection:
        files = [os.dup(0) for _ in range(4)]
        messages.send(connection, good_request(preloads) | wrong, files)
        messages.close_all(files)
        received = messages.receive(connection)
    assert received is not None
    assert "makes no sense" in received[0]["refused"]
    assert preloads.imports() == []


@pytest.mark.parametrize("data", [b"x", b"{", b"[]", b"\xff" * 100, b"[" * 100_000])
def test_garbage_is_refused_and_the_service_goes_on(preloads: Preloads, data: bytes) -> None:
    assert preloads.socket is not None
    with messages.connect(preloads.socket) as connection:
        connection.send(data)
        received = messages.receive(connection)
    assert received is not None
    assert "refused" in received[0]
    with messages.connect(preloads.socket) as connection:
        messages.send(connection, good_request(preloads))  # without files
        received = messages.receive(connection)
    assert received is not None
    assert "makes no sense" in received[0]["refused"]
    _, ready = preloads.ready()
    assert ready.preloaded


def test_who_has_other_limits_is_refused_and_who_has_other_cores_has_them(
    preloads: Preloads, monkeypatch: pytest.MonkeyPatch
) -> None:
    around = messages.surroundings()
    core = around["cores"][-1]
    monkeypatch.setattr(preloaded_module.messages, "surroundings", lambda: {**around, "cores": [core]})
    _, pinned = preloads.ready()
    assert pinned.preloaded
    assert pinned.effective["cores"] == [core]
    monkeypatch.setattr(preloaded_module.messages, "surroundings", lambda: {**around, "umask": "0777"})
    client, other = preloads.ready()
    assert not other.preloaded
    assert "has not what the run has: umask" in client.log.read_text()


@pytest.mark.long
def test_there_is_an_end_to_how_many_are_imported(
    preloads: Preloads, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preload_module, "MOST_SERVERS", 1)
    preloads.ready()
    client, ready = preloads.ready(OMP_NUM_THREADS="1")
    assert not ready.preloaded
    assert "for other engines" in client.log.read_text()


def test_a_message_has_an_end(tmp_path: Path) -> None:
    a, b = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with a, b:
        a.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8 * messages.MOST)
        with pytest.raises(OSError, match="too long"):
            messages.send(a, {"x": "y" * (64 * messages.MOST)})
