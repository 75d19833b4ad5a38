"""Stands where ``bi_harness.engine.worker`` would, to try the client's own logic: no engine.

Run by the interpreter script that ``test_client`` writes; ``FAKE`` says how to misbehave.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from typing import Any

import numpy as np

from bi_harness.engine import protocol
from bi_harness.workload.requests import Request

HOW = os.environ["FAKE"]
_, CONFIG, IN, OUT, *_ = sys.argv
COMMANDS, ANSWERS = os.fdopen(int(IN), "rb"), os.fdopen(int(OUT), "wb")


def say(message: dict[str, Any]) -> None:
    raw(protocol.encode_line(message))


def raw(data: bytes) -> None:
    ANSWERS.write(data)
    ANSWERS.flush()


def child(**options: Any) -> None:
    made = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], **options)
    with open(os.environ["PIDS"], "a", encoding="utf-8") as file:
        file.write(f"{made.pid}\n")


def hang() -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    time.sleep(600)


def die(how: str) -> None:
    if how == "exit":
        sys.stdout.flush()
        os._exit(3)
    os.kill(os.getpid(), getattr(signal, how))
    time.sleep(60)


def answer(requests: list[Request], order: list[int], width: int) -> dict[str, Any]:
    """Request i's tokens are all its prompt's first token and, for its later sequences, those that follow, so
    that the order can be told."""
    steps = max(r.max_tokens for r in requests)
    tokens = [requests[index].prompt[0] + i for index in order for i in range(requests[index].n)]
    ids = np.empty((len(tokens), steps, width), np.int32)
    ids[:] = np.asarray(tokens, np.int32)[:, None, None]
    arrays = {
        "tokens": ids[:, :, 0],
        "lengths": np.full(len(tokens), steps, np.int32),
        "ids": ids,
        "logprobs": ids.astype(np.float32),
    }
    return {name: protocol.encode_array(array) for name, array in arrays.items()}


def wait_for_others(count: int) -> None:
    """Until so many fakes were told to stop."""
    with open(os.environ["TOLD"], "a", encoding="utf-8") as file:
        file.write("x")
    while os.path.getsize(os.environ["TOLD"]) < count:
        time.sleep(0.02)
    print("all were told", flush=True)


def main() -> int:
    before, _, when = HOW.partition("@")
    with open(CONFIG, encoding="utf-8") as file:
        config = json.load(file)
    if before == "children":
        child()
        child(start_new_session=True)
    if when == "start":
        misbehave(before)
    effective = {"config": config, "env": dict(os.environ), "cwd": os.getcwd()}
    say({"event": "ready", "effective": effective, "provenance": {"vllm": "fake"}, "start_s": 1.5})
    if when == "idle":
        misbehave(before)
    for line in COMMANDS:
        command = protocol.decode_line(line)
        if command["do"] == "stop":
            print("told to stop", flush=True)
            if before == "stop_together":
                wait_for_others(2)
            if before == "stop_slowly":
                time.sleep(600)
            return 0
        if command["do"] == "startup":
            told = {"ok": [{"layers": 4}], "none": [], "nonsense": {"layers": 4}}
            if when == "startup":
                misbehave(before)
            say({"event": "startup", "ranks": told[os.environ.get("RANKS", "ok")]})
            continue
        if command["do"] == "forget":
            if when == "forget":
                misbehave(before)
            in_use = os.environ.get("IN_USE")
            say({"event": "failed" if in_use else "forgotten", "error": "blocks are in use"})
            continue
        if command["do"] == "modules":
            if when == "modules":
                misbehave(before)
            nonsense = os.environ.get("FOUND") == "nonsense"
            say({"event": "modules", "found": "x" if nonsense else {k: command[k] for k in ("ask", "with")}})
            continue
        print("command", json.dumps({k: v for k, v in command.items() if k != "requests"}), flush=True)
        requests = [Request.from_json(r) for r in command["requests"]]
        bursts = [[member[0] for member in burst] for burst in command["bursts"]]
        say({"event": "progress", "done": 1, "of": len(bursts)})
        if when == "generate":
            misbehave(before)
        step = {"steps": 4, "max_tokens": 9, "preemptions": 0, "split_prefills": 0}
        width = int(os.environ.get("WIDTH", "3"))
        observations = answer(requests, [i for b in bursts for i in b], width)
        message = {
            "event": "result",
            "observations": observations,
            "steps": [{**step, "max_requests": len(b)} for b in bursts],
            "generate_s": 0.5,
        }
        if before == "one_short":
            message["observations"] = answer(requests, list(range(len(requests) - 1)), width)
        if before == "no_steps":
            del message["steps"]
        if before == "odd_steps":
            message["steps"] = [{"step": 1}]
        if before == "bad_array":
            observations["ids"]["shape"] = [1]
        say(message)
    return 0


def misbehave(how: str) -> None:
    if how in ("exit", "SIGKILL", "SIGSEGV", "SIGABRT"):
        die(how)
    elif how == "hang":
        child()
        child(start_new_session=True)
        hang()
    elif how == "oom":
        print(
            "INFO something\ntorch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2 GiB\nINFO bye",
            flush=True,
        )
        die("exit")
    elif how == "error":
        say({"event": "failed", "error": "ValueError: no such backend"})
        sys.exit(1)
    elif how == "oom_error":
        say({"event": "failed", "error": "ValueError: larger than the available KV cache memory"})
        sys.exit(1)
    elif how == "nameless_error":
        print("Traceback ...\nRuntimeError: it is in the log\nbye", flush=True)
        say({"event": "failed"})
        sys.exit(1)
    elif how == "garbage":
        raw(b"\x00\xff this is not JSON\n")
        hang()
    elif how == "list":
        raw(b"[1, 2]\n")
        hang()
    elif how == "eventless":
        raw(b"{}\n")
        hang()
    elif how == "half_ready":
        say({"event": "ready", "effective": {}})
        hang()
    elif how == "half_line":
        raw(b'{"event": "rea')
        die("exit")
    elif how == "close":
        os.close(ANSWERS.fileno())
        hang()
    elif how == "orphan_holds_pipe":
        # As a forked engine core would.
        child(pass_fds=(ANSWERS.fileno(),))
        die("SIGKILL")
    elif how == "orphan_apart":
        child(start_new_session=True)
        time.sleep(2.5)
        die("SIGKILL")
    elif how == "deaf":
        os.close(COMMANDS.fileno())
        hang()


if __name__ == "__main__":
    sys.exit(main())
