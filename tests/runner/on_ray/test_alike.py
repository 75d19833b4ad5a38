"""Which nodes may be of one certificate."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from typing import Any

import pytest

from bi_harness.device.detect import detect
from bi_harness.device.engine_probe import EngineFacts
from bi_harness.device.facts import GpuFacts, HostFacts
from bi_harness.errors import UsageError, WrongDevice
from bi_harness.runner.on_ray.alike import NodeFacts, choose, host_facts, likeness
from bi_harness.spec.load import default_paths, load_spec

PATHS = default_paths(None, None, None)
DEVICES = load_spec(PATHS.models, PATHS.hardware, PATHS.suites).devices
ENGINE = EngineFacts("3.11.9", "/py", {"vllm": "0.26.0", "torch": "2.11.0"}, {"torch": "13.0"}, True, "/inc")
HOST = HostFacts(
    "a", "Linux", "6.1", "x86_64", "3.11.9", "EPYC", ("avx2",), 8, 16, None, 64.0, 1, driver="580.1"
)
H200 = GpuFacts(0, "NVIDIA H200", "GPU-0", "9.0", 139.8, "580.1")
A100 = GpuFacts(0, "NVIDIA A100-SXM4-80GB", "GPU-1", "8.0", 79.3, "580.1")


def node(name: str, *gpus: GpuFacts, cpus: float = 8, engine: Any = ENGINE, **host: Any) -> NodeFacts:
    facts = replace(HOST, hostname=name, gpus=gpus, gpus_present=len(gpus), **host)
    return NodeFacts(
        f"id-{name}", f"10.0.0.{name}", cpus, len(gpus), facts, engine, "no such file", ("1.0", "sha256:1")
    )


def test_nodes_that_are_the_device_are_taken_in_the_order_of_their_names() -> None:
    chosen = choose([node("c", H200), node("a"), node("b", H200, H200)], "h200", DEVICES)
    assert chosen.device == "h200"
    assert [n.host.hostname for n in chosen.nodes] == ["b", "c"], "how many GPUs each has may differ"
    assert list(chosen.others) == ["id-a"], "a head without GPUs does no work"


def test_auto_is_what_the_nodes_are_and_several_kinds_must_be_told_apart() -> None:
    assert choose([node("a", H200)], "auto", DEVICES).device == "h200"
    with pytest.raises(WrongDevice, match="several devices"):
        choose([node("a", H200), node("b", A100)], "auto", DEVICES)
    assert [n.id for n in choose([node("a", H200), node("b", A100)], "a100", DEVICES).nodes] == ["id-b"]


def test_no_node_is_the_device() -> None:
    with pytest.raises(WrongDevice, match="no node of the Ray cluster") as told:
        choose([node("a", H200), node("b", cpus=0)], "a100", DEVICES)
    assert "a (10.0.0.a, node id-a)" in str(told.value)
    assert "gives the cluster neither CPUs nor GPUs" in str(told.value)


DIFFER = {
    "vLLM": {"engine": replace(ENGINE, versions={**ENGINE.versions, "vllm": "0.25.1"})},
    "torch": {"engine": replace(ENGINE, versions={**ENGINE.versions, "torch": "2.12.0"})},
    "python": {"engine": replace(ENGINE, python="3.12.1")},
    "driver": {"driver": "570.9"},
    "cpu_model": {"cpu_model": "Xeon"},
    "flags": {"cpu_flags": ("avx2", "avx512f")},
}


@pytest.mark.parametrize("what", DIFFER.values(), ids=DIFFER.keys())
def test_nodes_that_are_not_alike_are_refused_by_name(what: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="are not alike") as told:
        choose([node("a", H200), node("b", H200, **what)], "h200", DEVICES)
    assert "b (10.0.0.b, node id-b)" in str(told.value)


def test_another_bi_harness_is_refused() -> None:
    other = replace(node("b", H200), harness=("1.0", "sha256:2"))
    with pytest.raises(UsageError, match="bi-harness: "):
        choose([node("a", H200), other], "h200", DEVICES)


def test_another_memory_is_another_gpu() -> None:
    with pytest.raises(UsageError, match="GPUs: "):
        choose([node("a", H200), node("b", replace(H200, memory_gib=100.0))], "h200", DEVICES)


def test_cores_matter_where_engines_run_on_them() -> None:
    few = node("b", physical_cores=4)
    with pytest.raises(UsageError, match="physical_cores: 8 and 4"):
        choose([node("a"), few], "cpu", DEVICES)
    choose([node("a", H200), replace(few, gpus=1, host=replace(few.host, gpus=(H200,)))], "h200", DEVICES)


def test_a_node_without_an_engine_is_told_and_not_left_out() -> None:
    with pytest.raises(UsageError, match="no such file"):
        choose([node("a"), node("b", engine=None)], "cpu", DEVICES)
    with pytest.raises(UsageError, match="has no vLLM"):
        choose([node("a"), node("b", engine=replace(ENGINE, versions={}))], "cpu", DEVICES)


def test_facts_travel() -> None:
    for facts in (detect(), replace(HOST, gpus=(H200, A100))):
        assert host_facts(json.loads(json.dumps(asdict(facts)))) == facts
    one = node("a", H200)
    assert json.loads(json.dumps(likeness(one, "cuda"))) == likeness(one, "cuda")
