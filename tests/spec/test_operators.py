"""How much a suite of single operators tries."""

from __future__ import annotations

from typing import Any

import pytest

from bi_harness.errors import SpecError
from bi_harness.spec.load import default_paths, load_spec
from bi_harness.spec.operators import Amount, ModuleAmount
from bi_harness.spec.suites import SuiteSpec

_paths = default_paths(environ={})
SUITE = load_spec(_paths.models, _paths.hardware, _paths.suites).suites["ops"]


def changed(**changes: Any) -> SuiteSpec:
    params = {**dict(SUITE.profiles)["smoke"], **changes}
    return SUITE.model_copy(
        update={"profiles": {"smoke": {k: v for k, v in params.items() if v is not None}}}
    )


@pytest.mark.parametrize("profile", ["smoke", "nightly", "release"])
def test_the_shipped_profiles_are_whole_and_go_up_to_4096_rows(profile: str) -> None:
    amount = Amount.of(SUITE, profile)
    assert amount.most_rows == 4096
    assert amount.effort(7)["seed"] == 7
    assert set(amount.effort(7)) == {
        *("subjects", "least", "most_rows", "told_rows", "sample", "every", "all_dtypes", "seed")
    }


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"subjects": None}, "subjects is missing"),
        ({"prompts": 3}, "prompts is unknown"),
        ({"subjects": 1}, "subjects must be a whole number from 2; it is 1"),
        ({"sample": -1}, "sample must be a whole number from 0; it is -1"),
        ({"every": 1.5}, "every must be a whole number from 2"),
        ({"least": "many"}, "least must be a whole number"),
    ],
)
def test_a_wrong_one_is_refused_with_its_name(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(SpecError, match=said):
        Amount.of(changed(**changes), "smoke")


def test_so_is_a_profile_that_there_is_not() -> None:
    with pytest.raises(SpecError, match="no such profile; it has smoke"):
        Amount.of(changed(), "nightly")


MODULES = load_spec(_paths.models, _paths.hardware, _paths.suites).suites["module_invariance"]


def test_modules_take_their_numbers_from_beside_the_workloads() -> None:
    amount = ModuleAmount.of(MODULES, "smoke")
    assert set(amount.effort(7)) == {
        *("subjects", "least", "most_rows", "sample", "every", "others_subjects", "others_rows", "seed")
    }
    with pytest.raises(SpecError, match="no such profile"):
        ModuleAmount.of(MODULES.model_copy(update={"profiles": {}}), "smoke")
    params = {k: v for k, v in dict(MODULES.profiles)["smoke"].items() if k != "others_rows"}
    with pytest.raises(SpecError, match="others_rows is missing"):
        ModuleAmount.of(MODULES.model_copy(update={"profiles": {"smoke": params}}), "smoke")
    with pytest.raises(SpecError, match="others_rows must be a whole number from 2; it is 1"):
        ModuleAmount.of(
            MODULES.model_copy(update={"profiles": {"smoke": {**params, "others_rows": 1}}}), "smoke"
        )
