"""What ``suites/compile_startup`` sends, without an engine, and the models that it is for."""

from __future__ import annotations

import pytest

from bi_harness.matrix.expand import expand
from bi_harness.matrix.select import checks_of, select
from bi_harness.spec.load import default_paths, load_spec
from bi_harness.spec.types import Profile
from bi_harness.workload.plan import plan_workload
from tests.suites.loading import load

PATHS = default_paths(environ={})
SPEC = load_spec(PATHS.models, PATHS.hardware, PATHS.suites)
SUITE = SPEC.suites["compile_startup"]
MODELS = [model.id for model in SPEC.models.values() if SUITE.id in model.suites]
MODULE = load(PATHS.suites / "compile_startup" / "test_startup.py")


@pytest.mark.parametrize("profile", ["smoke", "nightly", "release"])
@pytest.mark.parametrize("model", MODELS)
def test_a_plan_is_whole_and_fits_its_engine(model: str, profile: str) -> None:
    work = plan_workload(SPEC.models[model], SUITE, profile=profile, seed=0)
    found = MODULE.plan(work)
    assert [arm.batch_size for arm in found.arms] == [1, *work.batch_sizes]
    for arm in found.arms:
        members = [member.request for burst in arm.bursts for member in burst]
        assert sorted(members) == list(range(len(found.subjects)))
        assert arm.batch_size <= max(map(len, arm.bursts)) <= work.max_batch
        for request in arm.requests:
            assert len(request.prompt) + request.max_tokens <= work.max_tokens


def test_the_models_of_vllms_own_test_are_there_in_a_shrunken_form() -> None:
    # Kimi-K2 is of DeepSeek-V3's architecture.
    wanted = {"gpt_oss", "deepseek_v3", "glm4_moe", "minimax_m2", "phimoe", "qwen3"}
    for device in ("cpu", "h200"):
        here = [SPEC.models[m] for m in MODELS if device in (SPEC.models[m].devices or (device,))]
        assert {model.config["model_type"] for model in here} == wanted
        assert len(here) == len(wanted)
    for model in (SPEC.models[m] for m in MODELS):
        assert model.synthetic
        assert model.memory_gib <= 1
        # Few enough graphs to tell from one a layer.
        assert model.layers >= (4 if model.id == "qwen3-tiny" else 8)


def test_only_compiled_cells_and_one_model_in_the_smoke_profile() -> None:
    plan = expand(SPEC, "cpu", vllm_version="0.32.0", profile="smoke", suites=[SUITE.id])
    assert [(p.cell.model, p.cell.mode) for p in plan.cells] == [("qwen3-tiny", "compile")]


@pytest.mark.parametrize("device", ["l4", "h200"])
def test_a_gpu_starts_each_model_with_one_backend(device: str) -> None:
    plan = expand(SPEC, device, vllm_version="0.33.0", profile="nightly", suites=[SUITE.id])
    found = [(c.model, c.backend) for unit in select(plan, SPEC).plan.units for c in unit.cells]
    backends = dict(found)
    assert len(backends) == len(found)
    assert set(backends) == {m for m in MODELS if m.endswith("-small")}
    assert backends["kimi-k2-small"] == "TRITON_MLA"
    assert backends["gpt-oss-small"] == "TRITON_ATTN"


@pytest.mark.parametrize(
    ("profile", "extra"), [("nightly", set()), ("release", {"mega_aot_off", "mega_aot_on"})]
)
def test_mega_aot_is_checked_on_one_model_in_the_release_profile(profile: Profile, extra: set[str]) -> None:
    plan = expand(SPEC, "h200", vllm_version="0.33.0", profile=profile, suites=[SUITE.id])
    cells = [cell for unit in select(plan, SPEC).plan.units for cell in unit.cells]
    checks = {cell.model: {check.id for check in checks_of(SPEC, cell, profile)} for cell in cells}
    assert checks.pop("phi-tiny-moe-small") == {"startup", *extra}
    assert checks
    assert all(found == {"startup"} for found in checks.values())
