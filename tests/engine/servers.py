"""Makes clients of fake servers, and clears up."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

from bi_harness.engine.config import EngineConfig
from bi_harness.engine.server import ServerClient
from bi_harness.workload.requests import Request
from tests.engine.test_client import runs

FAKE = Path(__file__).with_name("fake_server.py")


def server_config(python: str = "python", arm: str = "treatment", **env: str) -> EngineConfig:
    fields: dict[str, Any] = {
        "arm": arm,
        "python": python,
        "platform": "cpu",
        "invariance": True,
        "llm": {
            "model": "m",
            "enforce_eager": True,
            "attention_config": {"backend": "CPU_ATTN"},
            "max_model_len": 100,
        },
        "checkpoint": None,
        "env": {"PATH": os.environ["PATH"], **env},
        "room_for_two": True,
        "interface": "server",
        "api_order": True,
    }
    return EngineConfig(**fields, **dict.fromkeys(set(EngineConfig.__dataclass_fields__) - set(fields)))


class Servers:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.made: list[ServerClient] = []
        self.python = folder / "python"
        # "-m bi_harness.engine.serve" becomes the fake.
        self.python.write_text(f'#!/bin/sh\nshift 2\nexec "{sys.executable}" "{FAKE}" "$@"\n')
        self.python.chmod(0o755)

    def client(self, how: str = "", *, port: int | None = None, **env: str) -> ServerClient:
        name = f"server-{len(self.made)}"
        config = server_config(str(self.python), FAKE=how, PIDS=str(self.folder / "pids"), **env)
        made = ServerClient(config, self.folder / name, self.folder / f"{name}.log", port=port)
        self.made.append(made)
        return made

    def ready(self, how: str = "") -> ServerClient:
        made = self.client(how)
        made.spawn()
        made.wait_ready(30)
        return made

    def left(self) -> list[int]:
        file = self.folder / "pids"
        found = [int(line) for line in file.read_text().split()] if file.exists() else []
        return [pid for pid in found if runs(pid)]

    def clear(self) -> None:
        for client in self.made:
            client.kill()
        for pid in self.left():
            os.kill(pid, signal.SIGKILL)


def requests(count: int = 3) -> list[Request]:
    return [Request((100 + i, 5, 6), 2, 0.0, None, 2) for i in range(count)]
