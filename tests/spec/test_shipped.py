"""The YAML files that the project ships."""

from __future__ import annotations

import pytest

from bi_harness.spec.load import Spec, default_paths, load_spec

VERIFIED = {
    # vLLM's docs/features/batch_invariance.md, as of the feature's first releases.
    "deepseek-ai/DeepSeek-V3",
    "deepseek-ai/DeepSeek-V3-0324",
    "deepseek-ai/DeepSeek-R1",
    "deepseek-ai/DeepSeek-V3.1",
    "Qwen/Qwen3-1.7B",
    "Qwen/Qwen3-8B",
    "Qwen/Qwen3-30B-A3B",
    "Qwen/Qwen3-Next-80B-A3B-Instruct",
    "meta-llama/Llama-3.1-8B-Instruct",
    "meta-llama/Llama-3.2-1B-Instruct",
}


@pytest.fixture(scope="module")
def spec() -> Spec:
    paths = default_paths(environ={})
    return load_spec(paths.models, paths.hardware, paths.suites)


def test_every_model_that_vllm_calls_verified_is_there(spec: Spec) -> None:
    assert {model.hf for model in spec.models.values() if model.hf} == VERIFIED


def test_no_model_runs_code_of_its_repository(spec: Spec) -> None:
    assert not any(model.trust_remote_code for model in spec.models.values())


def test_every_device_of_the_ci_is_there(spec: Spec) -> None:
    assert set(spec.devices) == {"cpu", "l4", "a100", "h100", "h200", "b200"}


def test_every_model_has_a_device_that_can_hold_it(spec: Spec) -> None:
    for model in spec.models.values():
        assert any(
            device.backends.of(model.attention) and set(model.tp) & set(device.tp)
            for device in spec.devices.values()
            if model.devices is None or device.id in model.devices
        ), model.id


def test_mla_models_have_the_head_size_of_vllms_mla_kernels(spec: Spec) -> None:
    for model in spec.models.values():
        if model.attention == "mla":
            assert model.config["kv_lora_rank"] + model.config["qk_rope_head_dim"] == 576


def test_every_suite_has_every_profile(spec: Spec) -> None:
    for suite in spec.suites.values():
        assert set(suite.profiles) == {"smoke", "nightly", "release"}
        assert len({frozenset(values) for values in suite.profiles.values()}) == 1


def test_batch_sizes_are_within_the_prompts(spec: Spec) -> None:
    for values in spec.suites["batch_invariance"].profiles.values():
        sizes, prompts = values["batch_sizes"], values["prompts"]
        assert isinstance(sizes, list)
        assert isinstance(prompts, int)
        assert 1 < min(sizes) <= max(sizes) <= prompts
