"""The server's client against a stand-in: every end of a server is told, and nothing outlives it."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from bi_harness.engine import server as module
from bi_harness.engine.api import Speech, Streaming
from bi_harness.errors import EngineDied, EngineError, EngineStartError, EngineTimeout
from bi_harness.workload.requests import Limits, Member
from tests.engine.servers import Servers, requests

THIRD = np.float32(-1 / 3)


@pytest.fixture
def servers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Servers]:
    monkeypatch.setattr(module, "STOP_GRACE_S", 3.0)
    made = Servers(tmp_path)
    yield made
    made.clear()


@pytest.mark.parametrize("api", ["completions", "chat"])
@pytest.mark.parametrize("stream", ["never", "always", "alternate"])
def test_answers_come_in_request_order_with_every_bit(servers: Servers, api: str, stream: Streaming) -> None:
    seen: list[tuple[int, int]] = []
    with servers.client() as client:
        client.spawn()
        assert client.pid is not None
        ready = client.wait_ready(30)
        assert ready.effective["interface"] == "vllm serve"
        assert (ready.effective["invariance"], ready.effective["checkpoint"]) == (True, "sha256:1")
        view = client.speaking("chat" if api == "chat" else "completions", stream)
        bursts = [[2, 0], [Member(1)]]
        burst = view.generate(requests(), bursts, timeout_s=30, progress=lambda *x: seen.append(x))
    found = burst.observations
    first = [33 + n % 94 for n in (100, 101, 102)] if api == "chat" else [100, 101, 102]
    assert found.tokens[:, 0].tolist() == first
    assert found.lengths.tolist() == [2, 2, 2]
    assert found.logprobs[..., 0].view(np.uint32).tolist() == [[int(THIRD.view(np.uint32))] * 2] * 3
    assert [(s.max_requests, s.first_bursts) for s in burst.steps] == [(2, 1), (1, 0)]
    assert seen == [(1, 2), (2, 2)]
    assert client.pid is None
    assert servers.left() == []


def test_a_view_is_the_same_each_time(servers: Servers) -> None:
    client = servers.client()
    assert client.speaking("chat", "alternate") is client.speaking("chat", "alternate")
    assert client.speaking() is not client.speaking("chat")
    assert client.speaking().whole is client
    assert [Speech("chat", "alternate").streams(i) for i in range(3)] == [False, True, False]


@pytest.mark.parametrize(
    ("how", "error", "says"),
    [
        ("exit", EngineStartError, "ended before it was ready (exit code 3): ValueError: no such model"),
        ("slow", EngineTimeout, "was not ready after"),
        ("foreign", EngineStartError, "another server answers"),
        ("off", EngineStartError, "invariance was to be on and is not"),
        ("planted", EngineStartError, "planted in the process that takes requests is other"),
    ],
)
def test_a_server_that_is_not_what_was_asked_for(
    servers: Servers, how: str, error: type[EngineError], says: str
) -> None:
    client = servers.client(how)
    client.spawn()
    with pytest.raises(error) as caught:
        client.wait_ready(2 if how == "slow" else 30)
    assert says in str(caught.value)
    assert client.pid is None
    assert servers.left() == []


def test_a_port_in_use(servers: Servers) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        client = servers.client(port=other.getsockname()[1])
        client.spawn()
        with pytest.raises(EngineStartError, match="Address already in use"):
            client.wait_ready(30)
    assert servers.left() == []


def test_somebody_elses_server_on_the_port_is_not_taken_for_ours(servers: Servers) -> None:
    theirs = servers.ready()
    client = servers.client(port=int(theirs.url.rpartition(":")[2]))
    client.spawn()
    with pytest.raises(EngineStartError):
        client.wait_ready(30)
    assert client.pid is None
    theirs.close()
    assert servers.left() == []


def test_the_port_is_held_until_the_server_has_it(servers: Servers) -> None:
    client = servers.client()
    client.spawn()
    port = int(client.url.rpartition(":")[2])
    with socket.socket() as other, pytest.raises(OSError):
        other.bind(("127.0.0.1", port))
    client.wait_ready(30)
    assert client._held is None
    client.close()


@pytest.mark.parametrize(
    ("how", "stream", "error", "says"),
    [
        ("refuse", "never", EngineError, "HTTP 400: .*logprobs are off"),
        ("refuse", "always", EngineError, "HTTP 400: .*logprobs are off"),
        ("500", "never", EngineError, "HTTP 500"),
        ("garbage", "never", EngineError, "makes no sense"),
        ("rounded", "never", EngineError, "no float32: this server rounds"),
        ("rounded", "always", EngineError, "no float32: this server rounds"),
        ("few", "never", EngineError, "logprobs of 2"),
        ("prompt", "never", EngineError, "another prompt"),
        ("prompt", "always", EngineError, "another prompt"),
        ("endless", "always", EngineError, "without a finish_reason"),
        ("break", "always", EngineError, "."),
        ("stream-error", "always", EngineError, "the engine core is dead"),
        ("die", "never", EngineDied, "exit code 7"),
        ("die", "always", EngineDied, "the engine core is dead"),
    ],
)
def test_a_request_without_a_sound_answer(
    servers: Servers, how: str, stream: Streaming, error: type[EngineError], says: str
) -> None:
    client = servers.ready(how)
    with pytest.raises(error, match=says):
        client.speaking(stream=stream).generate(requests(), [[0, 1, 2]], timeout_s=30)
    assert client.pid is None
    assert servers.left() == []
    with pytest.raises(EngineError, match="not running"):
        client.generate(requests(), [[0, 1, 2]], timeout_s=30)


def test_a_request_that_hangs_is_ended_in_time(servers: Servers) -> None:
    client = servers.ready("hang")
    began = time.monotonic()
    with pytest.raises(EngineTimeout, match="did not finish within 1 s"):
        client.generate(requests(), [[0, 1, 2]], timeout_s=1)
    assert time.monotonic() - began < 15
    assert servers.left() == []


def test_a_server_that_is_killed_while_it_answers(servers: Servers) -> None:
    client = servers.ready("hang")
    pid = client.pid
    assert pid is not None
    threading.Timer(1.0, os.kill, (pid, signal.SIGKILL)).start()
    began = time.monotonic()
    with pytest.raises(EngineDied, match="SIGKILL"):
        client.generate(requests(), [[0, 1, 2]], timeout_s=60)
    assert time.monotonic() - began < 15
    assert servers.left() == []


def test_a_server_that_does_not_want_to_end(servers: Servers) -> None:
    client = servers.ready("stubborn")
    client.close()
    assert client.pid is None
    assert servers.left() == []
    client.close()


def test_what_the_api_does_not_have_is_refused(servers: Servers) -> None:
    client = servers.client()
    one = requests(1)
    with pytest.raises(ValueError, match="no schedule"):
        client.generate(one, [[Member(0, arrival=3)]], timeout_s=1)
    with pytest.raises(ValueError, match="no schedule"):
        client.generate(one, [[0]], timeout_s=1, limits=Limits(step_tokens=4))
    with pytest.raises(ValueError, match="exactly one burst"):
        client.generate(one, [[0, 0]], timeout_s=1)
    with pytest.raises(EngineError, match="not running"):
        client.generate(one, [[0]], timeout_s=1)
