"""What a cell's mode comes out as."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from packaging.version import Version

from bi_harness.matrix.execution import (
    SAME_AS_DEFAULT,
    default_mode,
    default_twin,
    execution_for,
    left_to_default,
    linear_shapes,
)
from bi_harness.spec.execution import ExecutionSpec
from bi_harness.spec.load import default_paths, load_spec
from bi_harness.spec.models import ModelSpec
from bi_harness.spec.types import DeviceConditions

_paths = default_paths(environ={})
SHIPPED = load_spec(_paths.models, _paths.hardware, _paths.suites)
H200, CPU = SHIPPED.devices["h200"], SHIPPED.devices["cpu"]
QWEN3 = SHIPPED.models["qwen3-1.7b"]

RELEASES = ["0.11.1", "0.25.1", "0.26.0", "0.30.0", "0.31.0", "0.32.0", "0.33.0", "0.34.0.dev1", "1.0"]


def entry(name: str = "x", **changes: Any) -> ExecutionSpec:
    return ExecutionSpec.model_validate(
        {"id": name, "when": {}, "default": "compile", "source": "here", **changes}
    )


def decided(*entries: ExecutionSpec, model: ModelSpec = QWEN3, device: Any = H200, **changes: Any) -> str:
    """The id of the entry that decides; empty where none holds."""
    options: dict[str, Any] = {"vllm": Version("0.33.0"), "tp": 1, "synthetic": False, **changes}
    found = execution_for(entries, model, device, **options)
    return "" if found is None else found.id


def shipped(device: str, vllm: str, model: str, tp: int = 1, *, synthetic: bool = False) -> Any:
    found = execution_for(
        SHIPPED.execution,
        SHIPPED.models[model],
        SHIPPED.devices[device],
        vllm=Version(vllm),
        tp=tp,
        synthetic=synthetic,
    )
    return None if found is None else found.default


def test_first_entry_that_holds_decides() -> None:
    assert decided(entry("a"), entry("b")) == "a"
    assert decided(entry("a", when={"kind": "cpu"}), entry("b")) == "b"
    assert decided(entry("a", vllm="<0.33"), entry("b", vllm=">=0.33")) == "b"
    assert decided(entry("a", when={"capability": "<9.0"}), entry("b", when={"device": "h200"})) == "b"
    assert decided(entry("a", tuned_linear=[[1, 2]]), entry("b")) == "b"
    assert decided(entry("a", vllm="<0.33")) == ""
    assert decided() == ""


def test_entry_with_a_range_does_not_hold_for_an_unknown_release() -> None:
    assert decided(entry("a", vllm=">=0.1"), entry("b"), vllm=None) == "b"
    assert decided(entry("a", vllm=">=0.1"), vllm=None) == ""


@pytest.mark.parametrize(
    ("release", "holds"),
    [
        ("0.31.0", True),
        ("0.31.0rc1", False),
        ("0.32.1.dev3", True),
        ("0.34.0.dev1", False),
        ("0.34.0", False),
    ],
)
def test_range_takes_development_builds(release: str, holds: bool) -> None:
    # PEP 440: 0.34.0.dev1 comes before 0.34.0, but "<0.34" leaves out its pre-releases.
    found = decided(entry("a", vllm=">=0.31,<0.34"), vllm=Version(release))
    assert found == ("a" if holds else "")


@pytest.mark.parametrize(
    ("changes", "tp", "holds"),
    [
        ({}, 1, True),
        ({}, 2, True),  # (2048, 2048) is the QKV projection of one of two ranks.
        ({}, 4, False),
        ({"dtype": "float16"}, 1, False),
        ({"dtype": "float32"}, 1, False),
        ({"dtype": "auto"}, 1, True),
        ({"quantization": "fp8"}, 1, False),
        ({"quantize": "nvfp4"}, 1, False),
    ],
)
def test_tuned_layer_depends_on_size_dtype_and_quantization(
    changes: dict[str, Any], tp: int, holds: bool
) -> None:
    tuned = entry("tuned", tuned_linear=[[12288, 2048], [2048, 2048]], default="breakable")
    assert decided(tuned, model=QWEN3.model_copy(update=changes), tp=tp) == ("tuned" if holds else "")


def test_synthetic_weights_of_a_quantized_model_are_not_quantized() -> None:
    tuned = entry("tuned", tuned_linear=[[12288, 2048]])
    fp8 = QWEN3.model_copy(update={"quantization": "fp8"})
    assert decided(tuned, model=fp8, synthetic=True) == "tuned"
    assert decided(tuned, model=fp8, synthetic=False) == ""
    # A model that is quantized on the spot is quantized with synthetic weights, too.
    nvfp4 = QWEN3.model_copy(update={"quantize": "nvfp4"})
    assert decided(tuned, model=nvfp4, synthetic=True) == ""


@pytest.mark.parametrize(
    ("model", "tp", "shapes"),
    [
        # 16 heads, 8 key-value heads of 128; the output projection and QKV, then the MLP.
        ("qwen3-1.7b", 1, {(4096, 2048), (2048, 2048), (12288, 2048), (2048, 6144)}),
        ("qwen3-1.7b", 2, {(2048, 2048), (2048, 1024), (6144, 2048), (2048, 3072)}),
        ("llama-3.1-8b-instruct", 1, {(6144, 4096), (4096, 4096), (28672, 4096), (4096, 14336)}),
        # MLA: one latent head of kv_lora_rank + qk_rope_head_dim, which ranks do not share.
        ("deepseek-v3", 8, {((16 + 2) * 576, 7168), (7168, 16 * 576), (4608, 7168), (7168, 2304)}),
    ],
)
def test_linear_shapes_are_those_that_vllm_looks_up(model: str, tp: int, shapes: set[Any]) -> None:
    assert linear_shapes(SHIPPED.models[model], tp) == shapes


def test_linear_shapes_of_a_configuration_that_says_little() -> None:
    config = {"hidden_size": 64, "num_attention_heads": 4, "intermediate_size": [1, 2]}
    bare = QWEN3.model_copy(update={"config": config})
    # As many key-value heads as heads; sizes by layer are not modelled (nor does vLLM).
    assert linear_shapes(bare, 1) == {(12 * 16, 64), (64, 64)}
    # Fewer key-value heads than ranks: each rank has one.
    assert linear_shapes(QWEN3.model_copy(update={"config": {**config, "num_key_value_heads": 1}}), 4) == {
        (3 * 16, 64),
        (64, 16),
    }


@pytest.mark.parametrize("model", ["qwen3-1.7b", "llama-3.2-1b-instruct", "qwen3-moe-small"])
def test_shipped_default_of_models_with_tuned_layers_is_breakable_on_hopper(model: str) -> None:
    assert {shipped("h200", release, model) for release in ("0.31.0", "0.32.0", "0.33.0")} == {"breakable"}
    assert {shipped(device, "0.33.0", model) for device in ("l4", "h100", "b200")} == {"breakable"}
    assert {shipped("h200", release, model) for release in ("0.26.0", "0.30.0")} == {"compile"}
    assert shipped("a100", "0.33.0", model) == shipped("cpu", "0.33.0", model) == "compile"


@pytest.mark.parametrize(
    "model", ["deepseek-small", "qwen3-nvfp4-tiny", "qwen3-moe-nvfp4-tiny", "qwen3-1.7b-nvfp4"]
)
def test_shipped_default_of_models_without_tuned_layers_is_compile(model: str) -> None:
    assert {shipped(device, "0.33.0", model) for device in SHIPPED.devices} == {"compile"}


def test_shipped_shapes_of_hidden_size_4096_are_tuned_on_hopper_from_0_33_on() -> None:
    assert shipped("h200", "0.32.0", "llama-3.1-8b-instruct") == "compile"
    assert shipped("h200", "0.33.0", "llama-3.1-8b-instruct") == "breakable"
    assert shipped("b200", "0.33.0", "llama-3.1-8b-instruct") == "compile"


@pytest.mark.parametrize("release", ["0.31.0rc1", "0.34.0.dev1", "0.34.0", "1.0"])
def test_shipped_default_of_unread_releases_is_not_known_and_compile_is_still_compiled(release: str) -> None:
    assert shipped("h200", release, "qwen3-1.7b") is None
    for device in (device for device in SHIPPED.devices.values() if device.kind == "cuda"):
        found = execution_for(SHIPPED.execution, QWEN3, device, vllm=Version(release), tp=1, synthetic=False)
        assert found is not None
        assert dict(found.compile_env) == {"VLLM_USE_BREAKABLE_CUDAGRAPH": "0"}


SMALL = {(12288, 2048), (2048, 6144), (4096, 2048), (151936, 2048), (2048, 2048)}
"""Keys of ``_BATCH_INVARIANT_MATMUL_TUNED_CONFIGS`` (vLLM
``model_executor/determinism/batch_invariant_configs.py``): "ada", "hopper" and "blackwell" of 0.31.0 and
0.32.0; "ada" and "blackwell" of 0.33.0."""

HOPPER = SMALL | {
    (24576, 4096),
    (4096, 12288),
    (6144, 4096),
    (4096, 4096),
    (151936, 4096),
    (28672, 4096),
    (4096, 14336),
    (128256, 4096),
}
""" "hopper" of 0.33.0."""


@pytest.mark.parametrize(
    ("device", "release", "shapes"),
    [
        *(
            (device, release, SMALL)
            for device in ("l4", "b200")
            for release in ("0.31.0", "0.32.0", "0.33.0")
        ),
        ("h200", "0.31.0", SMALL),
        ("h200", "0.32.0", SMALL),
        ("h200", "0.33.0", HOPPER),
        ("h100", "0.33.0", HOPPER),
    ],
)
def test_shipped_shapes_are_those_of_vllms_table(device: str, release: str, shapes: set[Any]) -> None:
    found = execution_for(
        SHIPPED.execution, QWEN3, SHIPPED.devices[device], vllm=Version(release), tp=1, synthetic=False
    )
    assert found is not None
    assert set(found.tuned_linear) == shapes
    assert dict(found.compile_env) == {"VLLM_USE_BREAKABLE_CUDAGRAPH": "0"}


@given(
    st.sampled_from(list(SHIPPED.devices)),
    st.sampled_from(RELEASES),
    st.sampled_from([(name, tp) for name, model in SHIPPED.models.items() for tp in model.tp]),
    st.booleans(),
)
@settings(max_examples=300, deadline=None)
def test_every_shipped_decision_can_be_used(
    device: str, release: str, sized: tuple[str, int], synthetic: bool
) -> None:
    name, tp = sized
    found = execution_for(
        SHIPPED.execution,
        SHIPPED.models[name],
        SHIPPED.devices[device],
        vllm=Version(release),
        tp=tp,
        synthetic=synthetic,
    )
    if found is None:
        assert (device, Version(release) >= Version("0.34.0.dev0")) == ("cpu", True)
        return
    # compile runs torch.compile: default is it, or the entry says how.
    assert (found.default == "compile") != bool(found.compile_env)
    if SHIPPED.devices[device].kind == "cpu" or Version(release) < Version("0.31"):
        assert found.default == "compile"


def test_breakable_and_unknown_are_not_another_mode() -> None:
    assert default_mode(None) is None
    assert default_mode(entry(default="compile")) == "compile"
    assert default_mode(entry(default="eager")) == "eager"
    assert default_mode(entry(default="breakable")) is None
    assert default_mode(entry(default=None, compile_env={"A": "1"})) is None


def test_reason_names_mode_release_and_source() -> None:
    why = left_to_default(entry(source="vLLM x.py"), "0.33.0")
    assert (why.rule, why.source) == (SAME_AS_DEFAULT, "vLLM x.py")
    assert why.reason == "default is compile here (vLLM 0.33.0): the default cell has its results."


@pytest.mark.parametrize(
    ("cell", "twin"),
    [
        ("h200/m/FLASH_ATTN/tp1-dp1/compile/core", "h200/m/FLASH_ATTN/tp1-dp1/default/core"),
        ("h200/org/m/FLASH_ATTN/tp1-dp1/eager/core", "h200/org/m/FLASH_ATTN/tp1-dp1/default/core"),
        ("h200/m/FLASH_ATTN/tp1-dp1/default/core", "h200/m/FLASH_ATTN/tp1-dp1/default/core"),
        # Of a certificate, which nobody vetted.
        ("a/b", "default/b"),
    ],
)
def test_twin_is_the_same_cell_in_mode_default(cell: str, twin: str) -> None:
    assert default_twin(cell) == twin


def test_conditions_of_entries_are_about_devices_alone() -> None:
    assert decided(entry("a", when=DeviceConditions(kind="cuda")), device=CPU) == ""
