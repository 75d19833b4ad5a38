"""Code on a real vLLM's own functions, in a process of its own: patching is for good."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]


def python(code: str, *arguments: str) -> str:
    """Run ``code`` under this interpreter, which must have vLLM, and return what it prints."""
    pytest.importorskip("vllm")
    # A plain environment: no plugin, no mode.
    env = {k: v for k, v in os.environ.items() if not k.startswith(("VLLM_", "BI_HARNESS_"))}
    env["PYTHONPATH"] = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], env=env, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def answer(code: str, *arguments: object) -> dict[str, Any]:
    """What ``code`` prints as JSON behind the word FOUND; the arguments reach it as a JSON list."""
    said = python(code, json.dumps(arguments))
    told: dict[str, Any] = json.loads(said.rpartition("FOUND")[2].splitlines()[0])
    return told
