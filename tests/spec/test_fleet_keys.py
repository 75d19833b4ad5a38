"""What hardware.yaml and suite.yaml say for `bi-harness pipeline`."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.spec.small import Files

Change = Callable[[str, str, str], list[str]]


def test_agents_hosts_and_paths(files: Files) -> None:
    files.hardware = files.hardware.replace(
        "gpus: 2\n", 'gpus: 2\n    agents: {gpus: "8"}\n    hosts: 1\n', 1
    )
    files.suite += 'paths: [vllm/, csrc/, "!vllm/benchmarks/", "vllm/**/x?.py"]\n'
    spec = files.load()
    assert (spec.devices["gpu"].agents, spec.devices["gpu"].hosts) == ({"gpus": "8"}, 1)
    assert (spec.devices["cpu"].agents, spec.devices["cpu"].hosts) == ({}, None)
    assert spec.suites["core"].paths == ("vllm/", "csrc/", "!vllm/benchmarks/", "vllm/**/x?.py")


@pytest.mark.parametrize(
    "given",
    [
        "agents: {gpus: 8}",
        "agents: {queue: x}",
        'agents: {"a b": x}',
        'agents: {a: ""}',
        "hosts: 0",
        'hosts: "1"',
    ],
)
def test_mistakes_in_a_device(change: Change, given: str) -> None:
    [line] = change("hardware", "gpus: 2\n", f"gpus: 2\n    {given}\n")
    assert line.startswith("hardware.yaml:")


@pytest.mark.parametrize(
    "given",
    ["[]", "[/vllm/]", '["!/x"]', '["!"]', "['a b']", "['a\\b']", "[a, a]", "[1]", "{a: b}", "[!!null x]"],
)
def test_mistakes_in_paths(files: Files, given: str) -> None:
    files.suite += f"paths: {given}\n"
    assert all(line.startswith("suites/core/suite.yaml:") for line in files.errors())
