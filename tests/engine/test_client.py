"""The client's own logic against a fake worker: every end of an engine is told, and nothing outlives it."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bi_harness.engine import client as client_module
from bi_harness.engine.client import EngineClient, last_error_line, log_tail, row_order
from bi_harness.engine.config import EngineConfig
from bi_harness.errors import EngineDied, EngineError, EngineStartError, EngineTimeout, InfrastructureError
from bi_harness.workload.requests import Limits, Member, Request
from tests.compare.made import observations

FAKE = Path(__file__).with_name("fake_worker.py")


class Fakes:
    """Makes clients of fake workers, and clears up."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.made: list[EngineClient] = []
        self.python = folder / "python"
        # "-m bi_harness.engine.worker" becomes the fake.
        self.python.write_text(f'#!/bin/sh\nshift 2\nexec "{sys.executable}" "{FAKE}" "$@"\n')
        self.python.chmod(0o755)

    def client(self, how: str = "", llm: dict[str, Any] | None = None, **env: str) -> EngineClient:
        fields: dict[str, Any] = {
            "arm": "treatment",
            "python": str(self.python),
            "platform": "cpu",
            "invariance": True,
            "llm": {"model": "m", **(llm or {})},
            "checkpoint": None,
            "env": {
                "PATH": os.environ["PATH"],
                "FAKE": how,
                "PIDS": str(self.folder / "pids"),
                "TOLD": str(self.folder / "told"),
                # The fake needs numpy, which the real engine's interpreter has.
                "PYTHONPATH": os.pathsep.join(p for p in sys.path if "site-packages" in p),
                **env,
            },
            "room_for_two": True,
        }
        names = set(EngineConfig.__dataclass_fields__)
        fields |= dict.fromkeys(names - set(fields))
        name = f"engine-{len(self.made)}"
        made = EngineClient(EngineConfig(**fields), self.folder / name, self.folder / f"{name}.log")
        self.made.append(made)
        return made

    def ready(self, how: str = "", **env: str) -> EngineClient:
        made = self.client(how, **env)
        made.spawn()
        made.wait_ready(30)
        return made

    def children(self) -> list[int]:
        file = self.folder / "pids"
        return [int(line) for line in file.read_text().split()] if file.exists() else []

    def left(self) -> list[int]:
        return [pid for pid in self.children() if runs(pid)]


def runs(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.fixture
def fakes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Fakes]:
    monkeypatch.setattr(client_module, "STOP_GRACE_S", 3.0)
    monkeypatch.setattr(client_module, "EXIT_WAIT_S", 1.0)
    made = Fakes(tmp_path)
    yield made
    for client in made.made:
        client.kill()
    for pid in made.left():
        os.kill(pid, signal.SIGKILL)


def requests(count: int = 3, length: int = 4) -> list[Request]:
    return [Request((100 + i,) * length, 2, 0.0, None, 2) for i in range(count)]


def test_an_engine_answers_and_its_observations_come_in_request_order(fakes: Fakes) -> None:
    seen: list[tuple[int, int]] = []
    with fakes.client() as client:
        client.spawn()
        assert client.pid is not None
        ready = client.wait_ready(30)
        assert (ready.provenance, ready.start_s) == ({"vllm": "fake"}, 1.5)
        for bursts in ([[0, 1], [2]], [[2, 0], [1]]):
            burst = client.generate(
                requests(), bursts, timeout_s=30, progress=lambda done, of: seen.append((done, of))
            )
            assert burst.observations.tokens[:, 0].tolist() == [100, 101, 102]
            assert [s.max_requests for s in burst.steps] == [2, 1]
            assert burst.generate_s == 0.5
    assert seen == [(1, 2), (1, 2)]
    assert client.pid is None
    assert "told to stop" in fakes.made[0].log.read_text()


def test_an_engine_tells_what_its_start_counted(fakes: Fakes) -> None:
    client = fakes.ready()
    assert client.startup(timeout_s=30) == ({"layers": 4},)
    assert client.generate(requests(1), [[0]], timeout_s=30).steps, "and goes on"


@pytest.mark.parametrize("ranks", ["none", "nonsense"])
def test_counters_that_are_none_are_an_error_of_the_engine(fakes: Fakes, ranks: str) -> None:
    client = fakes.ready(RANKS=ranks)
    with pytest.raises(EngineError, match="did not tell its counters"):
        client.startup(timeout_s=30)
    assert client.pid is None


@pytest.mark.parametrize(("how", "says"), [("exit", "exit code 3"), ("error", "no such backend")])
def test_an_engine_that_fails_while_it_tells_is_gone(fakes: Fakes, how: str, says: str) -> None:
    client = fakes.ready(f"{how}@startup")
    with pytest.raises(EngineError, match=says):
        client.startup(timeout_s=30)
    assert client.pid is None


def test_an_engine_is_asked_for_its_modules_step_by_step(fakes: Fakes) -> None:
    client = fakes.ready()
    assert client.modules("begin", {"rows": 3}, timeout_s=30) == {"ask": "begin", "with": {"rows": 3}}
    assert client.generate(requests(1), [[0]], timeout_s=30).steps, "and generates in between"
    odd = fakes.ready(FOUND="nonsense")
    with pytest.raises(EngineError, match="did not audit its modules"):
        odd.modules("begin", {}, timeout_s=30)
    assert odd.pid is None


@pytest.mark.parametrize(("how", "says"), [("exit", "exit code 3"), ("error", "no such backend")])
def test_an_engine_that_fails_while_it_is_audited_is_gone(fakes: Fakes, how: str, says: str) -> None:
    client = fakes.ready(f"{how}@modules")
    with pytest.raises(EngineError, match=says):
        client.modules("rest", {}, timeout_s=30)
    assert client.pid is None


def test_an_engine_empties_its_cache(fakes: Fakes) -> None:
    client = fakes.ready()
    client.forget(timeout_s=30)
    assert client.generate(requests(1), [[0]], timeout_s=30).steps, "and goes on"
    full = fakes.ready(IN_USE="1")
    with pytest.raises(EngineError, match=r"did not empty its cache.*blocks are in use"):
        full.forget(timeout_s=30)
    assert full.pid is None


@pytest.mark.parametrize(("how", "says"), [("exit", "exit code 3"), ("error", "no such backend")])
def test_an_engine_that_fails_while_it_empties_its_cache_is_gone(fakes: Fakes, how: str, says: str) -> None:
    client = fakes.ready(f"{how}@forget")
    with pytest.raises(EngineError, match=says):
        client.forget(timeout_s=30)
    assert client.pid is None


def test_the_worker_gets_its_configuration_and_its_environment(fakes: Fakes) -> None:
    client = fakes.client(X="y")
    client.spawn()
    effective = client.wait_ready(30).effective
    assert effective["config"] == client.config.for_worker()
    assert effective["env"]["X"] == "y"
    assert "HOME" not in effective["env"]
    site, *others = effective["env"]["PYTHONPATH"].split(os.pathsep)
    assert (Path(site) / "bi_harness").is_dir()
    assert os.pathsep.join(others) == client.config.env["PYTHONPATH"]
    assert effective["env"]["BI_HARNESS_STEP_LOG"].startswith(str(fakes.folder))


@pytest.mark.parametrize("bursts", [[], [[0]], [[0, 1], [1, 2]], [[0, 1, 2, 3]], [[-1, 0, 1]]])
def test_requests_in_no_burst_or_in_two_are_refused(fakes: Fakes, bursts: list[list[int]]) -> None:
    client = fakes.ready()
    with pytest.raises(ValueError, match="exactly one burst"):
        client.generate(requests(), bursts, timeout_s=30)
    # It was not even asked.
    assert client.generate(requests(), [[0, 1, 2]], timeout_s=30).observations.requests == 3


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ("error", "the treatment engine did not start: ValueError: no such backend"),
        ("oom_error", "did not start: it ran out of memory: ValueError: larger than"),
        ("nameless_error", "did not start: RuntimeError: it is in the log"),
        ("exit", r"died \(exit code 3\): its log says nothing"),
        ("SIGKILL", r"died \(killed by SIGKILL \(often the kernel's out-of-memory killer\)\)"),
        ("SIGSEGV", r"died \(killed by SIGSEGV\)"),
        ("oom", r"died \(exit code 3\): it ran out of memory: torch\.OutOfMemoryError: CUDA out of memory"),
        ("half_line", r"died \(exit code 3\)"),
        ("garbage", "answered with what is no message: not JSON"),
        ("list", "answered with what is no message: not an object"),
        ("eventless", "answered with what is no message: no event"),
        ("half_ready", "did not say what it is: KeyError: 'provenance'"),
        ("close", "closed its pipe without an answer"),
        ("orphan_holds_pipe", "killed by SIGKILL"),
    ],
)
def test_an_engine_that_does_not_start_says_why(fakes: Fakes, how: str, says: str) -> None:
    client = fakes.client(f"{how}@start")
    client.spawn()
    started = time.monotonic()
    with pytest.raises(EngineStartError, match=says):
        client.wait_ready(60)
    assert time.monotonic() - started < 20
    assert client.pid is None
    assert fakes.left() == []


@pytest.mark.parametrize(
    ("how", "kind", "says"),
    [
        ("error", EngineError, "failed while generating: ValueError: no such backend"),
        ("exit", EngineDied, r"died \(exit code 3\)"),
        ("SIGABRT", EngineDied, r"died \(killed by SIGABRT\)"),
        ("oom", EngineDied, "ran out of memory"),
        ("garbage", EngineError, "no message"),
        ("close", EngineDied, "closed its pipe"),
        ("orphan_holds_pipe", EngineDied, "killed by SIGKILL"),
        ("orphan_apart", EngineDied, "killed by SIGKILL"),
    ],
)
def test_an_engine_that_fails_in_the_middle_says_why_and_is_gone(
    fakes: Fakes, how: str, kind: type[EngineError], says: str
) -> None:
    client = fakes.ready(f"{how}@generate")
    with pytest.raises(kind, match=says) as caught:
        client.generate(requests(), [[0, 1, 2]], timeout_s=60)
    assert type(caught.value) is kind
    assert client.pid is None
    assert fakes.left() == []
    with pytest.raises(EngineError, match="is not running"):
        client.generate(requests(), [[0, 1, 2]], timeout_s=60)


@pytest.mark.parametrize("how", ["one_short", "no_steps", "odd_steps", "bad_array"])
def test_an_answer_that_makes_no_sense_is_an_error_of_the_engine(fakes: Fakes, how: str) -> None:
    client = fakes.ready(how)
    with pytest.raises(EngineError, match="make no sense"):
        client.generate(requests(), [[0, 1, 2]], timeout_s=30)
    assert client.pid is None


@pytest.mark.parametrize("when", ["start", "generate"])
def test_an_engine_that_hangs_is_killed_with_its_children(fakes: Fakes, when: str) -> None:
    client = fakes.client(f"hang@{when}")
    client.spawn()
    pid = client.pid
    assert pid is not None
    if when == "generate":
        client.wait_ready(30)
    started = time.monotonic()
    with pytest.raises(EngineTimeout, match=r"was not ready after 2 s|did not finish within 2 s"):
        _ = client.wait_ready(2) if when == "start" else client.generate(requests(), [[0, 1, 2]], timeout_s=2)
    assert 2 <= time.monotonic() - started < 10
    assert len(fakes.children()) == 2
    assert fakes.left() == []
    assert not runs(pid)


def test_ranks_that_did_not_come_up_are_named(fakes: Fakes) -> None:
    client = fakes.client("hang@start", llm={"data_parallel_size": 3})
    client.spawn()
    steps = client._folder / "steps"
    steps.mkdir()
    (steps / "steps-dp1-77.jsonl").touch()
    with pytest.raises(EngineTimeout, match=r"of 3 data parallel ranks, 0, 2 did not come up"):
        client.wait_ready(1)


def test_an_engine_that_reads_no_commands_is_killed(fakes: Fakes) -> None:
    client = fakes.ready("hang@idle")
    with pytest.raises(EngineTimeout, match="does not read its commands"):
        client.generate(requests(4, length=100_000), [[0, 1, 2, 3]], timeout_s=2)
    assert fakes.left() == []


def test_an_engine_that_closed_its_commands_is_dead(fakes: Fakes) -> None:
    client = fakes.ready("deaf@idle")
    time.sleep(0.5)
    with pytest.raises(EngineDied):
        client.generate(requests(), [[0, 1, 2]], timeout_s=30)
    assert client.pid is None


def test_an_engine_that_died_between_two_commands_is_dead(fakes: Fakes) -> None:
    client = fakes.ready("exit@idle")
    with pytest.raises(EngineDied, match="exit code 3"):
        client.generate(requests(), [[0, 1, 2]], timeout_s=30)


def test_large_messages_go_both_ways(fakes: Fakes) -> None:
    """Tens of megabytes, where a pipe holds 64 KiB."""
    client = fakes.ready(WIDTH="20000")
    many = requests(60, length=50_000)
    started = time.monotonic()
    burst = client.generate(many, [list(range(60))], timeout_s=120)
    assert burst.observations.ids.shape == (60, 2, 20_000)
    assert np.array_equal(burst.observations.ids[:, 1, -1], np.arange(100, 160))
    assert time.monotonic() - started < 60


def commands(client: EngineClient) -> list[dict[str, Any]]:
    """What the fake was told to do, but for the requests."""
    lines = client.log.read_text().splitlines()
    return [json.loads(line.removeprefix("command ")) for line in lines if line.startswith("command ")]


def test_limits_are_sent_with_the_bursts_that_they_are_for(fakes: Fakes) -> None:
    client = fakes.ready()
    for limits in (Limits(step_tokens=61), Limits(kv_growth=0.25), Limits(planted="split"), None):
        client.generate(requests(), [[0, 1, 2]], timeout_s=30, limits=limits)
    client.generate(requests(), [[0, 1, 2]], timeout_s=30)
    sent = commands(client)
    assert [command.get("limits") for command in sent] == [
        {"step_tokens": 61, "kv_growth": None, "planted": None},
        {"step_tokens": None, "kv_growth": 0.25, "planted": None},
        {"step_tokens": None, "kv_growth": None, "planted": "split"},
        None,
        None,
    ]
    assert ["limits" in command for command in sent] == [True, True, True, False, False]


def test_members_are_sent_with_their_arrivals_and_aborts(fakes: Fakes) -> None:
    client = fakes.ready()
    client.generate(requests(), [[Member(2, 3, 5), 0], [Member(1, arrival=4)]], timeout_s=30)
    assert commands(client)[0]["bursts"] == [[[2, 3, 5], [0, 0, None]], [[1, 4, None]]]


def test_a_requests_sequences_come_as_rows_in_request_order(fakes: Fakes) -> None:
    client = fakes.ready()
    some = [Request((10 * i,) * 3, 2, 0.8, i, 2, n=n) for i, n in enumerate((2, 1, 3))]
    for bursts in ([[0, 1, 2]], [[2, 1, 0]], [[2], [0, 1]]):
        burst = client.generate(some, bursts, timeout_s=30)
        assert burst.observations.tokens[:, 0].tolist() == [0, 1, 10, 20, 21, 22]


@given(st.lists(st.integers(1, 4), max_size=6), st.randoms(use_true_random=False))
def test_rows_of_an_answer_go_to_their_requests(numbers: list[int], random: Any) -> None:
    some = [Request((i,), 1, 0.8, i, 1, n=n) for i, n in enumerate(numbers)]
    order = random.sample(range(len(some)), len(some))
    wanted = [(index, i) for index, n in enumerate(numbers) for i in range(n)]
    answered = [(index, i) for index in order for i in range(numbers[index])]
    places = row_order(some, order)
    assert sorted(places) == list(range(len(wanted)))
    assert [wanted[place] for place in places] == answered
    # The observations are put right by it.
    made = observations(len(answered), 1, 1)
    by_name = dict(zip(answered, made.tokens[:, 0].tolist(), strict=True))
    assert made.reordered(places).tokens[:, 0].tolist() == [by_name[name] for name in wanted]


def test_rows_of_requests_with_one_sequence_are_the_order_itself() -> None:
    assert row_order(requests(4), [2, 0, 3, 1]) == [2, 0, 3, 1]
    assert row_order([], []) == []


def told(client: EngineClient) -> int:
    return client.log.read_text().count("told to stop")


def test_an_engine_that_was_asked_to_stop_is_told_once_and_ends_by_itself(fakes: Fakes) -> None:
    client = fakes.ready()
    pid = client.pid
    assert pid is not None
    client.ask_to_stop()
    client.ask_to_stop()
    assert client.pid == pid  # nothing was waited for
    deadline = time.monotonic() + 20
    while runs(pid) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not runs(pid)
    client.close()
    assert client.pid is None
    client.ask_to_stop()
    client.close()
    assert told(client) == 1


def test_asking_does_not_wait(fakes: Fakes) -> None:
    client = fakes.ready("stop_slowly")
    started = time.monotonic()
    client.ask_to_stop()
    assert time.monotonic() - started < 2
    assert client.pid is not None
    client.close()  # it does not end by itself
    assert client.pid is None


def test_of_two_engines_both_are_told_before_one_is_waited_for(fakes: Fakes) -> None:
    """Each ends when the other was told, and would else be killed after its time."""
    two = [fakes.client("stop_together") for _ in range(2)]
    for client in two:
        client.spawn()
    for client in two:
        client.wait_ready(60)
    for client in two:
        client.ask_to_stop()
    for client in two:
        client.close()
    assert [told(client) for client in two] == [1, 1]
    assert ["all were told" in client.log.read_text() for client in two] == [True, True]


def test_one_that_never_started_or_died_can_be_asked_to_stop(fakes: Fakes) -> None:
    fakes.client().ask_to_stop()
    for how in ("exit@idle", "deaf@idle"):
        client = fakes.ready(how)
        time.sleep(0.3)
        client.ask_to_stop()
        client.close()
        assert client.pid is None
    assert fakes.left() == []


def test_an_engine_that_was_asked_to_stop_generates_no_more(fakes: Fakes) -> None:
    client = fakes.ready()
    client.ask_to_stop()
    with pytest.raises(EngineDied):
        client.generate(requests(), [[0, 1, 2]], timeout_s=30)
    assert client.pid is None


def test_closing_ends_it_and_its_children_and_may_be_done_twice(fakes: Fakes) -> None:
    client = fakes.ready("children")
    pid = client.pid
    assert pid is not None
    client.close()
    assert fakes.left() == []
    assert not runs(pid)
    client.close()
    client.kill()


def test_closing_one_that_hangs_or_never_started_works(fakes: Fakes) -> None:
    fakes.client().close()
    hanging = fakes.ready("hang@idle")
    hanging.close()
    assert hanging.pid is None
    assert fakes.left() == []


def test_no_file_descriptor_is_left(fakes: Fakes) -> None:
    def descriptors() -> int:
        return len(os.listdir("/proc/self/fd"))

    fakes.ready().close()
    before = descriptors()
    for how in ("", "exit@start", "garbage@start"):
        client = fakes.client(how)
        client.spawn()
        if how:
            with pytest.raises(EngineStartError):
                client.wait_ready(30)
        client.close()
    assert descriptors() == before


def test_an_interpreter_that_is_not_there_is_named(fakes: Fakes) -> None:
    fakes.python.unlink()
    client = fakes.client()
    with pytest.raises(InfrastructureError, match="cannot start"):
        client.spawn()
    client.close()


def test_the_tail_of_a_log(tmp_path: Path) -> None:
    log = tmp_path / "log"
    assert log_tail(log) == ""
    log.write_bytes(b"x" * 100_000 + b"\xff end")
    assert len(log_tail(log)) == 64 * 1024
    assert log_tail(log, 4) == " end"
    assert log_tail(log, 5) == "\ufffd end"


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("", ""),
        ("\n \n", ""),
        ("one\n two \n\n", "two"),
        ("ValueError: first\nKeyError: last\nINFO bye", "KeyError: last"),
        ("  torch.OutOfMemoryError: CUDA\n", "torch.OutOfMemoryError: CUDA"),
        ("INFO errors: none\nlast", "last"),
        ("x" * 900, "x" * 500),
    ],
)
def test_the_line_that_tells_what_went_wrong(text: str, line: str) -> None:
    assert last_error_line(text) == line
