"""What the checks of ``suites/online`` send, without a server: every plan can mean something."""

from __future__ import annotations

from types import ModuleType

import pytest

from bi_harness.engine.api import Speech
from bi_harness.spec.load import default_paths, load_spec
from bi_harness.workload.checkplan import CheckPlan
from bi_harness.workload.plan import Workload, plan_workload
from tests.suites.loading import load

PATHS = default_paths(environ={})
SPEC = load_spec(PATHS.models, PATHS.hardware, PATHS.suites)
SUITE = SPEC.suites["online"]
PROFILES = ["smoke", "nightly", "release"]


def module(name: str) -> ModuleType:
    return load(PATHS.suites / "online" / f"{name}.py")


def workload(profile: str = "smoke", model: str = "qwen3-tiny") -> Workload:
    return plan_workload(SPEC.models[model], SUITE, profile=profile, seed=0)


def plans(work: Workload, dp: int) -> dict[str, CheckPlan]:
    completions = module("test_completions")
    return {
        "completions": completions.completions(work, dp),
        "streaming": completions.streaming(work, dp),
        "chat": module("test_chat").plan(work, dp),
        "offline_online": module("test_offline_online").plan(work, dp),
    }


@pytest.mark.parametrize("dp", [1, 2, 4])
@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("model", [name for name, m in SPEC.models.items() if "online" in m.suites])
def test_every_arm_sends_every_subject_once_at_once(model: str, profile: str, dp: int) -> None:
    work = workload(profile, model)
    for name, plan in plans(work, dp).items():
        assert plan.subjects == work.requests, name
        for arm in plan.arms:
            sent = [member.request for burst in arm.bursts for member in burst]
            assert sorted(sent) == list(range(len(work.requests)))
            # The API has no schedule, no limits, and one sequence a request.
            assert all(m.arrival == 0 and m.abort is None for burst in arm.bursts for m in burst)
            assert (arm.limits, arm.scored) == (None, False)
            assert all((r.n, r.score, r.adapter, r.cache) == (1, 0, 0, None) for r in arm.requests)
        assert dict(plan.needs).get("spread_bursts", 0) == (dp > 1)
        assert max(arm.batch_size for arm in plan.arms) > 1


def test_half_of_those_sent_at_once_must_have_run_together() -> None:
    for name, plan in plans(workload(), 1).items():
        for arm in plan.arms:
            largest = max(len(burst) for burst in arm.bursts)
            half = largest if name == "offline_online" else max(1, largest // 2)
            assert arm.batch_size == half


def test_nothing_may_come_from_the_prefix_cache() -> None:
    found = {name: plan.never for name, plan in plans(workload(), 1).items()}
    assert all("cached_tokens" in found[name] for name in ("completions", "streaming", "chat"))


def test_a_chat_is_streamed_in_one_arm_and_not_in_the_other() -> None:
    speech = Speech("chat", "alternate")
    plan = module("test_chat").plan(workload(), 1)
    streamed: dict[int, set[bool]] = {}
    for arm in plan.arms:
        for burst in arm.bursts:
            for place, member in enumerate(burst):
                streamed.setdefault(member.request, set()).add(speech.streams(place))
    assert all(ways == {True, False} for ways in streamed.values())


def test_all_checks_but_the_offline_one_share_the_servers() -> None:
    assert SUITE.interface == "server"
    own = {check.id for check in SUITE.checks if check.own_engine}
    assert own == {"offline_online", "expert_parallel"}
    assert SUITE.check("offline_online").interface == "library"
