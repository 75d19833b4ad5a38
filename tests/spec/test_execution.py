"""``execution`` of ``hardware.yaml``: what it may say, and where a mistake is."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from bi_harness.spec.execution import ExecutionSpec
from bi_harness.spec.types import MODES, Conditions, DeviceConditions
from tests.spec.small import HARDWARE, Files

ENTRIES = """\
execution:
  tuned:
    vllm: ">=0.31,<0.34"
    when: {kind: cuda, capability: "==8.0"}
    tuned_linear: [[12288, 2048], [2048, 6144]]
    default: breakable
    compile_env: {VLLM_USE_BREAKABLE_CUDAGRAPH: "0"}
    source: vLLM 0.33.0
  rest:
    when: {device: [cpu, gpu]}
    default: compile
    source: vLLM 0.32.0
"""
HEAD = HARDWARE.count("\n") + 1
"""Line of ``execution:`` in the file."""


@pytest.fixture
def files(tmp_path: Path) -> Files:
    small = Files(tmp_path)
    small.hardware += ENTRIES
    return small


def test_entries_keep_their_order_and_get_their_key_as_id(files: Files) -> None:
    tuned, rest = files.load().execution
    assert (tuned.id, rest.id) == ("tuned", "rest")
    assert tuned.tuned_linear == ((12288, 2048), (2048, 6144))
    assert (tuned.default, dict(tuned.compile_env)) == ("breakable", {"VLLM_USE_BREAKABLE_CUDAGRAPH": "0"})
    assert tuned.when == DeviceConditions(kind="cuda", capability="==8.0")
    assert (rest.vllm, rest.tuned_linear, rest.when.device) == ("", (), ("cpu", "gpu"))


def test_hardware_file_without_execution_is_valid(tmp_path: Path) -> None:
    assert Files(tmp_path).load().execution == ()


@pytest.mark.parametrize(
    ("old", "new", "line", "message"),
    [
        ("device: [cpu, gpu]", "device: [cpu, gpx]", 9, 'there is no device "gpx". Did you mean "gpu"?'),
        ("device: [cpu, gpu]", "device: gpx", 9, 'execution.rest.when.device: there is no device "gpx"'),
        ("device: [cpu, gpu]", "model: tiny", 9, 'unknown key "model"'),
        ("device: [cpu, gpu]", "mode: compile", 9, 'unknown key "mode"'),
        (
            '{kind: cuda, capability: "==8',
            '{kind: cud, capability: "==8',
            3,
            'is not one of cpu, cuda. Did you mean "cuda"?',
        ),
        ('"==8.0"', '"8.0"', 3, "execution.tuned.when.capability"),
        ('">=0.31,<0.34"', '"0.31"', 2, "not a version range"),
        ("default: breakable", "default: breakabel", 5, 'Did you mean "breakable"?'),
        ("[2048, 6144]", "[12288, 2048]", 4, "listed twice"),
        ("[2048, 6144]", "[2048]", 4, "execution.tuned.tuned_linear.1"),
        ("[2048, 6144]", "[2048, 6144, 1]", 4, "execution.tuned.tuned_linear.1"),
        ("[2048, 6144]", "[2048, 0]", 4, "execution.tuned.tuned_linear.1.1"),
        ("[2048, 6144]", "2048", 4, "must be a list, not 2048"),
        ('{VLLM_USE_BREAKABLE_CUDAGRAPH: "0"}', "{VLLM_USE_BREAKABLE_CUDAGRAPH: 0}", 6, "compile_env"),
        ("    source: vLLM 0.32.0\n", "", 8, 'required key "source" is missing'),
        ("    default: compile\n", "", 9, "give default, compile_env, or both"),
        (
            "    default: compile\n",
            '    default: compile\n    compile_env: {X: "1"}\n',
            9,
            "default is compile: compile_env has nothing to turn on",
        ),
        ("  rest:\n", "  rest:\n    id: rest\n", 9, 'unknown key "id"'),
        ("  rest:\n", "  tuned:\n", 8, "execution.tuned: duplicate key"),
    ],
)
def test_mistake_is_reported_with_its_line(files: Files, old: str, new: str, line: int, message: str) -> None:
    assert old in files.hardware
    files.hardware = files.hardware.replace(old, new)
    errors = files.errors()
    (found,) = [error for error in errors if message in error]
    assert f"hardware.yaml:{HEAD + line}: execution." in found


@pytest.mark.parametrize(
    ("given_modes", "modes"),
    [
        ("compile", ("compile",)),
        ("[default, compile]", ("default", "compile")),
        ("[eager, compile, default]", ("eager", "compile", "default")),
    ],
)
def test_rule_names_one_mode_or_several(tmp_path: Path, given_modes: str, modes: tuple[str, ...]) -> None:
    files = Files(tmp_path)
    files.hardware = files.hardware.replace("mode: compile}", f"mode: {given_modes}}}")
    assert files.load().rules[0].when.mode == modes


@pytest.mark.parametrize(
    ("given_modes", "message"),
    [
        ("[]", "mode"),
        ("[compile, compile]", "listed twice"),
        ("[compile, defualt]", 'Did you mean "default"?'),
        ("compiled", 'Did you mean "compile"?'),
        ("1", "mode"),
    ],
)
def test_bad_mode_list_in_a_rule_is_refused(tmp_path: Path, given_modes: str, message: str) -> None:
    files = Files(tmp_path)
    files.hardware = files.hardware.replace("mode: compile}", f"mode: {given_modes}}}")
    assert any(
        "hardware.yaml:25: rules.eager-only.when.mode" in error and message in error
        for error in files.errors()
    )


def test_devices_and_suites_know_three_modes_and_suites_have_them_all_by_default(tmp_path: Path) -> None:
    files = Files(tmp_path)
    files.hardware = files.hardware.replace("[eager, compile]", "[default, compile, eager]")
    spec = files.load()
    assert MODES == ("default", "compile", "eager")
    assert {device.modes for device in spec.devices.values()} == {MODES}
    assert spec.suites["core"].modes == MODES


@given(
    default=st.sampled_from([None, "compile", "eager", "breakable"]),
    compile_env=st.dictionaries(st.sampled_from(["A", "B"]), st.sampled_from(["0", "1"]), max_size=2),
)
def test_entry_is_valid_exactly_when_it_says_something_consistent(
    default: str | None, compile_env: dict[str, str]
) -> None:
    values = {"id": "x", "when": {}, "source": "here", "default": default, "compile_env": compile_env}
    valid = (default is not None or bool(compile_env)) and not (default == "compile" and compile_env)
    if valid:
        assert ExecutionSpec.model_validate(values).default == default
    else:
        with pytest.raises(ValidationError):
            ExecutionSpec.model_validate(values)


def test_device_conditions_are_the_part_of_a_rules_conditions_about_devices() -> None:
    assert set(DeviceConditions.model_fields) == {"device", "kind", "capability"}
    assert set(DeviceConditions.model_fields) < set(Conditions.model_fields)
