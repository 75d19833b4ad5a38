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


SPREAD = "summary: Two."


def test_what_a_check_asks_for(files: Files) -> None:
    files.suite = files.suite.replace(
        SPREAD, f"{SPREAD}, profiles: [release], adapters: 3, engine_args: {{enable_lora: true, x: [1]}}"
    )
    alone, spread = files.load().suites["core"].checks
    assert (alone.profiles, alone.adapters, alone.engine_args) == (("smoke", "nightly", "release"), 0, {})
    assert (spread.profiles, spread.adapters) == (("release",), 3)
    assert spread.engine_args == {"enable_lora": True, "x": [1]}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("{}", "give noise (a draft made on the spot), hf (a repository), or both"),
        ("{noise: -1.0}", "models.tiny.drafts.main.noise"),
        ("{noise: .inf}", ".inf differs between YAML readers"),
        ("{hf: nowhere}", "models.tiny.drafts.main.hf"),
        ("{noise: 1.0, revision: main}", "a draft made on the spot has no revision"),
        ("{hf: Org/Head, opposite: true}", "opposite is for a draft made on the spot"),
        ("{noise: 1.0}", "a draft made on the spot needs next_token: true"),
    ],
)
def test_mistakes_in_a_draft(change: Change, given: str, message: str) -> None:
    follows = "" if "next_token" in message else "    next_token: true\n"
    drafts = f"    synthetic: true\n{follows}    drafts: {{main: {given}}}\n"
    assert message in "\n".join(change("models", "    synthetic: true\n", drafts))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("profiles: []", "checks.1.profiles"),
        ("profiles: smoke", "checks.1.profiles: must be a list"),
        ("profiles: [smok]", '"smok" is not one of smoke, nightly, release. Did you mean "smoke"?'),
        ("profiles: [smoke, smoke]", "smoke is listed twice"),
        ("profil: [smoke]", 'unknown key "profil". Did you mean "profiles"?'),
        ("adapters: -1", "checks.1.adapters"),
        ("adapters: 1.5", "checks.1.adapters"),
        ("adapters: true", "checks.1.adapters"),
        ("adapters: '2'", "checks.1.adapters"),
        ("engine_args: [enable_lora]", "checks.1.engine_args"),
        ("engine_args: ~", "checks.1.engine_args"),
        ("speculation: {method: medusa, tokens: 3}", '"medusa" is not one of eagle, ngram'),
        ("speculation: {method: eagle, tokens: 3}", "eagle needs a draft, and ngram has none"),
        ("speculation: {method: ngram, draft: main, tokens: 3}", "eagle needs a draft, and ngram has none"),
        ("speculation: {method: ngram, tokens: 0}", "checks.1.speculation.tokens"),
        ("speculation: {method: ngram}", 'required key "tokens" is missing'),
        ("unless: [{profile: smok}]", '"smok" is not one of smoke, nightly, release'),
        ("unless: [{kind: gpu}]", '"gpu" is not one of cpu, cuda'),
    ],
)
def test_mistakes_in_what_a_check_asks_for(change: Change, given: str, message: str) -> None:
    errors = change("suite", SPREAD, f"{SPREAD}, {given}")
    assert message in "\n".join(errors)
    assert all(error.startswith("suites/core/suite.yaml:6: checks.1.") for error in errors)


def in_order(files: Files, *needs: str) -> None:
    """Make the suite's checks: each with what it needs of its engine."""
    head, rest = files.suite.split("  - {id: alone")
    tail = rest[rest.index("timeouts:") :]
    lines = [
        f'  - {{id: c{n}, test: "test_a.py::test_c{n}", summary: One.{given}}}\n'
        for n, given in enumerate(needs)
    ]
    files.suite = head + "".join(lines) + tail


SHARED, LORA, SMALL = "", ", adapters: 2, engine_args: {lora: true}", ", engine_args: {block: 16}"


@pytest.mark.parametrize(
    "needs",
    [
        (SHARED,),
        (LORA,),
        (LORA, LORA, SMALL),
        (SHARED, SHARED),
        (SHARED, LORA),
        (SHARED, SHARED, LORA, LORA, SMALL, SMALL),
        (SHARED, ", adapters: 1", ", adapters: 2", LORA),
        (SHARED, ", adapters: 0, engine_args: {}", SMALL),
    ],
)
def test_checks_of_one_engine_stand_together(files: Files, needs: tuple[str, ...]) -> None:
    in_order(files, *needs)
    assert len(files.load().suites["core"].checks) == len(needs)


@pytest.mark.parametrize(
    "needs",
    [
        (LORA, SHARED),
        (SHARED, LORA, SHARED),
        (SHARED, LORA, SMALL, LORA),
        (SHARED, SMALL, LORA, LORA, SMALL),
        (SHARED, ", engine_args: {a: 1}", ", engine_args: {a: 2}", ", engine_args: {a: 1}"),
    ],
)
def test_checks_that_would_start_an_engine_twice_are_refused(files: Files, needs: tuple[str, ...]) -> None:
    in_order(files, *needs)
    (error,) = files.errors()
    assert error.startswith("suites/core/suite.yaml:1: ")
    assert "checks that need the same engine must follow each other, those of the shared one first" in error


@given(data=st.data())
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_an_order_is_refused_exactly_when_an_engine_would_start_twice(
    files: Files, data: st.DataObject
) -> None:
    needs = data.draw(st.lists(st.sampled_from([SHARED, LORA, SMALL]), min_size=1, max_size=6))
    fresh = Files(files.root)
    in_order(fresh, *needs)
    runs = [need for need, before in zip(needs, [None, *needs], strict=False) if need != before]
    good = SHARED not in runs[1:] and len(set(runs)) == len(runs)
    with contextlib.nullcontext() if good else pytest.raises(SpecError, match="must follow each other"):
        fresh.load()


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
