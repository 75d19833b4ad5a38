"""Real servers: what is certified, what is said of those that end or that somebody else started."""

from __future__ import annotations

import json
import os
import signal
import socket
import threading
import uuid
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from bi_harness.engine.config import ArmName, EngineSettings, engine_config
from bi_harness.engine.server import ServerClient
from bi_harness.errors import EngineError, EngineStartError
from bi_harness.exits import ExitCode
from bi_harness.matrix.cells import Cell
from bi_harness.spec.load import default_paths, load_spec
from bi_harness.workload.plan import plan_workload
from tests.e2e.real import Harness, Ran, of_run
from tests.engine.test_client import runs

pytestmark = pytest.mark.engine


def real(
    harness: Harness, folder: Path, arm: ArmName, *, port: int | None = None, **llm: Any
) -> ServerClient:
    """A server of ``qwen3-tiny`` as the suite starts it."""
    paths = default_paths()
    spec = load_spec(paths.models, paths.hardware, paths.suites)
    suite, model = spec.suites["online"], spec.models["qwen3-tiny"]
    workload = plan_workload(model, suite, profile="smoke", seed=0)
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("BI_HARNESS_", "VLLM_", "PYTEST_"))}
    config = engine_config(
        Cell("cpu", model.id, "CPU_ATTN", 1, 1, "eager", "online"),
        arm,
        model=model,
        device=spec.devices["cpu"],
        suite=suite,
        settings=EngineSettings(
            python=harness.python,
            weights="named",
            layers=None,
            model_cache=str(harness.root / "cache" / "models"),
            compile_cache=str(folder / "compile"),
            shared_cache=str(folder / "shared"),
            environment=clean,
            cores=len(os.sched_getaffinity(0)),
        ),
        max_num_seqs=workload.max_batch,
        max_model_len=workload.max_tokens,
    )
    config = replace(config, llm={**config.llm, **llm})
    return ServerClient(config, folder / arm, folder / f"{arm}.log", port=port)


@pytest.fixture(scope="module")
def online(harness: Harness) -> Ran:
    """What ``make certify`` does with this suite."""
    return harness.run("--suite", "online")


def test_a_server_gives_the_same_bits_alone_and_among_many(online: Ran) -> None:
    assert online.code == ExitCode.CERTIFIED, online.stderr
    checks = {c["check"]: c for c in online.checks()}
    assert {name: c["status"] for name, c in checks.items()} == dict.fromkeys(
        ("completions", "streaming", "chat"), "pass"
    )
    for check in checks.values():
        for arm in ("evidence", "control"):
            largest = check[arm]["batches"][-1]
            assert largest["max_requests"] >= largest["batch_size"] == 8
        assert check["control"]["differing_prompts"] >= 4
    engines = {e["arm"]: e["config"] for e in online.ours["effective"]}
    assert {arm: (e["interface"], e["invariance"]) for arm, e in engines.items()} == {
        "treatment": ("vllm serve", True),
        "control": ("vllm serve", False),
    }
    assert "endpoint" not in online.ours["scope"]
    assert online.left == ()


@pytest.mark.long
def test_a_port_in_use_and_a_server_that_dies_while_it_answers(harness: Harness, tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        taken = real(harness, tmp_path, "control", port=other.getsockname()[1])
        server = real(harness, tmp_path, "treatment")
        try:
            server.spawn()
            taken.spawn()
            with pytest.raises(EngineStartError, match=r"(?s)Address already in use.*Its log ends with:"):
                taken.wait_ready(300)
            assert taken.pid is None
            ready = server.wait_ready(300)
            assert ready.effective["invariance"] is True
            _dies_while_it_answers(server)
        finally:
            taken.kill()
            server.kill()


def _dies_while_it_answers(server: ServerClient) -> None:
    spec = load_spec(*(getattr(default_paths(), n) for n in ("models", "hardware", "suites")))
    workload = plan_workload(spec.models["qwen3-tiny"], spec.suites["online"], profile="smoke", seed=0)
    pid = server.pid
    assert pid is not None
    below = psutil.Process(pid).children(recursive=True)
    # The engine and not the server: what users see is requests that fail.
    engine = max(below, key=lambda child: child.memory_info().rss)
    assert "resource_tracker" not in " ".join(engine.cmdline())
    threading.Timer(0.5, os.kill, (engine.pid, signal.SIGKILL)).start()
    # Far more than half a second's work.
    many = [replace(request, max_tokens=500) for request in workload.requests if len(request.prompt) < 100]
    bursts = [[index] for index in range(len(many))]
    with pytest.raises(EngineError, match=r"(?s)server (died|failed).*Its log ends with:") as caught:
        server.generate(many, bursts, timeout_s=120)
    print(caught.value)
    assert server.pid is None
    assert [p for p in (pid, *(child.pid for child in below)) if runs(p)] == []


@pytest.fixture(scope="module")
def pair(harness: Harness, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, ServerClient]]:
    """A server with invariance and one without, which are somebody else's to the runs."""
    folder = tmp_path_factory.mktemp("pair")
    made = {arm: real(harness, folder, arm, disable_log_stats=False) for arm in ("treatment", "control")}
    try:
        for server in made.values():
            # One key for both, as a user's environment has one.
            server._key = "very-secret-key"
            server.spawn()
        for server in made.values():
            server.wait_ready(300)
        yield made
    finally:
        for server in made.values():
            server.close()


def at(harness: Harness, *arguments: str) -> Ran:
    return harness.run(
        *("--model", "qwen3-tiny", "--mode", "eager", *arguments), BI_HARNESS_API_KEY="very-secret-key"
    )


@pytest.mark.long
def test_a_running_server_is_certified_with_what_was_not_verified(
    harness: Harness, pair: dict[str, ServerClient]
) -> None:
    url, control = (pair[arm].url for arm in ("treatment", "control"))
    ran = at(harness, "--endpoint", f"{url}/v1", "--control-endpoint", control)
    assert ran.code == ExitCode.CERTIFIED, ran.stderr
    said = f"endpoint {url}: invariance mode and configuration not verified by bi-harness"
    assert f"CERTIFIED ({said})" in " ".join(ran.stderr.split()) or said in ran.ours["why"]
    assert ran.ours["scope"]["endpoint"] == {"url": url, "control": control}
    assert [c["check"] for c in ran.checks()] == ["completions", "streaming", "chat"]
    assert {e["config"]["verified"] for e in ran.ours["effective"]} == {False}
    for name in ("certificate.html", "certificate.md", "junit.xml"):
        text = (ran.folder / name).read_text()
        assert "not verified by bi-harness" in text, name
    everything = b"".join(p.read_bytes() for p in ran.folder.rglob("*") if p.is_file())
    assert b"very-secret-key" not in everything
    assert ran.left == ()
    assert all(server.pid is not None and runs(server.pid) for server in pair.values())


@pytest.mark.long
def test_a_running_server_without_invariance_is_not(harness: Harness, pair: dict[str, ServerClient]) -> None:
    url, control = (pair[arm].url for arm in ("control", "treatment"))
    ran = at(harness, "--endpoint", url, "--control-endpoint", control)
    assert ran.code == ExitCode.NOT_CERTIFIED, ran.stderr
    assert "not verified by bi-harness" in ran.ours["why"]
    assert "completions" in {c["check"] for c in ran.checks() if c["status"] == "fail"}


@pytest.mark.long
def test_its_control_is_started_here_where_none_is_given(
    harness: Harness, pair: dict[str, ServerClient]
) -> None:
    ran = at(harness, "--endpoint", pair["treatment"].url)
    assert ran.code == ExitCode.CERTIFIED, ran.stderr
    engines = {e["arm"]: e["config"] for e in ran.ours["effective"]}
    assert engines["treatment"]["verified"] is False
    assert engines["control"]["invariance"] is False
    assert "checkpoints" not in ran.ours["provenance"]["digests"], "those are the control's"
    assert [s["name"] for s in json.loads((ran.folder / "certificate.json").read_text())["subject"]] == [
        f"endpoint:{pair['treatment'].url}"
    ]
    assert ran.left == ()


@pytest.mark.long
def test_streamed_logprobs_that_differ_are_caught(harness: Harness) -> None:
    mark = uuid.uuid4().hex
    out = harness.root / mark
    words = ("selftest", "--suite", "online", "--fault", "stream-logprobs", "--clean", "0")
    process = harness.start(*words, mark=mark, out=out)
    _, err = process.communicate(timeout=600)
    assert process.returncode == ExitCode.CERTIFIED, err
    (path,) = out.rglob("selftest.json")
    (fault,) = json.loads(path.read_text())["faults"]
    assert (fault["id"], fault["caught"], fault["checks"]) == ("stream-logprobs", True, ["streaming"])
    assert of_run(mark, out) == ()


@pytest.mark.long
def test_two_ranks_and_offline_against_online(harness: Harness) -> None:
    ran = harness.run("--suite", "online", "--profile", "nightly", "--mode", "eager", timeout_s=1800)
    assert ran.code == ExitCode.CERTIFIED, ran.stderr
    assert {(c["cell"].split("/")[3], c["check"]) for c in ran.checks()} == {
        (size, name)
        for size in ("tp1-dp1", "tp1-dp2")
        for name in ("completions", "streaming", "chat", "offline_online")
    }
    assert ran.left == ()
