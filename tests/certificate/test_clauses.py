"""What a requirement means: one cell of one certificate has all of it, and no cell of it failed."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bi_harness.certificate.events import RunFinished, RunStarted
from bi_harness.certificate.gate import GateResult, RequirementSeen
from bi_harness.certificate.records import CheckResult, Status
from bi_harness.certificate.statement import Power
from bi_harness.certificate.verify import Examined
from bi_harness.runner.merge import ShardJournal, merged
from tests.certificate.journals import CELL, end, evidence, finished, planned, result, sound
from tests.certificate.policies import NEEDS, certificate, held, policy, run
from tests.certificate.shards import split, unit, whole
from tests.certificate.test_check_times import resumed_run
from tests.certificate.test_gate import SCOPE, reasons

CELLS = {
    "backend": (CELL, CELL.replace("CPU_ATTN", "FLASH_ATTN")),
    "parallel": (CELL, CELL.replace("tp1-dp1", "tp2-dp1")),
}
BOTH = {**NEEDS, "checks": ["alone", "spread"]}


def run_of(cells: Mapping[str, Mapping[str, CheckResult]], **start: Any) -> Examined:
    """A certificate of these results: by cell and check."""
    plan = tuple(planned(*checks, cell=cell) for cell, checks in cells.items())
    results = [one for checks in cells.values() for one in checks.values()]
    return certificate(sound(*results, plan=plan), plan=plan, **start)


def passing(cell: str, *checks: str, steps: int = 16) -> dict[str, CheckResult]:
    """Results with the bits that those of other cells have."""
    return {check: result("pass", check, cell, evidence=evidence(steps=steps)) for check in checks}


def seen(asked: Any, *certificates: Examined) -> RequirementSeen:
    (found,) = held(asked, *certificates).requirements
    return found


@pytest.mark.parametrize("axis", CELLS)
@pytest.mark.parametrize("part", [False, True], ids=["whole", "-k"])
def test_checks_of_two_cells_do_not_meet_a_requirement_together(axis: str, part: bool) -> None:
    one, other = CELLS[axis]
    start = {"scope": SCOPE.model_copy(update={"filters": {"k": "x"}})} if part else {}
    spread = run_of({one: passing(one, "alone"), other: passing(other, "spread")}, **start)
    found = seen(policy(BOTH), spread)
    assert found.state == "unmet"
    assert "none of its 2 cells has all of it" in found.why[0]
    whole = run_of({one: passing(one, "alone"), other: passing(other, "alone", "spread")}, **start)
    assert seen(policy(BOTH), whole).state == "met"


def test_checks_of_two_certificates_do_not_meet_a_requirement_together() -> None:
    halves = [run_of({CELL: passing(CELL, check)}, place=check) for check in ("alone", "spread")]
    assert seen(policy(BOTH), *halves).state == "unmet"


@pytest.mark.parametrize("axis", CELLS)
def test_steps_of_two_cells_are_not_summed(axis: str) -> None:
    one, other = CELLS[axis]
    found = seen(policy(min_steps=32), run_of({cell: passing(cell, "alone") for cell in (one, other)}))
    assert found.state == "unmet"
    assert "16 steps were compared, and 32 are asked for" in found.why[0]
    cells = {one: passing(one, "alone"), other: passing(other, "alone", "spread")}
    assert seen(policy(min_steps=32), run_of(cells)).state == "met", "of one cell they are"


def test_one_cell_must_have_both_the_checks_and_the_steps() -> None:
    one, other = CELLS["backend"]
    cells = {one: passing(one, "alone", steps=96), other: passing(other, "alone", "spread")}
    assert seen(policy(BOTH, min_steps=40), run_of(cells)).state == "unmet"


@pytest.mark.parametrize("axis", CELLS)
@pytest.mark.parametrize(
    ("status", "state"), [("fail", "failed"), ("error", "inconclusive"), ("inconclusive", "inconclusive")]
)
def test_no_cell_of_an_axis_that_is_left_out_may_fail(axis: str, status: Status, state: str) -> None:
    one, other = CELLS[axis]
    cells = {one: passing(one, "alone"), other: {"alone": result(status, "alone", other)}}
    assert seen(policy(), run_of(cells)).state == state
    asked = {"backends": "CPU_ATTN", "parallel": "tp1-dp1"}
    named = seen(policy({**NEEDS, **asked}), run_of(cells))
    assert named.state != "met", "its certificate is not CERTIFIED"


def test_named_check_that_a_rule_left_out_is_not_met_where_skips_are_allowed() -> None:
    """``checks`` names what must have passed; ``allow_skips`` excuses the rest of the suite."""
    plan = (planned("alone"), planned("spread", rule="heads", reason="Too few.", source="PR 1"))
    one = certificate(sound(result(), plan=plan), plan=plan)
    assert seen(policy(allow_skips=True), one).state == "met"
    found = seen(policy(BOTH, allow_skips=True), one)
    assert (found.state, "spread was skipped" in found.why[0]) == ("unmet", True)


def test_scores_are_compared_exactly() -> None:
    power = Power(
        suite="core",
        faults=2**53 - 1,
        caught=2**53 - 2,
        clean_runs=1,
        false_alarms=0,
        device="cpu",
        vllm="0.32.0",
        measured="2026-01-01T00:00:00Z",
        current=True,
    )
    assert seen(policy(min_selftest_score=0.9), certificate(power=(power,))).state == "met"
    assert seen(policy(min_selftest_score=1.0), certificate(power=(power,))).state == "unmet"


# Ages: the resumed run has ``alone`` of 2026-01-14 and ``spread`` of 2026-01-20.


def aged(needs: dict[str, Any], days: int, later: int, *certificates: Examined) -> GateResult:
    return held(policy(needs, max_age_days=float(days)), *certificates, later=timedelta(days=later))


def test_old_pass_of_a_resumed_run_is_not_made_young_by_what_ran_again() -> None:
    one = certificate(resumed_run())
    alone, spread = ({**NEEDS, "checks": check} for check in ("alone", "spread"))
    assert aged(spread, 3, 6, one).passed, reasons(aged(spread, 3, 6, one))
    for needs in (alone, NEEDS):
        found = aged(needs, 3, 6, one)
        assert [r.state for r in found.requirements] == ["unmet"]
        assert f"alone on {CELL} may be 7.0 days old, and at most 3 are allowed" in reasons(found)
    assert aged(NEEDS, 8, 6, one).passed


def test_old_shard_of_a_merged_run_is_not_made_young_by_the_newest_one() -> None:
    """A merged certificate begins with its first shard and ends with its last."""
    old, new = split(run(whole(2)), [[unit(1)], [unit(0), unit(2)]])
    first, last = new[0], new[-1]
    assert isinstance(first, RunStarted)
    assert isinstance(last, RunFinished)
    new = [
        first.model_copy(update={"time": "2026-01-29T00:00:00Z"}),
        *new[1:-1],
        last.model_copy(update={"time": "2026-01-30T00:00:00Z"}),
    ]
    shards = [ShardJournal(str(i), events, str(i) * 64) for i, events in enumerate((old, new), start=1)]
    whole_run = certificate(merged(shards))
    for model in ("m1", "m2"):
        needs = {**NEEDS, "models": model}
        assert aged(needs, 17, 16, whole_run).passed, reasons(aged(needs, 17, 16, whole_run))
        found = aged(needs, 14, 16, whole_run)
        assert [r.state for r in found.requirements] == ["unmet"]
        assert "may be 17.0 days old, and at most 14 are allowed" in reasons(found)


def test_failure_counts_from_the_newest_time() -> None:
    red = certificate([*resumed_run()[:-3], finished(result("fail", "spread")), *resumed_run()[-2:]])
    assert [r.state for r in aged(NEEDS, 3, 6, red).requirements] == ["failed"]
    assert [r.state for r in aged(NEEDS, 3, 20, red).requirements] == ["unmet"]


def test_failure_of_a_run_without_an_end_counts_at_any_age() -> None:
    cut = certificate(sound(result("fail"))[:-1])
    assert [r.state for r in aged(NEEDS, 3, 300, cut).requirements] == ["failed"]


@pytest.mark.parametrize(
    "time", ["", "never", "2026-01-14", "0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00"]
)
def test_time_that_cannot_be_told_meets_no_age_and_excuses_no_failure(time: str) -> None:
    first, *rest = sound()
    events = [first.model_copy(update={"time": time}), *rest]
    found = held(policy(max_age_days=10_000.0), certificate(events, time=time))
    assert [r.state for r in found.requirements] == ["unmet"]
    assert "it does not say when it ran" in reasons(found)
    red = sound(result("fail"))
    last = end().model_copy(update={"time": time})
    found = held(policy(max_age_days=1.0), certificate([*red[:-1], last]), later=timedelta(days=500))
    assert [r.state for r in found.requirements] == ["failed"]


@pytest.mark.parametrize("later", [timedelta(days=-700_000), timedelta(days=2_900_000)], ids=["0109", "9966"])
def test_now_at_the_ends_of_the_calendar(later: timedelta) -> None:
    assert not held(policy(max_age_days=1.0), certificate(), later=later).passed


def test_attempt_in_the_future_is_no_evidence() -> None:
    events = resumed_run()
    events[7] = events[7].model_copy(update={"time": "2099-01-20T08:00:00Z"})
    assert "in the future" in reasons(held(policy(), certificate(events), later=timedelta(days=9)))


STATUSES = st.sampled_from(["pass", "fail", "error", "inconclusive"])
GRIDS = st.dictionaries(
    st.sampled_from([CELL, CELLS["backend"][1], CELLS["parallel"][1]]),
    st.dictionaries(st.sampled_from(["alone", "spread", "repeat"]), STATUSES, min_size=1),
    min_size=1,
)


@given(
    st.lists(GRIDS, min_size=1, max_size=3),
    st.none() | st.lists(st.sampled_from(["alone", "spread", "repeat"]), min_size=1, unique=True),
    st.none() | st.sampled_from(["CPU_ATTN", "FLASH_ATTN"]),
    st.integers(0, 3),
)
@settings(max_examples=150, deadline=None)
def test_requirement_is_met_by_one_cell_that_has_everything(
    grids: list[dict[str, dict[str, Status]]], checks: list[str] | None, backend: str | None, units: int
) -> None:
    """Written again here in other words, over what the runs were made of."""
    needs = {**NEEDS, **({"checks": checks} if checks else {}), **({"backends": backend} if backend else {})}
    asked = policy(needs, **({"min_steps": 16 * units} if units else {}))
    runs = [
        run_of(
            {
                cell: {check: result(status, check, cell) for check, status in statuses.items()}
                for cell, statuses in grid.items()
            },
            place=f"run {number}",
        )
        for number, grid in enumerate(grids)
    ]

    def has_all(statuses: dict[str, Status]) -> bool:
        wanted = {check: s for check, s in statuses.items() if checks is None or check in checks}
        complete = checks is None or set(checks) <= set(wanted)
        return complete and "pass" in wanted.values() and list(wanted.values()).count("pass") >= units

    of_cell = [
        (number, statuses)
        for number, grid in enumerate(grids)
        for cell, statuses in grid.items()
        if backend is None or f"/{backend}/" in cell
    ]
    failed = any(
        status == "fail" and (checks is None or check in checks)
        for _, statuses in of_cell
        for check, status in statuses.items()
    )
    whole = {
        number
        for number, grid in enumerate(grids)
        if all(status == "pass" for statuses in grid.values() for status in statuses.values())
    }
    met = not failed and any(number in whole and has_all(statuses) for number, statuses in of_cell)
    found = seen(asked, *runs)
    assert (found.state == "failed") is failed
    assert (found.state == "met") is met
