"""From what an engine is configured with to the command line of ``vllm serve``. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from bi_harness.errors import UsageError

HOST = "127.0.0.1"
"""Servers are for this host alone."""

_SET_ONLY = frozenset({"disable_log_stats"})
"""Flags that have no ``--no-`` form; left out, they are off."""

_OURS = frozenset({"host", "port", "served_model_name", "api_key", "chat_template", "api_server_count"})
"""What the harness decides for every server, since it must know that the one that answers is its own."""


def serve_arguments(
    llm: Mapping[str, Any], *, port: int, name: str, chat_template: str | None = None
) -> list[str]:
    """The arguments after ``vllm``.

    Args:
        llm: keyword arguments of ``vllm.LLM``; those that are ``None`` are left to vLLM.
        port: on loopback.
        name: that the server goes by (``served_model_name``).
        chat_template: a file; ``None`` for the model's own.

    Raises:
        UsageError: an argument is one that the harness sets itself, or has no form on a command line.
    """
    settings = dict(llm)
    model = str(settings.pop("model"))
    if clash := sorted(_OURS & settings.keys()):
        raise UsageError(f"engine_args {', '.join(clash)}: a server's are set by bi-harness; leave them out")
    words = ["serve", model, "--host", HOST, "--port", str(port), "--served-model-name", name]
    # One process that takes requests: its death is the server's death.
    words += ["--api-server-count", "1", "--disable-uvicorn-access-log"]
    if chat_template is not None:
        words += ["--chat-template", chat_template]
    words += ["--worker-extension-cls", "bi_harness.engine.worker_extension.Readback"]
    for key, value in settings.items():
        words += _words(key, value)
    return words


def _words(key: str, value: Any) -> list[str]:
    flag = key.replace("_", "-")
    if value is None:
        return []
    if isinstance(value, bool):
        if value:
            return [f"--{flag}"]
        return [] if key in _SET_ONLY else [f"--no-{flag}"]
    if isinstance(value, str | int | float):
        return [f"--{flag}", str(value)]
    if isinstance(value, Mapping):
        return [f"--{flag}", json.dumps(value, sort_keys=True)]
    if isinstance(value, list | tuple) and all(isinstance(item, str | int) for item in value):
        return [f"--{flag}", *map(str, value)]
    raise UsageError(f"engine_args {key}: {value!r} has no form on the command line of vllm serve")
