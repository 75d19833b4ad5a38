"""A server that was running already: what it says is its word, and what cannot be seen is no pass."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from bi_harness.engine.endpoint import EndpointClient, endpoint_url, metrics, together, without_keys
from bi_harness.errors import EngineError, EngineStartError, UsageError
from tests.engine.servers import FAKE, requests, server_config

KEY = "very-secret"


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("http://127.0.0.1:8000", "http://127.0.0.1:8000"),
        ("http://127.0.0.1:8000/", "http://127.0.0.1:8000"),
        ("http://127.0.0.1:8000/v1", "http://127.0.0.1:8000"),
        ("https://host.example/models/a/v1/", "https://host.example/models/a"),
        ("http://[::1]:80/v1", "http://[::1]:80"),
        (" http://h ", "http://h"),
    ],
)
def test_a_url_with_or_without_v1(text: str, url: str) -> None:
    assert endpoint_url(text) == url


@pytest.mark.parametrize(
    "text",
    [
        "",
        "127.0.0.1:8000",
        "ftp://h",
        "http://",
        "http://h:port",
        "file:///etc/passwd",
        "http://h/v1?api_key=very-secret",
        "http://h/#very-secret",
        "http://me:very-secret@h/v1",
        "http://very-secret@h",
        "http://me:very-secret@h:x/v1",
    ],
)
def test_a_url_that_is_none_or_holds_a_secret_is_refused_without_repeating_it(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        endpoint_url(text)
    assert KEY not in str(caught.value)


def test_metrics_are_summed_over_ranks() -> None:
    text = (
        "# HELP x y\n"
        'vllm:num_requests_running{engine="0",model_name="m {x}"} 2.0\n'
        'vllm:num_requests_running{engine="1"} 3.0\n'
        "plain 1e3\nbroken{\nnothing\n"
    )
    found = metrics(text)
    assert (found["vllm:num_requests_running"], found["plain"]) == (5.0, 1000.0)
    assert "broken" not in found


@pytest.mark.parametrize(
    ("steps", "told", "extra", "least"),
    [
        (16, 320, {}, 20),
        (17, 320, {}, 19),
        (320, 320, {}, 1),
        (40, 900, {}, 8),
        (16, 300, {}, 0),
        (0, 320, {}, 0),
        (16, 320, {"vllm:spec_decode_num_draft_tokens_total": 9.0}, 0),
    ],
)
def test_so_many_tokens_in_so_few_steps(steps: int, told: int, extra: dict[str, float], least: int) -> None:
    """20 requests of 16 tokens each."""
    made, count = "vllm:generation_tokens_total", "vllm:iteration_tokens_total_count"
    before = {made: 100.0, count: 7.0}
    after = {made: 100.0 + told, count: 7.0 + steps, **extra}
    assert together(before, after, 320) == least
    assert together({}, {}, 320) == 0


def test_keys_are_not_handed_on() -> None:
    assert without_keys({"BI_HARNESS_API_KEY": KEY, "OPENAI_API_KEY": KEY, "PATH": "/"}) == {"PATH": "/"}


class Running:
    """Fake servers that nobody's client started."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.processes: list[subprocess.Popen[bytes]] = []

    def start(self, how: str = "") -> str:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        words = ["0", str(self.folder / "engine.json"), "--port", str(port), "--served-model-name", "theirs"]
        env = {**os.environ, "FAKE": how, "VLLM_API_KEY": KEY, "BI_HARNESS_STEP_LOG": str(self.folder)}
        self.processes.append(subprocess.Popen([sys.executable, str(FAKE), *words], env=env))
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    return f"http://127.0.0.1:{port}"
            time.sleep(0.05)
        raise AssertionError("the fake server did not come up")

    def client(self, url: str, key: str = KEY) -> EndpointClient:
        return EndpointClient(server_config(), url, self.folder / "log", {"BI_HARNESS_API_KEY": key})


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Running]:
    made = Running(tmp_path)
    yield made
    for process in made.processes:
        process.kill()
        process.wait()


def test_what_it_is_is_its_own_word(running: Running) -> None:
    client = running.client(running.start())
    client.spawn()
    ready = client.wait_ready(30)
    assert ready.effective["verified"] is False
    assert "invariance" not in ready.effective
    assert (ready.effective["model"], ready.effective["batches_seen"]) == ("theirs", "its own /metrics")
    assert ready.provenance == {"vllm": {"version": "9.9 (as the endpoint says)"}}
    burst = client.generate(requests(), [[0], [1, 2]], timeout_s=30)
    assert [s.max_requests for s in burst.steps] == [1, 2]
    assert burst.observations.tokens[:, 0].tolist() == [100, 101, 102]
    client.close()
    client.kill()
    assert running.processes[0].poll() is None, "it is not ours to end"
    assert KEY not in json.dumps([ready.effective, ready.provenance])


def test_batches_that_did_not_form_are_not_made_up(running: Running) -> None:
    client = running.client(running.start("serial"))
    client.wait_ready(30)
    burst = client.generate(requests(), [[0], [1, 2]], timeout_s=30)
    assert [s.max_requests for s in burst.steps] == [1, 0]


def test_a_server_whose_batches_cannot_be_seen_gives_no_answer(running: Running) -> None:
    client = running.client(running.start("mute"))
    assert client.wait_ready(30).effective["batches_seen"] == "not at all"
    with pytest.raises(EngineError, match="whether batches formed cannot be seen"):
        client.generate(requests(), [[0], [1, 2]], timeout_s=30)


@pytest.mark.parametrize(("how", "says"), [("refuse", "logprobs are off"), ("500", "HTTP 500")])
def test_a_refused_request(running: Running, how: str, says: str) -> None:
    client = running.client(running.start(how))
    client.wait_ready(30)
    with pytest.raises(EngineError, match=says) as caught:
        client.generate(requests(1), [[0]], timeout_s=30)
    assert KEY not in str(caught.value)
    assert says.split()[0] in (running.folder / "log").read_text()


def test_a_wrong_key(running: Running) -> None:
    with pytest.raises(EngineStartError, match="401"):
        running.client(running.start(), key="wrong").wait_ready(30)


def test_nobody_there(running: Running) -> None:
    with pytest.raises(EngineStartError, match="does not answer"):
        running.client("http://127.0.0.1:9").wait_ready(30)
    with pytest.raises(EngineError, match="not asked who it is"):
        running.client("http://127.0.0.1:9").generate(requests(), [[0], [1, 2]], timeout_s=1)


@pytest.mark.parametrize(
    "answer",
    [
        b"[" * 200_000,
        b'{"data": [{"id": "\x1b[31m"}]}',
        b'{"data": [{"id": "' + b"A" * 1_000_000 + b'"}]}',
        b'{"data": [{"id": 5}]}',
        b'{"data": [{"id": "a"}, {"id": "b"}]}',
        b'{"data": 3}',
        b'{"data": [1]}',
        b"[]",
        b"\xff",
        b" " * (17 * 1024 * 1024),
    ],
    ids=["deep", "escape", "long", "number", "two", "no list", "no model", "no object", "bytes", "endless"],
)
def test_a_server_that_answers_with_anything(tmp_path: Path, answer: bytes) -> None:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            with contextlib.suppress(OSError):
                self.wfile.write(answer)

        def log_message(self, *arguments: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        client = EndpointClient(server_config(), url, tmp_path / "log", {})
        try:
            with pytest.raises(EngineStartError) as caught:
                client.wait_ready(10)
        finally:
            server.shutdown()
    assert len(str(caught.value)) < 5_000
    assert "\x1b" not in str(caught.value)


def test_a_metric_without_end_is_none() -> None:
    with pytest.raises(ValueError, match="no number"):
        metrics("vllm:num_requests_running 1e999\n")
