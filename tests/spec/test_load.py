"""The three files together: what is accepted, and what each mistake says."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bi_harness.errors import SpecError
from bi_harness.spec.load import default_paths, load_spec
from tests.spec.small import Files

Change = Callable[[str, str, str], list[str]]


def test_a_good_spec(files: Files) -> None:
    spec = files.load()
    assert list(spec.models) == ["tiny", "big"]
    assert spec.models["tiny"].id == "tiny"
    assert spec.models["big"].tp == (1, 2)
    assert spec.devices["cpu"].invariance.on == {"X": "1"}
    assert spec.rules[0].when.capability == "<9.0"
    assert spec.suites["core"].profiles["smoke"]["sizes"] == [2, 3]
    assert spec.suites["core"].check("spread").needs.tp == ">1"
    assert (spec.reference("cpu"), spec.reference("gpu")) == ("0.32.0", "0.33.0")
    assert set(spec.digests) == {"models.yaml", "hardware.yaml", "suites/core/suite.yaml"}


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        (
            "models",
            "    memory_gib: 0.02",
            "    memry_gib: 0.02",
            (
                'models.tiny: required key "memory_gib" is missing|models.yaml:6: models.tiny.memry_gib: '
                'unknown key "memry_gib". Did you mean "memory_gib"? Valid keys: title, hf, '
            ),
        ),
        (
            "models",
            "[core]",
            "[cor]",
            'models.yaml:5: models.tiny.suites.0: there is no suite "cor". Did you mean "core"?',
        ),
        (
            "models",
            "devices: [gpu]",
            "devices: [gpx]",
            'there is no device "gpx". Did you mean "gpu"? There are: cpu, gpu',
        ),
        (
            "models",
            "profiles: [nightly]",
            "profiles: [nihtly]",
            '"nihtly" is not one of smoke, nightly, release. Did you mean "nightly"?',
        ),
        ("models", "  big:", "  Big Model:", "an id is lower-case letters"),
        (
            "models",
            "  big:",
            "  tiny:",
            "models.yaml:8: models.tiny: duplicate key; it is first given at models.yaml:2",
        ),
        ("models", "hf: Org/Big", "hf: Big", "models.big.hf"),
        (
            "models",
            "hf: Org/Big",
            "synthetic: false",
            "give one of hf (a repository), path (a folder) and synthetic: true",
        ),
        ("models", "max_model_len: 2048", "max_model_len: '2048'", 'must be a whole number, not "2048"'),
        (
            "models",
            "max_model_len: 2048",
            "max_model_len: 0",
            "models.yaml:7: models.tiny.max_model_len: must",
        ),
        ("models", "synthetic: true", "synthetic: yes", 'must be true or false, not "yes"'),
        ("models", "tp: [1, 2]", "tp: [1, 1]", "1 is listed twice"),
        ("models", "tp: [1, 2]", "tp: 2", "must be a list, not 2"),
        ("models", "model_type: qwen3, ", "", "needs model_type"),
        ("models", "  tiny:\n", "  tiny:\n    id: tiny\n", 'models.yaml:3: models.tiny.id: unknown key "id"'),
        ("hardware", 'capability: "8.0"', "capability: 8.0", "must be text, not 8.0; put it in quotes"),
        ("hardware", "kind: cuda", "kind: cud", '"cud" is not one of cpu, cuda. Did you mean "cuda"?'),
        ("hardware", "match: [A100]", "match: ['[']", "not a regular expression"),
        ("hardware", 'vllm: "<0.22"', 'vllm: "0.22"', "not a version range"),
        ("hardware", '"0.33.0"', '"new"', "hardware.yaml:1: reference_vllm: not a version"),
        ("hardware", "mode: compile}", "modes: compile}", 'unknown key "modes". Did you mean "mode"?'),
        ("hardware", "mode: compile}", "backend: FLASH}", 'there is no backend "FLASH"'),
        (
            "hardware",
            "mode: compile}",
            "suite: nope}",
            'hardware.yaml:25: rules.eager-only.when.suite: there is no suite "nope"',
        ),
        ("hardware", 'off: {X: "0"}', 'off: {Y: "0"}', "must set the same variables"),
        ("hardware", "then: skip", "then: run", '"run" is not one of skip'),
        ("hardware", '"<9.0"', '"<9"', "rules.eager-only.when.capability"),
        (
            "suite",
            "id: core",
            "id: cor",
            'suites/core/suite.yaml:1: id: "cor" must be the name of its folder, "core"',
        ),
        (
            "suite",
            "id: spread",
            "id: alone",
            'duplicate check "alone"; it is first given at suites/core/suite.yaml:5',
        ),
        ("suite", "test_b.py::test_b", "test_b.py", "checks.1.test"),
        (
            "suite",
            "prompts: 3",
            "prompts: {}",
            "profiles.smoke.prompts: must be a number, a text, or a list of whole numbers",
        ),
        (
            "suite",
            "  smoke:",
            "  smok:",
            'unknown key "smok"; "smok" is not one of smoke, nightly, release. Did you mean "smoke"?',
        ),
        ("suite", "fraction: 0.5", "fraction: 1.5", "suites/core/suite.yaml:10: control_min_fraction"),
    ],
)
def test_each_mistake_says_where_and_what(
    change: Change, file: str, old: str, new: str, message: str
) -> None:
    errors = "\n".join(change(file, old, new))
    for part in message.split("|"):
        assert part in errors


def test_all_mistakes_of_all_files_come_at_once(files: Files) -> None:
    files.models = files.models.replace("synthetic: true", "synthetic: 1")
    files.hardware = files.hardware.replace("gpus: 2", "gpus: two")
    files.suite = files.suite.replace("engine: shared", "engine: common")
    errors = files.errors()
    assert [line.split(":")[0] for line in errors] == [
        "models.yaml",
        "hardware.yaml",
        "suites/core/suite.yaml",
    ]


def test_suites_of_the_design_may_be_named_before_they_exist(files: Files) -> None:
    files.hardware = files.hardware.replace("mode: compile}", "suite: eagle_dp}")
    files.models = files.models.replace("[core]", "[core, ops]", 1)
    assert files.load().models["tiny"].suites == ("core", "ops")


def test_suites_that_share_engines_agree_on_their_arguments(files: Files) -> None:
    other = files.root / "suites" / "other"
    other.mkdir(parents=True)
    (other / "suite.yaml").write_text(files.suite.replace("id: core", "id: other") + "engine_args: {a: 1}\n")
    assert "need the same engine_args" in files.errors()[0]
    (other / "suite.yaml").write_text(
        files.suite.replace("id: core", "id: other").replace("shared", "own") + "engine_args: {a: 1}\n"
    )
    assert list(files.load().suites) == ["core", "other"]


@pytest.mark.parametrize("content", ["", "[]", "a", "models: {}", "models: [1]", "models: {a: 1}", "models:"])
def test_files_without_the_expected_shape(files: Files, content: str) -> None:
    files.models = content
    assert files.errors()[0].startswith("models.yaml:1: ")


def test_control_characters_do_not_reach_the_message(change: Change) -> None:
    errors = "\n".join(change("models", "  big:", '  "b\\e[31mig":'))
    assert "\x1b" not in errors


def test_missing_folders_and_files(tmp_path: Path) -> None:
    with pytest.raises(SpecError) as caught:
        load_spec(tmp_path / "m", tmp_path / "h", tmp_path / "s")
    assert len(str(caught.value).splitlines()) == 3


def test_where_the_files_are(tmp_path: Path) -> None:
    root = Path(__file__).resolve().parents[2]
    assert default_paths(environ={}).hardware == root / "hardware.yaml"
    env = {"BI_HARNESS_MODELS": "/x/m.yaml", "BI_HARNESS_SUITES": "", "BI_HARNESS_HARDWARE": "/x/h.yaml"}
    paths = default_paths(hardware=tmp_path / "h.yaml", environ=env)
    assert (paths.models, paths.hardware, paths.suites) == (
        Path("/x/m.yaml"),
        tmp_path / "h.yaml",
        root / "suites",
    )


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_damaged_file_never_gives_anything_but_a_spec_error(files: Files, data: st.DataObject) -> None:
    fresh = Files(files.root)
    name = data.draw(st.sampled_from(["models", "hardware", "suite"]))
    text = getattr(fresh, name)
    start = data.draw(st.integers(0, len(text)))
    stop = min(len(text), start + data.draw(st.integers(0, 30)))
    junk = data.draw(st.text(alphabet="abX0: -[]{}\"'\n&*!|.,", max_size=8))
    setattr(fresh, name, text[:start] + junk + text[stop:])
    with contextlib.suppress(SpecError):
        fresh.load()
