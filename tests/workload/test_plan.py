"""Workloads from the YAML: what the shipped suites ask for, and errors that name file and key."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bi_harness.errors import SpecError
from bi_harness.spec.load import Spec, default_paths, load_spec
from bi_harness.spec.suites import SuiteSpec
from bi_harness.workload.plan import Workload, plan_workload
from bi_harness.workload.requests import Request

SMALL = Workload((Request((1,), 4, 0.0, None, 5),), (2,), seed=1, vocab_size=99, longest_prompt=9)


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
    assert workload.max_tokens == 900 + 20 + 1
    assert workload.max_batch == 128
    assert planned(spec, max_num_seqs=20).max_batch == 33
    assert planned(spec, prompts=80, batch_sizes=[80], max_num_seqs=64).max_batch == 80


def test_without_max_num_seqs_engines_admit_64(spec: Spec) -> None:
    suite = spec.suites["online"]
    assert "max_num_seqs" not in suite.profiles["smoke"]
    found = plan_workload(spec.models["qwen3-tiny"], suite, profile="smoke", seed=1)
    assert found.max_batch == 64


@pytest.mark.parametrize("value", [0, 1, 4097, "8", 2.5, [8], True])
def test_a_bad_max_num_seqs_is_named_with_file_and_key(spec: Spec, value: object) -> None:
    with pytest.raises(SpecError, match=r"suite\.yaml: profiles\.smoke: max_num_seqs must be a whole number"):
        planned(spec, max_num_seqs=value)


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


@pytest.mark.parametrize("sizes", [None, [], [1, 2], [0], [2, 4097], 5, "2,3", [2, "3"], [2.5], [True]])
def test_bad_batch_sizes_are_named_with_file_and_key(spec: Spec, sizes: object) -> None:
    with pytest.raises(SpecError) as caught:
        planned(spec, batch_sizes=sizes)
    assert "suites/batch_invariance/suite.yaml: profiles.smoke: batch_sizes" in str(caught.value)
    assert f"from 2 to 4096; they are {sizes!r}" in str(caught.value)


def test_a_batch_beyond_the_prompts_is_filled_up_with_neighbours(spec: Spec) -> None:
    workload = planned(spec, batch_sizes=[33, 80], max_num_seqs=64)
    whole, filled = workload.bs1_vs_bsN().arms
    assert (len(whole.requests), whole.batch_size) == (33, 33)
    assert (len(filled.requests), filled.batch_size, workload.max_batch) == (80, 80, 80)
    assert filled.requests[:33] == workload.requests
    assert filled.subjects == tuple(range(33))
    assert sorted(member.request for member in filled.bursts[0]) == list(range(80))
    lengths = {len(request.prompt) for request in filled.requests[33:]}
    assert 1 <= min(lengths) < 200 < max(lengths) <= workload.longest_prompt
    assert len({request.prompt for request in filled.requests}) == 80
    assert filled == planned(spec, batch_sizes=[80]).bs1_vs_bsN().arms[0]


def test_an_unknown_profile_is_refused_with_those_that_are(spec: Spec) -> None:
    with pytest.raises(SpecError, match=r"profiles\.weekly: the suite has no such profile; it has smoke"):
        planned(spec, profile="weekly")


def test_more_steps_than_the_model_has_room_for_are_refused_with_the_model(spec: Spec) -> None:
    with pytest.raises(SpecError, match=r"suite\.yaml: profiles\.smoke on qwen3-tiny: no workload"):
        planned(spec, steps=2048)


@pytest.mark.parametrize("value", [-1, -30_000, 2.5, "8", [8]])
def test_a_bad_number_of_steps_at_least_is_named_with_file_and_key(spec: Spec, value: object) -> None:
    with pytest.raises(SpecError) as caught:
        planned(spec, min_steps=value)
    assert str(caught.value) == (
        "suites/batch_invariance/suite.yaml: profiles.smoke: min_steps must be a whole number from 0; "
        f"it is {value!r}"
    )


@pytest.mark.parametrize(("value", "taken"), [(None, 0), (0, 0), (1, 1), (30_000, 30_000)])
def test_steps_at_least_are_the_profiles_and_none_without(spec: Spec, value: object, taken: int) -> None:
    assert planned(spec, min_steps=value).min_steps == taken


@given(st.integers(1, 50), st.integers(1, 5000), st.integers(0, 100_000))
def test_rounds_are_the_usual_or_just_enough(usual: int, steps: int, at_least: int) -> None:
    workload = dataclasses.replace(SMALL, min_steps=at_least)
    rounds = workload.rounds(usual, steps)
    assert rounds >= usual
    assert rounds * steps >= at_least
    assert rounds == usual or (rounds - 1) * steps < at_least


def test_without_a_least_number_of_steps_rounds_are_the_usual(spec: Spec) -> None:
    assert [planned(spec, min_steps=None).rounds(n, 1) for n in (1, 2, 7)] == [1, 2, 7]


def test_a_request_is_greedy_and_of_the_workloads_kind(spec: Spec) -> None:
    workload = planned(spec)
    assert workload.request((1, 2, 3), 7) == Request(
        (1, 2, 3), 7, 0.0, None, workload.requests[0].top_k_logprobs
    )


def test_a_request_is_greedy_also_where_the_first_of_the_workload_is_not() -> None:
    sampled = Request((9,), 4, 0.6, 77, 5)
    made = dataclasses.replace(SMALL, requests=(sampled,)).request((1,), 2)
    assert (made.temperature, made.seed, made.top_k_logprobs) == (0.0, None, 5)


def test_greedy_keeps_the_prompts_and_their_order(spec: Spec) -> None:
    workload = planned(spec)
    sampled = [r for r in workload.requests if r.seed is not None]
    assert sampled
    made = workload.greedy([*sampled, workload.requests[0]], 3)
    assert [r.prompt for r in made] == [r.prompt for r in (*sampled, workload.requests[0])]
    assert {(r.temperature, r.seed, r.max_tokens) for r in made} == {(0.0, None, 3)}
    assert workload.greedy([], 3) == ()


def test_a_neighbour_runs_as_long_as_the_subjects(spec: Spec) -> None:
    workload = planned(spec)
    made = workload.neighbour("x", 12)
    assert made == workload.request(workload.prompt("x", 12), 20)
    assert len(made.prompt) == 12
    assert made.prompt != workload.neighbour("y", 12).prompt
