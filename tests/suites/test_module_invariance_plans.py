"""Where the suite of modules runs, and how much it tries."""

from __future__ import annotations

import pytest

from bi_harness.matrix.expand import expand
from bi_harness.matrix.select import select
from bi_harness.spec.load import default_paths, load_spec
from bi_harness.spec.operators import ModuleAmount
from bi_harness.workload.plan import plan_workload

PATHS = default_paths(environ={})
SPEC = load_spec(PATHS.models, PATHS.hardware, PATHS.suites)
SUITE = "module_invariance"


def cells(device: str, profile: str = "release") -> set[str]:
    plan = expand(
        SPEC, device, vllm_version="0.33.0", profile=profile, weights="named", gpus=8, suites=(SUITE,)
    )
    return {cell for cell, checks in select(plan, SPEC).checks.items() if checks == ("modules",)}


def test_a_cpu_has_the_dense_one_in_every_profile_and_experts_in_the_long_ones() -> None:
    dense = "cpu/qwen3-tiny/CPU_ATTN/tp1-dp1/eager/module_invariance"
    experts = "cpu/qwen3-moe-tiny/CPU_ATTN/tp1-dp1/eager/module_invariance"
    assert cells("cpu", "smoke") == {dense}
    assert cells("cpu", "nightly") == cells("cpu") == {dense, experts}


@pytest.mark.parametrize("device", ["l4", "a100", "h100", "h200", "b200"])
def test_a_gpu_has_one_rank_and_eager_engines_alone(device: str) -> None:
    found = cells(device)
    assert found == {
        f"{device}/{model}/{backend}/tp1-dp1/eager/module_invariance"
        for model in ("qwen3-1.7b", "qwen3-moe-small")
        for backend in ("FLASH_ATTN", "TRITON_ATTN", "FLEX_ATTENTION")
    }


@pytest.mark.parametrize("profile", ["smoke", "nightly", "release"])
def test_each_profile_has_batches_of_requests_and_of_rows_beyond_them(profile: str) -> None:
    suite = SPEC.suites[SUITE]
    workload = plan_workload(SPEC.models["qwen3-tiny"], suite, profile=profile, seed=3)
    amount = ModuleAmount.of(suite, profile)
    assert workload.batch_sizes
    # Where vLLM's RMSNorm once changed its block size: 256 rows.
    assert amount.most_rows > amount.others_rows >= 257
    assert amount.most_rows > workload.max_batch
    assert amount.effort(3)["seed"] == 3
