"""What units take, and how many run at once."""

from __future__ import annotations

from dataclasses import replace

import pytest

from bi_harness.device.facts import GpuFacts, HostFacts
from bi_harness.matrix.expand import expand
from bi_harness.matrix.select import select
from bi_harness.runner.needs import host_free, how_many, need, shares, to_localize
from bi_harness.runner.schedule import Need
from bi_harness.spec.load import Spec, default_paths, load_spec


@pytest.fixture(scope="module")
def spec() -> Spec:
    paths = default_paths(environ={})
    return load_spec(paths.models, paths.hardware, paths.suites)


GPU = GpuFacts(0, "NVIDIA H200", "GPU-1", "9.0", 140.0, "580")
HOST = HostFacts(
    hostname="h",
    os="Debian",
    kernel="Linux",
    machine="x86_64",
    python="3.12",
    cpu_model="x",
    cpu_flags=(),
    physical_cores=16,
    logical_cores=32,
    cpu_quota=None,
    memory_gib=128,
    numa_nodes=1,
    gpus=(GPU, replace(GPU, index=1, memory_used_gib=100.0)),
)


def needs(spec: Spec, device: str, **chosen: list[str]) -> dict[str, Need]:
    plan = expand(spec, device, vllm_version="0.25.1", profile="nightly", weights="synthetic", **chosen)  # type: ignore[arg-type]
    selection = select(plan, spec)
    return {
        unit.id: need(unit, spec, checks=selection.checks, profile="nightly", seed=0, layers=None)
        for unit in selection.plan.units
    }


def test_a_unit_on_a_gpu_takes_both_engines_memory(spec: Spec) -> None:
    found = needs(spec, "h200", models=["qwen3-1.7b"], suites=["batch_invariance"], backends=["FLASH_ATTN"])
    one = found["h200/qwen3-1.7b/FLASH_ATTN/tp1-dp1/default"]
    eager = found["h200/qwen3-1.7b/FLASH_ATTN/tp1-dp1/eager"]
    assert one.gpus == 1
    assert one.gpu_gib is not None
    assert 2 * (3.3 + 8) < one.gpu_gib < 60
    assert one.gpu_gib == eager.gpu_gib
    assert one.weight > eager.weight, "compiling takes longer"
    pair = found["h200/qwen3-1.7b/FLASH_ATTN/tp2-dp1/default"]
    assert pair.gpus == 2
    assert pair.gpu_gib is not None
    assert pair.gpu_gib < one.gpu_gib


def test_more_starts_weigh_more(spec: Spec) -> None:
    found = needs(spec, "h200", models=["qwen3-startup-small", "qwen3-1.7b-nvfp4"], modes=["compile"])
    starts = found["h200/qwen3-startup-small/TRITON_ATTN/tp1-dp1/compile/compile_startup"]
    assert starts.weight > found["h200/qwen3-1.7b-nvfp4/FLASH_ATTN/tp1-dp1/compile/nvfp4"].weight


def test_what_is_free() -> None:
    free = host_free(HOST, "cuda", 4)
    assert free.gpus == pytest.approx((126.0, 26.0))
    assert free.cores == 16
    assert host_free(HOST, "cpu", 3).gpus == (1.0, 1.0, 1.0)


@pytest.mark.parametrize(
    ("asked", "kind", "found"),
    [(None, "cuda", 8), (None, "cpu", 1), (2, "cuda", 2), (2, "cpu", 2), (99, "cpu", 16), (99, "cuda", 99)],
)
def test_how_many(asked: int | None, kind: str, found: int) -> None:
    assert how_many(asked, HOST, kind) == found


def test_more_gpus_take_more_at_once() -> None:
    many = replace(HOST, gpus=(GPU,) * 4, physical_cores=192)
    assert how_many(None, many, "cuda") == 32
    assert how_many(None, replace(many, physical_cores=48), "cuda") == 24


def test_a_small_host_runs_one_at_a_time() -> None:
    assert how_many(None, replace(HOST, physical_cores=2), "cuda") == 1


def test_a_unit_that_is_over_leaves_cores_while_its_failure_is_localized() -> None:
    unit = Need(gpus=1, gpu_gib=60.0, cores=4.0, weight=3.0)
    assert to_localize(unit) == Need(gpus=1, gpu_gib=60.0, cores=2.0, weight=3.0)
    assert to_localize(replace(unit, cores=1.0)).cores == 1.0


def test_shares_are_of_one_size_and_overlap_nowhere() -> None:
    assert shares([0, 1, 2, 5, 7], 2) == ((0, 1), (2, 5))
    assert shares([3], 1) == ((3,),)


def test_every_unit_of_every_device_has_a_need(spec: Spec) -> None:
    for device in spec.devices:
        for one in needs(spec, device).values():
            assert one.weight > 0
            assert one.gpu_gib is None or one.gpu_gib > 0
