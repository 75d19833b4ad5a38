"""The command line of ``vllm serve``."""

from __future__ import annotations

import json
from typing import Any

import pytest

from bi_harness.engine.serve_args import serve_arguments
from bi_harness.errors import UsageError


def words(**llm: Any) -> list[str]:
    return serve_arguments({"model": "/models/x", **llm}, port=1234, name="me")


def test_the_server_is_for_this_host_alone_and_goes_by_its_own_name() -> None:
    found = words()
    assert found[:2] == ["serve", "/models/x"]
    for flag, value in (
        ("--host", "127.0.0.1"),
        ("--port", "1234"),
        ("--served-model-name", "me"),
        ("--api-server-count", "1"),
        ("--worker-extension-cls", "bi_harness.engine.worker_extension.Readback"),
    ):
        assert found[found.index(flag) + 1] == value
    assert "--chat-template" not in found


def test_a_chat_template() -> None:
    found = serve_arguments({"model": "m"}, port=1, name="n", chat_template="/x.jinja")
    assert found[found.index("--chat-template") + 1] == "/x.jinja"


@pytest.mark.parametrize(
    ("llm", "expected"),
    [
        ({"max_model_len": 600}, ["--max-model-len", "600"]),
        ({"gpu_memory_utilization": 0.85}, ["--gpu-memory-utilization", "0.85"]),
        ({"dtype": "bfloat16"}, ["--dtype", "bfloat16"]),
        ({"enforce_eager": True}, ["--enforce-eager"]),
        ({"enforce_eager": False}, ["--no-enforce-eager"]),
        ({"enable_expert_parallel": True}, ["--enable-expert-parallel"]),
        ({"enable_prefix_caching": False}, ["--no-enable-prefix-caching"]),
        ({"disable_log_stats": True}, ["--disable-log-stats"]),
        ({"disable_log_stats": False}, []),
        ({"seed": 0}, ["--seed", "0"]),
        ({"revision": None}, []),
        ({"data_parallel_size": 2}, ["--data-parallel-size", "2"]),
        ({"lora_modules": ["a=b", "c=d"]}, ["--lora-modules", "a=b", "c=d"]),
    ],
)
def test_an_argument_of_the_library_as_a_flag(llm: dict[str, Any], expected: list[str]) -> None:
    before = words()
    assert words(**llm) == [*before, *expected]


def test_a_mapping_is_json() -> None:
    found = words(attention_config={"backend": "CPU_ATTN"})
    assert found[-2] == "--attention-config"
    assert json.loads(found[-1]) == {"backend": "CPU_ATTN"}


@pytest.mark.parametrize("key", ["host", "port", "served_model_name", "api_key", "api_server_count"])
def test_what_the_harness_sets_is_not_set_otherwise(key: str) -> None:
    with pytest.raises(UsageError, match=key):
        words(**{key: "x"})


@pytest.mark.parametrize("value", [object(), [{"a": 1}], {1, 2}])
def test_what_has_no_form_on_a_command_line(value: object) -> None:
    with pytest.raises(UsageError, match="has no form"):
        words(odd=value)
