"""Workloads from the YAML: what the shipped suites ask for, and errors that name file and key."""

from __future__ import annotations

from typing import Any

import pytest

from bi_harness.errors import SpecError
from bi_harness.spec.load import Spec, default_paths, load_spec
from bi_harness.spec.suites import SuiteSpec
from bi_harness.workload.plan import Workload, plan_workload


@pytest.fixture(scope="module")
def spec() -> Spec:
    paths = default_paths(environ={})
    return load_spec(paths.models, paths.hardware, paths.suites)


def planned(spec: Spec, profile: str = "smoke", **changes: Any) -> Workload:
    suite = spec.suites["batch_invariance"]
    params = {**suite.profiles["smoke"], **changes}
    params = {key: value for key, value in params.items() if value is not None}
    altered: SuiteSpec = suite.model_copy(update={"profiles": {"smoke": params}})
    return plan_workload(spec.models["qwen3-tiny"], altered, profile=profile, seed=1)


@pytest.mark.parametrize("profile", ["smoke", "nightly", "release"])
def test_every_shipped_suite_that_compares_batches_has_a_workload_on_every_model(
    spec: Spec, profile: str
) -> None:
    suite = spec.suites["batch_invariance"]
    for model in spec.models.values():
        workload = plan_workload(model, suite, profile=profile, seed=3)
        assert len(workload.requests) == suite.profiles[profile]["prompts"]  # type: ignore[index]
        assert workload.max_tokens <= model.max_model_len
        assert 1 < workload.batch_sizes[0] <= workload.batch_sizes[-1] <= len(workload.requests)
        assert workload.max_batch >= workload.batch_sizes[-1]


def test_sizes_rise_and_appear_once(spec: Spec) -> None:
    assert planned(spec, batch_sizes=[7, 2, 7, 3]).batch_sizes == (2, 3, 7)


def test_the_largest_figures_are_over_all_requests(spec: Spec) -> None:
    workload = planned(spec)
    assert workload.max_tokens == 900 + 24 + 1
    assert workload.max_batch == 64
    assert planned(spec, prompts=80, batch_sizes=[80]).max_batch == 80


def test_prompts_and_steps_fit_the_models_length(spec: Spec) -> None:
    assert planned(spec, longest_prompt=100_000).max_tokens <= 2048


@pytest.mark.parametrize("key", ["prompts", "steps", "top_k", "longest_prompt"])
@pytest.mark.parametrize("value", [None, 0, -3, 2.5, "8", [8]])
def test_a_bad_number_is_named_with_file_and_key(spec: Spec, key: str, value: object) -> None:
    with pytest.raises(SpecError) as caught:
        planned(spec, **{key: value})
    said = str(caught.value)
    assert said.startswith("suites/batch_invariance/suite.yaml: profiles.smoke")
    assert key in said
    assert repr(value) in said


@pytest.mark.parametrize("sizes", [None, [], [1, 2], [0], [2, 34], 5, "2,3"])
def test_bad_batch_sizes_are_named_with_file_and_key(spec: Spec, sizes: object) -> None:
    with pytest.raises(SpecError) as caught:
        planned(spec, batch_sizes=sizes)
    assert "suites/batch_invariance/suite.yaml: profiles.smoke: batch_sizes" in str(caught.value)
    assert "2 to prompts (33)" in str(caught.value)


def test_an_unknown_profile_is_refused_with_those_that_are(spec: Spec) -> None:
    with pytest.raises(SpecError, match=r"profiles\.weekly: the suite has no such profile; it has smoke"):
        planned(spec, profile="weekly")


def test_more_steps_than_the_model_has_room_for_are_refused_with_the_model(spec: Spec) -> None:
    with pytest.raises(SpecError, match=r"suite\.yaml: profiles\.smoke on qwen3-tiny: no workload"):
        planned(spec, steps=2048)
