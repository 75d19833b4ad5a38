"""The client of the process that measures operators, on processes that answer as they please."""

from __future__ import annotations

import json
import os
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bi_harness.certificate.ops import HOLDS, found
from bi_harness.engine import ops_client
from bi_harness.engine.ops_client import OpsClient, OpsSetup, parse
from bi_harness.errors import EngineDied, EngineError, EngineStartError, EngineTimeout

MEASURED: dict[str, Any] = {
    "rows": 40,
    "differing": 0,
    "max_ulp": 0,
    "repeated": 9,
    "unequal": 0,
    "distance": 0.5,
    "first": None,
    "ranges": [[1, 4096, True]],
}
RECORD: dict[str, Any] = {
    "op": "rms_norm",
    "family": "norm",
    "dtype": "bfloat16",
    "unit": "rows",
    "judged": True,
    "promised": True,
    "where": "x.y",
    "shape": "8",
    "bound": "1 ULP",
    "seconds": 0.1,
    **MEASURED,
}
EFFECTIVE: dict[str, Any] = {
    "platform": "cpu",
    "invariance": True,
    "devices": [],
    "enforce_eager": True,
    "vllm": "0.32.0",
}


def test_a_record_is_a_result() -> None:
    record = parse(RECORD)
    assert found(record.result) == HOLDS
    assert (record.error, record.planted) == ("", None)
    assert record.result.ranges[0].last == 4096


def test_a_difference_a_planted_one_and_what_is_missing() -> None:
    first = {"rows": 256, "place": 3, "filler": "large"}
    differs = parse({**RECORD, "differing": 1, "first": first, "ranges": [[1, 255, True], [256, 256, False]]})
    assert differs.result.first is not None
    assert differs.result.first.beside == "large"
    planted = parse({**RECORD, "planted": {**MEASURED, "differing": 9, "first": first, "what": "a bit"}})
    assert planted.planted is not None
    assert (planted.planted.differing, planted.planted_what) == (9, "a bit")
    head = {name: RECORD[name] for name in ("op", "dtype", "unit", "judged", "promised")}
    assert parse({**head, "missing": "no such op"}).result.missing == "no such op"
    assert parse({**head, "error": "RuntimeError: x"}).error == "RuntimeError: x"
    assert parse({**head, "error": ""}).error


@pytest.mark.parametrize(
    "changes",
    [{"rows": "many"}, {"ranges": [[1, 2]]}, {"first": {"rows": 1}}, {"distance": -1}, {"op": None}],
)
def test_nonsense_is_an_error(changes: dict[str, Any]) -> None:
    with pytest.raises(EngineError, match="makes no sense"):
        parse({**RECORD, **changes})


def test_a_record_without_its_figures_is_an_error() -> None:
    with pytest.raises(EngineError, match="makes no sense"):
        parse({name: value for name, value in RECORD.items() if name != "rows"})


class Fake:
    """An interpreter whose ``-m bi_harness.engine.ops_probe`` is ``body``, with ``say`` and ``asked``."""

    def __init__(self, folder: Path, body: str) -> None:
        script = folder / "probe.py"
        script.write_text(
            "import json, os, sys, time\n"
            "asked = os.fdopen(int(sys.argv[4]))\n"
            "out = os.fdopen(int(sys.argv[5]), 'w')\n"
            "def say(message):\n    out.write(json.dumps(message) + '\\n'); out.flush()\n"
            f"record, effective = json.loads({json.dumps(json.dumps([RECORD, EFFECTIVE]))})\n"
            f"{textwrap.dedent(body)}",
            encoding="utf-8",
        )
        self.python = str(folder / "python")
        # Called as PYTHON -m MODULE SETUP COMMANDS ANSWERS PARENT.
        Path(self.python).write_text(f'#!/bin/sh\nexec {sys.executable} {script} "$@"\n', encoding="utf-8")
        os.chmod(self.python, 0o755)


READY = 'say({"event": "ready", "effective": effective, "provenance": {"vllm": {}}})\n'


@pytest.fixture
def client(
    tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[OpsClient]:
    monkeypatch.setattr(ops_client, "GRACE_S", 0.3)  # Some of them do not end by themselves.
    python = Fake(tmp_path, request.param).python
    setup = OpsSetup(
        python, "cpu", {"model_type": "qwen3"}, "bfloat16", "CPU_ATTN", 2048, dict(os.environ), True
    )
    with OpsClient(setup, tmp_path / "work", tmp_path / "log") as made:
        yield made


SERVE = READY + textwrap.dedent("""
    for line in asked:
        command = json.loads(line)
        say({"event": "record", "record": {**record, "op": command["op"]}})
        if command["do"] == "measure":
            say({"event": "done"})
    """)


@pytest.mark.parametrize("client", [SERVE], indirect=True)
def test_what_is_asked_is_answered(client: OpsClient) -> None:
    effective, provenance = client.start(30)
    assert (effective["vllm"], provenance) == ("0.32.0", {"vllm": {}})
    deadline = time.monotonic() + 30
    (record,) = client.measure("mean", {}, planted=False, deadline=deadline)
    assert record.result.op == "mean"
    drawn = client.drawn("softmax", "float32", {"vocab": 3}, 5, 0, planted=False, deadline=deadline)
    assert drawn.result.op == "softmax"


@pytest.mark.parametrize(
    "client",
    [READY + "asked.readline(); sys.stderr.write('RuntimeError: bad\\n'); sys.exit(3)"],
    indirect=True,
)
def test_one_that_dies_is_an_error_with_its_last_words(client: OpsClient) -> None:
    client.start(30)
    with pytest.raises(EngineDied, match="exit code 3: RuntimeError: bad"):
        client.measure("mean", {}, planted=False, deadline=time.monotonic() + 30)


@pytest.mark.parametrize("client", [READY + "time.sleep(60)"], indirect=True)
def test_one_that_hangs_is_late(client: OpsClient) -> None:
    client.start(30)
    with pytest.raises(EngineTimeout, match="no answer on mean"):
        client.measure("mean", {}, planted=False, deadline=time.monotonic() + 0.2)


@pytest.mark.parametrize(
    "client",
    [READY + "asked.readline(); out.write('nonsense\\n'); out.flush(); time.sleep(9)"],
    indirect=True,
)
def test_nonsense_on_the_pipe_is_an_error(client: OpsClient) -> None:
    client.start(30)
    with pytest.raises(EngineError, match="answers nonsense"):
        client.measure("mean", {}, planted=False, deadline=time.monotonic() + 30)


@pytest.mark.parametrize(
    ("client", "said"),
    [
        ("sys.exit(1)", "exit code 1"),
        ('say({"event": "refused", "why": "no vLLM"})', "refused: no vLLM"),
        ("effective['invariance'] = False\n" + READY, "invariance was to be on and is not"),
        ("effective['platform'] = 'cuda'\n" + READY, "runs on 'cuda', not on 'cpu'"),
        ("effective['planted_fault'] = 'norm-256'\n" + READY, "no fault was to be planted, and norm-256 is"),
        ("effective['enforce_eager'] = False\n" + READY, "not an eager engine's"),
        (
            "effective['devices'] = [{'name': 'L4', 'capability': '8.9'}]\n" + READY,
            "L4 has compute capability 8.9, not None",
        ),
    ],
    indirect=["client"],
)
def test_one_that_is_not_what_was_asked_for_is_refused(client: OpsClient, said: str) -> None:
    with pytest.raises(EngineStartError, match=said):
        client.start(30)
