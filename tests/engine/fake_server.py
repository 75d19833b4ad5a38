"""Stands where ``vllm serve`` would, to try the client's own logic: no engine.

Run by the interpreter script that ``servers.py`` writes; ``FAKE`` says how to misbehave. A request's tokens
are all its prompt's first token, and the logprobs are told as vLLM tells them.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

HOW = os.environ.get("FAKE", "")
ARGS = sys.argv[1:]
STEPS = Path(os.environ["BI_HARNESS_STEP_LOG"])
THIRD = -0.3333333432674408  # the float32 nearest to -1/3
LOCK = threading.Lock()
running = 0


def option(name: str) -> str:
    return ARGS[ARGS.index(name) + 1]


def worker(**changes: Any) -> dict[str, Any]:
    effective = {
        "dp_rank": 0,
        "tp_rank": 0,
        "invariance_by": ["on"],
        "attention_backends": {"CPU_ATTN": 1},
        "compilation_mode": "NONE",
        **changes,
    }
    return {
        "worker": effective,
        "settings": {"enforce_eager": True},
        "platform": "cpu",
        "vllm": "0",
        "torch": "0",
        "devices": [],
        "provenance": {"vllm": {"version": "0"}},
        "hub_commit": None,
    }


def token_logprobs(token: int, count: int) -> dict[int, float]:
    return {token: THIRD, **{token + i: -float(i) for i in range(1, count + 1)}}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args: Any) -> None:
        pass

    def say(self, data: Any, status: int = 200) -> None:
        body = data if isinstance(data, bytes) else json.dumps(data).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self) -> None:
        if self.path == "/health":
            self.say(b"", 503 if HOW == "slow" else 200)
        elif self.path == "/v1/models":
            if self.headers.get("Authorization") != f"Bearer {os.environ['VLLM_API_KEY']}":
                self.say({"error": "Unauthorized"}, 401)
                return
            names = ["other"] if HOW == "foreign" else [option("--served-model-name")]
            self.say({"data": [{"id": name, "max_model_len": 4096} for name in names]})
        elif self.path == "/version":
            self.say({"version": "9.9"})
        elif self.path == "/metrics" and HOW != "mute":
            shown = 0 if HOW == "serial" else running
            text = f'vllm:num_requests_running{{engine="0"}} {shown}.0\nvllm:prefix_cache_hits_total 0.0\n'
            self.say(text.encode())
        else:
            self.say({"error": "not found"}, 404)

    def do_POST(self) -> None:
        global running
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path == "/collective_rpc":
            told = worker(**({"invariance_by": []} if HOW == "off" else {}))
            (STEPS / "server-0-0.json").write_text(json.dumps(told))
            self.say({"results": [{}]})
            return
        if HOW == "die":
            print("RuntimeError: the engine core is dead", flush=True)
            os._exit(7)
        if HOW == "hang":
            time.sleep(600)
        if HOW == "refuse":
            self.say({"error": {"message": "logprobs are off", "code": 400}}, 400)
            return
        if HOW == "500":
            self.say({"error": {"message": "boom", "code": 500}}, 500)
            return
        if HOW == "garbage":
            self.say(b"<html>it works</html>")
            return
        with LOCK:
            running += 1
        time.sleep(0.7)  # those that were sent at once are here by now
        with LOCK, open(STEPS / f"steps-dp0-{os.getpid()}.jsonl", "a") as log:
            tokens = {str(i): 1 for i in range(running)}
            log.write(json.dumps({"tokens": tokens, "new": {}, "preempted": 0}) + "\n")
        time.sleep(0.2)
        with LOCK:
            running -= 1
        self.answer(body)

    def answer(self, body: dict[str, Any]) -> None:
        chat = "messages" in body
        text = body["messages"][0]["content"] if chat else ""
        prompt = [ord(c) for c in text] if chat else body["prompt"]
        token = prompt[0] + (1 if HOW == "tokens" else 0)
        count = body["top_logprobs"] - 1 if chat else body["logprobs"]
        if HOW == "few":
            count -= 2
        steps = [self.step(chat, token, count) for _ in range(body["max_tokens"])]
        if HOW == "prompt":
            prompt = [1, 2]
        if not body.get("stream"):
            self.say(
                {"choices": [self.choice(chat, steps, prompt, token, "length")], **self.outer(chat, prompt)}
            )
            return
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        self.close_connection = True
        if chat:
            self.chunk(
                {"choices": [{"index": 0, "delta": {"role": "assistant"}}], **self.outer(chat, prompt)}
            )
        for number, step in enumerate(steps, start=1):
            if HOW == "break" and number > 1:
                return
            if HOW == "stream-error" and number > 1:
                self.chunk({"error": {"message": "the engine core is dead", "code": 500}})
                return
            end = "length" if number == len(steps) and HOW != "endless" else None
            first = prompt if number == 1 else None
            self.chunk({"choices": [self.choice(chat, [step], first, token, end)]})
        self.wfile.write(b"data: [DONE]\n\n")

    def chunk(self, data: Any) -> None:
        self.wfile.write(f"data: {json.dumps(data)}\n\n".encode())
        self.wfile.flush()

    def outer(self, chat: bool, prompt: list[int] | None) -> dict[str, Any]:
        return {"id": "x", "object": "y", "created": 0, "model": "m", "prompt_token_ids": prompt}

    def step(self, chat: bool, token: int, count: int) -> dict[str, Any]:
        values = token_logprobs(token, count)
        if HOW == "rounded":
            values[token] = -0.333
        named = {f"token_id:{t}": v for t, v in values.items()}
        return {"token": f"token_id:{token}", "logprob": values[token], "top": named}

    def choice(self, chat: bool, steps: Any, prompt: Any, token: int, end: str | None) -> dict[str, Any]:
        told: Any
        if chat:
            told = {
                "content": [
                    {
                        **{k: s[k] for k in ("token", "logprob")},
                        "top_logprobs": [{"token": t, "logprob": v} for t, v in s["top"].items()],
                    }
                    for s in steps
                ]
            }
        else:
            told = {
                "tokens": [s["token"] for s in steps],
                "token_logprobs": [s["logprob"] for s in steps],
                "top_logprobs": [s["top"] for s in steps],
            }
        return {
            "index": 0,
            "text": "",
            "message": {"role": "assistant", "content": ""},
            "delta": {},
            "logprobs": told,
            "finish_reason": end,
            "prompt_token_ids": prompt,
            "token_ids": [token] * len(steps),
        }


def main() -> None:
    if HOW == "exit":
        print("ValueError: no such model", flush=True)
        sys.exit(3)
    if pids := os.environ.get("PIDS"):
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        with open(pids, "a") as file:
            file.write(f"{child.pid}\n")
    if HOW == "stubborn":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    (STEPS / f"plugin-{os.getpid()}.json").write_text(
        json.dumps({"planted_fault": "other" if HOW == "planted" else None})
    )
    Path(ARGS[1]).with_name("checkpoint.json").write_text(json.dumps({"digest": "sha256:1"}))
    ThreadingHTTPServer.allow_reuse_address = True
    ThreadingHTTPServer(("127.0.0.1", int(option("--port"))), Handler).serve_forever()


if __name__ == "__main__":
    main()
