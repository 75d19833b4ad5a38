"""What the checks of ``suites/batch_invariance`` send, without an engine: every plan can mean something."""

from __future__ import annotations

from dataclasses import replace
from types import ModuleType

import pytest

from bi_harness.compare.power import upper_bound_95
from bi_harness.engine.protocol import StepSummary
from bi_harness.spec.load import default_paths, load_spec
from bi_harness.workload.checkplan import ArmPlan, CheckPlan
from bi_harness.workload.plan import Workload, plan_workload
from bi_harness.workload.requests import Request
from tests.suites.loading import load

PATHS = default_paths(environ={})
SPEC = load_spec(PATHS.models, PATHS.hardware, PATHS.suites)
SUITE = SPEC.suites["batch_invariance"]


def module(check: str) -> ModuleType:
    return load(PATHS.suites / "batch_invariance" / SUITE.check(check).test.split("::")[0])


def workload(model: str = "qwen3-tiny", profile: str = "smoke", seed: int = 0) -> Workload:
    return plan_workload(SPEC.models[model], SUITE, profile=profile, seed=seed)


def plan(check: str, work: Workload) -> CheckPlan:
    if check == "bs1_vs_bsN":
        return work.bs1_vs_bsN()
    found: CheckPlan = module(check).plan(work)
    return found


def at_once(arm: ArmPlan) -> int:
    """The most sequences that the arm can have up at once: those of its largest burst."""
    return max(sum(arm.requests[member.request].n for member in burst) for burst in arm.bursts)


def same_but_for_company(row: Request, subject: Request) -> bool:
    """Whether a row of an arm may be compared with the subject: how it is cached changes no bit."""
    return replace(row, cache=None) == subject


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
        rows = [
            replace(r, n=1, seed=r.seed + i if r.n > 1 else r.seed) for r in arm.requests for i in range(r.n)
        ]
        assert len(arm.subjects) == len(found.subjects)
        assert all(map(same_but_for_company, (rows[i] for i in arm.subjects), found.subjects))
        # Nothing is shown by a size that cannot be reached, or by more than the engine admits.
        assert 1 <= arm.batch_size <= at_once(arm) <= work.max_batch
        # What is up at once fits the KV cache that engines are started with, in blocks of 256 tokens.
        whole = work.resident * -(-work.max_tokens // 256)
        for burst in arm.bursts:
            up = (arm.requests[member.request] for member in burst)
            assert sum(r.n * -(-(len(r.prompt) + r.max_tokens) // 256) for r in up) <= whole
        aborted = {m.request for burst in arm.bursts for m in burst if m.abort is not None}
        assert not aborted & set(arm.subjects)
        for request in arm.requests:
            assert 1 <= len(request.prompt) <= work.longest_prompt
            made = request.max_tokens + (1 if arm.scored else 0)
            assert len(request.prompt) + made <= work.max_tokens
            assert max(request.prompt) < work.vocab_size
    assert any(arm.batch_size > 1 for arm in found.arms)
    for name, times in found.needs:
        assert times >= 1
        assert name in StepSummary.__dataclass_fields__


@pytest.mark.parametrize("check", [c.id for c in SUITE.checks])
def test_a_seed_gives_one_plan_and_another_seed_another(check: str) -> None:
    assert plan(check, workload(seed=3)) == plan(check, workload(seed=3))
    assert plan(check, workload(seed=3)).arms != plan(check, workload(seed=4)).arms


def test_staggered_prefills_on_both_sides_of_the_tile_beside_a_decode() -> None:
    *schedules, _ = plan("staggered", workload()).arms
    for arm in schedules:
        late = {m.request: m for m in arm.bursts[0] if m.request not in arm.subjects}
        lengths = {len(arm.requests[i].prompt) for i in late}
        assert {1, 9, 10, 255, 256} <= lengths
        last = max(m.arrival for m in arm.bursts[0] if m.request in arm.subjects) + 20
        assert all(0 < m.arrival < last for m in late.values())
        assert any(m.abort is not None for m in late.values())


def test_staggered_meets_each_boundary_of_a_steps_tokens() -> None:
    arm = plan("staggered", workload()).arms[-1]
    late = {m.request: m.arrival for m in arm.bursts[0] if m.request not in arm.subjects}
    # They come one at a time, while all the subjects decode one token each.
    assert len(set(late.values())) == len(late)
    assert max(late.values()) < 20
    tokens = {len(arm.subjects) + len(arm.requests[i].prompt) for i in late}
    assert {64, 65, 256, 257} <= tokens


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
    short = [r for r in subjects if len(r.prompt) < 256]
    long = [r for r in subjects if len(r.prompt) >= 256]
    assert len(short) >= 8
    assert len({r.prompt[:192] for r in short}) == 1
    assert len(long) >= 8
    assert len({r.prompt[:256] for r in long}) == 1
    assert len({r.prompt for r in subjects}) == len(subjects)


def test_every_batch_size_shrinks_by_one_request_at_every_step() -> None:
    work = workload()
    for arm in plan("every_batch_size", work).arms:
        ends = sorted(r.max_tokens for r in arm.requests)
        up = [sum(end > step for end in ends) for step in range(ends[-1])]
        assert up[0] == work.max_batch
        assert set(range(len(arm.subjects), work.max_batch + 1)) <= set(up)


def test_prompts_are_longer_than_the_budget_that_is_to_split_them() -> None:
    for arm in plan("ragged_chunked_prefill", workload()).arms:
        assert arm.limits is not None
        assert arm.limits.step_tokens is not None
        assert sum(len(r.prompt) > arm.limits.step_tokens for r in arm.requests) >= 2
        for member in arm.bursts[0]:
            if member.abort is not None:
                # Aborted before its prefill is done.
                assert len(arm.requests[member.request].prompt) > member.abort * arm.limits.step_tokens
        # A seeded request whose prefill is split crashes vLLM's CPU engine.
        assert all(r.seed is None and r.temperature == 0 for r in arm.requests)


def test_a_decode_is_scored_alone_and_together() -> None:
    arms = plan("decode_vs_prefill", workload()).arms
    assert [arm.batch_size for arm in arms] == [1, 8]
    assert all(arm.scored for arm in arms)


def test_the_prefix_cache_is_filled_before_it_is_read() -> None:
    arm = plan("prefix_cache", workload()).arms[0]
    filled, read = arm.bursts[:-1], arm.bursts[-1]
    assert all(len(burst) == 1 for burst in filled)
    prefixes = {arm.requests[burst[0].request].prompt[:128] for burst in filled}
    assert {arm.requests[m.request].prompt[:128] for m in read} <= prefixes
    assert len({r.cache for r in arm.requests}) == 1
    # Lengths on both sides of a block's end.
    assert {256 % 128, 257 % 128} <= {len(r.prompt) % 128 for r in plan("prefix_cache", workload()).subjects}


def test_what_is_preempted_needs_another_block_while_it_decodes() -> None:
    found = plan("preemption", workload())
    for size in (16, 128):
        blocks = lambda tokens, size=size: -(-tokens // size)  # noqa: E731
        assert all(blocks(len(r.prompt) + r.max_tokens) > blocks(len(r.prompt) + 1) for r in found.subjects)
    assert all(arm.limits is not None and arm.limits.kv_growth is not None for arm in found.arms)


def test_adapters_are_mixed_and_some_requests_have_none() -> None:
    found = plan("lora", workload())
    assert {r.adapter for r in found.subjects} == set(range(SUITE.check("lora").adapters + 1))
    alike = [r for r in found.subjects if r.prompt == found.subjects[-1].prompt]
    assert len(alike) >= 16


def test_the_first_burst_is_the_first_thing_an_engine_sees() -> None:
    assert SUITE.checks[0].id == "first_requests"
    found = plan("first_requests", workload())
    assert found.arms_first
    assert ("first_bursts", 1) in found.needs


@pytest.mark.parametrize("check", [c.id for c in SUITE.checks])
def test_the_release_profile_bounds_the_rate_below_one_in_ten_thousand_steps(check: str) -> None:
    found = plan(check, workload(profile="release"))
    steps = sum(r.max_tokens for r in found.subjects) * len(found.arms)
    assert upper_bound_95(0, steps) < 1e-4


def test_sampling_draws_in_every_way_from_streams_of_their_own() -> None:
    subjects = plan("sampling", workload()).subjects
    assert all(r.temperature > 0 for r in subjects)
    assert len({r.seed for r in subjects}) == len(subjects)
    assert any(r.top_p < 1 for r in subjects)
    assert any(r.top_k > 0 for r in subjects)
    assert any(r.presence_penalty for r in subjects)
    assert any(r.repetition_penalty != 1 for r in subjects)
