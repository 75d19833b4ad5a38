"""What the checks of ``suites/eagle_dp`` send, without an engine: every plan can mean something."""

from __future__ import annotations

from types import ModuleType

import pytest

from bi_harness.spec.load import default_paths, load_spec
from bi_harness.workload.checkplan import CheckPlan
from bi_harness.workload.plan import Workload, plan_workload
from tests.suites.loading import load

PATHS = default_paths(environ={})
SPEC = load_spec(PATHS.models, PATHS.hardware, PATHS.suites)
SUITE = SPEC.suites["eagle_dp"]
PROFILES = ["smoke", "nightly", "release"]


def module(name: str) -> ModuleType:
    return load(PATHS.suites / "eagle_dp" / f"{name}.py")


def workload(profile: str = "smoke", model: str = "llama-eagle-tiny") -> Workload:
    return plan_workload(SPEC.models[model], SUITE, profile=profile, seed=0)


def plans(work: Workload, dp: int) -> dict[str, CheckPlan]:
    eagle = module("test_eagle")
    return {
        "parallel": module("test_parallel").plan(work, dp),
        "eagle": eagle.plan(work, dp, needs=(("accepted_tokens", 1),)),
        "eagle_batches": eagle.batches(work, dp),
        "ngram": module("test_ngram").plan(work, dp),
    }


@pytest.mark.parametrize("dp", [1, 2, 4])
@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("model", ["llama-eagle-tiny", "llama-3.1-8b-instruct"])
def test_a_plan_is_whole_and_fits_its_engine(model: str, profile: str, dp: int) -> None:
    work = workload(profile, model)
    for found in plans(work, dp).values():
        for arm in found.arms:
            members = [member.request for burst in arm.bursts for member in burst]
            assert sorted(members) == list(range(len(arm.requests)))
            assert [arm.requests[row] for row in arm.subjects] == list(found.subjects)
            assert 1 <= arm.batch_size <= max(map(len, arm.bursts)) <= work.max_batch
            for request in arm.requests:
                assert len(request.prompt) + request.max_tokens <= work.max_tokens
        assert any(arm.batch_size > 1 for arm in found.arms)


@pytest.mark.parametrize("profile", PROFILES)
def test_what_runs_alone_on_plain_engines_runs_there_once(profile: str) -> None:
    found = plans(workload(profile), 1)
    assert found["parallel"].subjects == found["eagle"].subjects == found["ngram"].subjects
    assert all(r.temperature == 0 for r in found["eagle"].subjects), "see the module"


def test_seeded_requests_are_compared_with_themselves() -> None:
    subjects = plans(workload(), 1)["eagle_batches"].subjects
    assert len({request.seed for request in subjects}) == len(subjects)
    assert all(request.temperature > 0 for request in subjects)


@pytest.mark.parametrize("dp", [1, 2])
def test_several_ranks_must_all_be_reached(dp: int) -> None:
    for name, found in plans(workload(), dp).items():
        assert ("spread_bursts" in dict(found.needs)) == (dp > 1), name


def test_drafted_requests_run_alone_too_and_in_another_order_in_each_batch() -> None:
    arms = plans(workload("nightly"), 1)["eagle"].arms
    assert arms[0].batch_size == 1
    orders = [[member.request for burst in arm.bursts for member in burst] for arm in arms]
    assert len({tuple(order) for order in orders}) == len(orders)


def test_a_batch_beside_long_prefills_is_larger_than_any_threshold_of_an_all_reduce() -> None:
    """8 MiB is the largest message that vLLM's own kernel takes on two H100s or H200s."""
    model = SPEC.models["llama-3.1-8b-instruct"]
    beside = plans(workload(model=model.id), 1)["parallel"].arms[-1]
    tokens = sum(len(request.prompt) for request in beside.requests)
    assert tokens * int(model.config["hidden_size"]) * 2 > 8 * 2**20


@pytest.mark.parametrize("check", [check.id for check in SUITE.checks])
def test_a_checks_function_is_there(check: str) -> None:
    file, _, function = SUITE.check(check).test.partition("::")
    assert callable(getattr(module(file.removesuffix(".py")), function))


def test_one_three_and_five_tokens_are_drafted() -> None:
    eagle = [c.speculation for c in SUITE.checks if c.speculation and c.speculation.method == "eagle"]
    assert {spec.tokens for spec in eagle} == {1, 3, 5}
    assert {spec.draft for spec in eagle} == {"main", "agreeing", "wrong"}
