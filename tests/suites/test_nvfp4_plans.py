"""What the checks of ``suites/nvfp4`` send, without an engine."""

from __future__ import annotations

import pytest

from bi_harness.spec.load import default_paths, load_spec
from bi_harness.workload.plan import plan_workload
from tests.suites.loading import load

PATHS = default_paths(environ={})
SPEC = load_spec(PATHS.models, PATHS.hardware, PATHS.suites)
SUITE = SPEC.suites["nvfp4"]


@pytest.mark.parametrize("profile", ["smoke", "nightly", "release"])
@pytest.mark.parametrize("model", [m.id for m in SPEC.models.values() if "nvfp4" in m.suites])
def test_a_plan_is_whole_and_fits_its_engine(model: str, profile: str) -> None:
    work = plan_workload(SPEC.models[model], SUITE, profile=profile, seed=0)
    plan = load(PATHS.suites / "nvfp4" / "test_nvfp4.py").beside_prefills(work)
    (arm,) = plan.arms
    (burst,) = arm.bursts
    assert sorted(member.request for member in burst) == list(range(len(arm.requests)))
    assert len(arm.requests) == arm.batch_size <= work.max_batch
    assert arm.requests[: len(plan.subjects)] == plan.subjects
    assert max(len(r.prompt) + r.max_tokens for r in arm.requests) < work.max_tokens
    assert {(r.temperature, r.seed) for r in plan.subjects} == {(0.0, None)}


def test_every_model_of_the_suite_is_made_with_nvfp4_weights() -> None:
    models = [m for m in SPEC.models.values() if "nvfp4" in m.suites]
    assert {m.quantize for m in models} == {"nvfp4"}
    assert len(models) == 3
