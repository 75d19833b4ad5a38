"""The cases of NVFP4 kernel selection, how they are judged, and answers that are none.

vLLM's own answers are judged in ``tests/e2e/test_nvfp4.py``.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest
from packaging.version import Version

from bi_harness.certificate.facts import facts_differ, facts_weakness
from bi_harness.engine.kernel_choice import Answers, ask, cases, facts
from bi_harness.engine.kernel_table import REFUSED, REFUSED_LISTING
from bi_harness.errors import EngineDied, EngineError, EngineTimeout
from bi_harness.spec.load import default_paths, load_spec

_PATHS = default_paths(environ={})
SPEC = load_spec(_PATHS.models, _PATHS.hardware, _PATHS.suites).selection["nvfp4"]
NEW, OLD, OLDEST = Version("0.33.0"), Version("0.20.0"), Version("0.19.1")
# Releases on both sides of every range of selection.yaml.
RELEASES = [Version(f"0.{minor}.0") for minor in range(19, 34)]


def right(release: Version) -> dict[str, str]:
    """The answers of a vLLM that is as it should be."""
    judged = facts(SPEC, release, dict.fromkeys(names(release), "?"))
    return {fact.name: fact.expected[0] if fact.judged else "?" for fact in judged}


def names(release: Version) -> list[str]:
    return [case["name"] for case in cases(SPEC, release, invariant=True)]


@pytest.mark.parametrize("release", [NEW, OLD, OLDEST])
def test_every_case_has_its_own_name_the_same_in_both_arms(release: Version) -> None:
    assert len(set(names(release))) == len(names(release))
    assert names(release) == [case["name"] for case in cases(SPEC, release, invariant=False)]


@pytest.mark.parametrize("release", RELEASES)
@pytest.mark.parametrize("invariant", [True, False])
def test_no_case_repeats_another(release: Version, invariant: bool) -> None:
    asked = [
        json.dumps([case[part] for part in ("supported", "env", "kernel_config", "a16")], sort_keys=True)
        for case in cases(SPEC, release, invariant=invariant)
    ]
    assert len(set(asked)) == len(asked)


def test_cases_have_only_variables_that_the_release_knows() -> None:
    def variables(release: str) -> set[str]:
        return {name for case in cases(SPEC, Version(release), invariant=True) for name in case["env"]}

    kept = {"VLLM_BATCH_INVARIANT", "VLLM_DISABLED_KERNELS"}
    removed = {"VLLM_USE_FBGEMM", "VLLM_USE_NVFP4_CT_EMULATIONS", "VLLM_NVFP4_GEMM_BACKEND"}
    assert variables("0.23.0") == kept | removed
    assert variables("0.24.0") == variables("0.33.0") == kept


def test_each_variable_meets_each_flag() -> None:
    variable = "VLLM_DISABLED_KERNELS=CutlassNvFp4LinearKernel"
    both = [n for n in names(NEW) if n.startswith(f"hopper, {variable} and ")]
    assert len(both) == len(SPEC.flags) == 13
    assert "blackwell, nothing else set" in names(NEW)
    assert "other, all variables and --linear-backend marlin" in names(Version("0.23.0"))


def test_values_of_one_variable_are_not_combined() -> None:
    assert not any("all variables" in name for name in names(NEW))


def test_the_switch_is_in_every_case_and_unknown_names_come_without_it() -> None:
    for invariant in (True, False):
        for case in cases(SPEC, NEW, invariant=invariant):
            on = invariant and not case["unknown"]
            assert case["env"]["VLLM_BATCH_INVARIANT"] == ("1" if on else "0")


def test_flags_are_not_tried_where_they_are_not_known() -> None:
    assert not any("--linear-backend" in name for name in names(OLD))
    assert any("unknown VLLM_NVFP4_GEMM_BACKEND" in name for name in names(OLD))
    assert not any("unknown VLLM_NVFP4_GEMM_BACKEND" in name for name in names(NEW))


def test_the_right_answers_are_as_expected() -> None:
    for release in (NEW, OLD):
        assert facts_differ(facts(SPEC, release, right(release))) == ""
    expected = {fact.name: fact.expected for fact in facts(SPEC, NEW, right(NEW))}
    assert expected["blackwell, --linear-backend marlin"] == ("CutlassNvFp4LinearKernel",)
    assert expected["hopper, --linear-backend marlin"] == ("EmulationNvFp4LinearKernel",)
    assert expected["hopper, weights alone quantized"] == (REFUSED,)
    assert expected["hopper, unknown --linear-backend none-such"] == (REFUSED_LISTING,)


@pytest.mark.parametrize("name", [name for name in right(NEW) if "blackwell" in name])
def test_any_other_answer_is_named(name: str) -> None:
    wrong = {**right(NEW), name: "MarlinNvFp4LinearKernel"}
    assert f"{name} is MarlinNvFp4LinearKernel" in facts_differ(facts(SPEC, NEW, wrong))


def test_what_older_releases_do_with_weights_alone_is_told() -> None:
    (fact,) = (f for f in facts(SPEC, OLD, right(OLD)) if f.name.startswith("hopper, weights alone"))
    assert not fact.judged


def test_without_a_table_nothing_is_judged() -> None:
    found = facts(SPEC, OLDEST, dict.fromkeys(names(OLDEST), "MarlinNvFp4LinearKernel"))
    assert facts_weakness(found, found) == "no fact was judged"


def test_a_case_without_an_answer_is_an_error() -> None:
    with pytest.raises(KeyError):
        facts(SPEC, NEW, {})


def asked(tmp_path: Path, python: str, timeout_s: float = 60, **env: str) -> Answers:
    return ask(
        python,
        cases(SPEC, NEW, invariant=True)[:2],
        env={"PATH": os.environ["PATH"], **env},
        folder=tmp_path / "kernels",
        log=tmp_path / "kernels.log",
        timeout_s=timeout_s,
    )


def standin(tmp_path: Path, body: str) -> str:
    """An interpreter that runs ``body`` in place of the module; ``out`` is where the answers go."""
    script = tmp_path / "python"
    script.write_text(f"#!{sys.executable}\nimport json, sys, time\nout = sys.argv[-1]\n{body}\n")
    script.chmod(0o755)
    return str(script)


def test_one_that_dies_is_an_error_with_its_last_words(tmp_path: Path) -> None:
    with pytest.raises(EngineDied, match=r"ModuleNotFoundError: No module named 'vllm'"):
        asked(tmp_path, standin(tmp_path, "raise ModuleNotFoundError(\"No module named 'vllm'\")"))


def test_one_that_hangs_is_ended(tmp_path: Path) -> None:
    with pytest.raises(EngineTimeout, match="not there after 1 s"):
        asked(tmp_path, standin(tmp_path, "time.sleep(600)"), timeout_s=1)


@pytest.mark.parametrize(
    ("told", "said"),
    [
        ("[]", "makes no sense"),
        ("nothing", "makes no sense"),
        (json.dumps({"vllm": "0.32.0", "planted_fault": None, "chosen": {}}), "did not answer on blackwell"),
        (json.dumps({"vllm": "new", "planted_fault": None, "chosen": {}}), "makes no sense"),
        (json.dumps({"vllm": "0.32.0", "chosen": {}}), "makes no sense"),
    ],
)
def test_an_answer_that_is_none_is_an_error(tmp_path: Path, told: str, said: str) -> None:
    with pytest.raises(EngineError, match=said):
        asked(tmp_path, standin(tmp_path, f"open(out, 'w').write({told!r})"))
