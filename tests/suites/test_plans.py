"""What the checks of ``suites/batch_invariance`` send, without an engine: every plan can mean something."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

from bi_harness.engine.protocol import StepSummary
from bi_harness.spec.load import default_paths, load_spec
from bi_harness.workload.checkplan import ArmPlan, CheckPlan
from bi_harness.workload.plan import Workload, plan_workload

PATHS = default_paths(environ={})
SPEC = load_spec(PATHS.models, PATHS.hardware, PATHS.suites)
SUITE = SPEC.suites["batch_invariance"]
PLANNED = [c for c in SUITE.checks if c.id != "bs1_vs_bsN"]


def module(check: str) -> ModuleType:
    path = PATHS.suites / "batch_invariance" / SUITE.check(check).test.split("::")[0]
    spec = importlib.util.spec_from_file_location(f"plan_of_{check}", Path(path))
    assert spec is not None
    assert spec.loader is not None
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


def workload(model: str = "qwen3-tiny", profile: str = "smoke", seed: int = 0) -> Workload:
    return plan_workload(SPEC.models[model], SUITE, profile=profile, seed=seed)


def plan(check: str, work: Workload) -> CheckPlan:
    if check == "bs1_vs_bsN":
        return work.bs1_vs_bsN()
    found: CheckPlan = module(check).plan(work)
    return found


def at_once(arm: ArmPlan) -> int:
    """The most requests that the arm can have up at once: those of its largest burst."""
    return max(len(burst) for burst in arm.bursts)


@pytest.mark.parametrize("profile", ["smoke", "nightly", "release"])
@pytest.mark.parametrize("model", ["qwen3-tiny", "qwen3-1.7b"])
@pytest.mark.parametrize("check", [c.id for c in SUITE.checks])
def test_a_plan_is_whole_and_fits_its_engine(check: str, model: str, profile: str) -> None:
    work = workload(model, profile)
    found = plan(check, work)
    assert found.subjects
    assert found.arms
    for arm in found.arms:
        members = [member.request for burst in arm.bursts for member in burst]
        assert sorted(members) == list(range(len(arm.requests)))
        assert tuple(arm.requests[i] for i in arm.subjects) == found.subjects
        # Nothing is shown by a size that cannot be reached, or by more than the engine admits.
        assert 1 < arm.batch_size <= at_once(arm) <= work.max_batch
        aborted = {m.request for burst in arm.bursts for m in burst if m.abort is not None}
        assert not aborted & set(arm.subjects)
        for request in arm.requests:
            assert 1 <= len(request.prompt) <= work.longest_prompt
            assert len(request.prompt) + request.max_tokens <= work.max_tokens
            assert max(request.prompt) < work.vocab_size
    for name, times in found.needs:
        assert times >= 1
        assert name in StepSummary.__dataclass_fields__


@pytest.mark.parametrize("check", [c.id for c in SUITE.checks])
def test_a_seed_gives_one_plan_and_another_seed_another(check: str) -> None:
    assert plan(check, workload(seed=3)) == plan(check, workload(seed=3))
    assert plan(check, workload(seed=3)).arms != plan(check, workload(seed=4)).arms


def test_staggered_prefills_on_both_sides_of_the_tile_beside_a_decode() -> None:
    for arm in plan("staggered", workload()).arms:
        late = {m.request: m for m in arm.bursts[0] if m.request not in arm.subjects}
        lengths = {len(arm.requests[i].prompt) for i in late}
        assert {1, 9, 10, 255, 256} <= lengths
        last = max(m.arrival for m in arm.bursts[0] if m.request in arm.subjects) + 24
        assert all(0 < m.arrival < last for m in late.values())
        assert any(m.abort is not None for m in late.values())


def test_repeat_has_every_request_three_times() -> None:
    found = plan("repeat", workload())
    assert (len(found.subjects), len(set(found.subjects)), len(found.arms)) == (48, 16, 5)


def test_needles_move_and_their_neighbours_change() -> None:
    arms = plan("needle", workload()).arms
    places = {tuple(m.request for m in arm.bursts[0]) for arm in arms}
    assert len(places) == len(arms)
    fillers = [{r.prompt for i, r in enumerate(arm.requests) if i not in arm.subjects} for arm in arms]
    assert not fillers[0] & fillers[1]


def test_shared_prefixes_are_shared_and_their_ends_are_not() -> None:
    subjects = plan("shared_prefix", workload()).subjects
    assert len({r.prompt[:192] for r in subjects}) == 1
    assert len({r.prompt for r in subjects}) == len(subjects)
    assert max(len(r.prompt) for r in subjects) < 256


def test_sampling_draws_in_every_way_from_streams_of_their_own() -> None:
    subjects = plan("sampling", workload()).subjects
    assert all(r.temperature > 0 for r in subjects)
    assert len({r.seed for r in subjects}) == len(subjects)
    assert any(r.top_p < 1 for r in subjects)
    assert any(r.top_k > 0 for r in subjects)
    assert any(r.presence_penalty for r in subjects)
    assert any(r.repetition_penalty != 1 for r in subjects)
