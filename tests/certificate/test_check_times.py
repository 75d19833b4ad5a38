"""When checks can have run: never later than the certificate shows, and never earlier for failures."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from bi_harness.certificate.build import build
from bi_harness.certificate.check_times import check_times
from bi_harness.certificate.events import Event, RunResumed
from bi_harness.certificate.statement import HarnessResult, Loss, Reopened
from bi_harness.certificate.times import utc
from tests.certificate.journals import (
    CELL,
    JOURNAL,
    end,
    ended,
    finished,
    planned,
    ready,
    result,
    sound,
    started,
)

STARTED = datetime(2026, 1, 14, 9, 15, tzinfo=UTC)
FINISHED = datetime(2026, 1, 14, 9, 16, tzinfo=UTC)
RESUMED = "2026-01-20T08:00:00Z"
RESUMED_END = "2026-01-20T09:00:00Z"


def resumed_run() -> list[Event]:
    """``alone`` passed; ``spread`` erred, and passed when the run was resumed six days later."""
    first = [
        started(planned("alone", "spread")),
        ready("treatment"),
        ready("control"),
        finished(result(check="alone")),
        finished(result("error", "spread")),
        ended(),
        end(),
    ]
    resumed = RunResumed(time=RESUMED, kept=1, left=1, units=1)
    last = end().model_copy(update={"time": RESUMED_END})
    return [*first, resumed, finished(result(check="spread")), ended(), last]


def certified(events: list[Event]) -> HarnessResult:
    return build(events, JOURNAL).predicate.bi_harness


def test_check_of_an_undisturbed_run_is_as_old_as_its_start() -> None:
    times = check_times(certified(sound()))
    assert times.earliest((CELL, "alone")) == STARTED
    assert times.latest == FINISHED
    assert times.complete


def test_check_that_ran_again_is_as_old_as_the_attempt_that_ran_it() -> None:
    times = check_times(certified(resumed_run()))
    assert times.earliest((CELL, "alone")) == STARTED
    assert times.earliest((CELL, "spread")) == utc(RESUMED)
    assert times.latest == utc(RESUMED_END)


def test_attempt_after_a_lost_node_counts_like_a_resumption() -> None:
    loss = Loss(
        time="2026-01-14T09:15:30Z",
        unit="u",
        host="h",
        reason="gone",
        reopened=(Reopened(cell=CELL, check="alone", status="none"),),
    )
    times = check_times(certified(sound()).model_copy(update={"lost": (loss,)}))
    assert times.earliest((CELL, "alone")) == utc(loss.time)


def test_attempt_later_than_the_end_does_not_make_a_check_younger() -> None:
    told = certified(resumed_run())
    wrong = told.resumed[0].model_copy(update={"time": "2099-01-01T00:00:00Z"})
    times = check_times(told.model_copy(update={"resumed": (wrong,)}))
    assert times.earliest((CELL, "spread")) == utc(RESUMED_END)
    assert times.newest == utc("2099-01-01T00:00:00Z")


def test_latest_time_of_a_run_that_was_cut_off_is_unknown() -> None:
    times = check_times(certified(sound()[:-1]))
    assert times.latest is None
    assert times.newest == STARTED
    assert times.earliest((CELL, "alone")) == STARTED


NO_TIMES = [
    "",
    "yesterday",
    "2026-01-14",
    "2026-01-14T09:15:00",
    "0001-01-01T00:00:00+14:00",
    "9999-12-31T23:59:59-14:00",
    "2026-13-40T00:00:00Z",
    "9" * 5_000,
]


@pytest.mark.parametrize("text", NO_TIMES, ids=lambda text: text[:30])
def test_time_that_cannot_be_told_leaves_all_of_them_unknown(text: str) -> None:
    assert utc(text) is None
    told = certified(resumed_run())
    resumed = told.resumed[0].model_copy(update={"time": text})
    for changes in ({"started": text}, {"finished": text}, {"resumed": (resumed,)}):
        times = check_times(told.model_copy(update=changes))
        assert not times.complete
        assert times.earliest((CELL, "alone")) is None
        assert times.latest is None


def test_times_at_the_ends_of_the_calendar_are_times() -> None:
    assert utc("0001-01-01T00:00:00Z") == datetime(1, 1, 1, tzinfo=UTC)
    assert utc("9999-12-31T23:59:59-00:00") == datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)
