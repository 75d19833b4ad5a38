"""How long units take, and how many shards they make."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bi_harness.buildkite.times import SET_UP_MINUTES, SLACK, expected, measure, render_times, sharding
from bi_harness.certificate.statement import Scope
from bi_harness.errors import SpecError
from bi_harness.matrix.cells import Cell, Unit
from bi_harness.report.read import read_certificate
from bi_harness.spec.load import load_data
from bi_harness.spec.times import FILE, TimesFile, load_times
from bi_harness.spec.types import Mode
from tests.buildkite.plans import ROOT
from tests.kept import kept_folders, kept_runs
from tests.report import samples

CELL = Cell("cpu", "tiny", "CPU_ATTN", 1, 1, "eager", "core")
UNIT = Unit("u", (CELL,), 0)
TIMES = TimesFile.model_validate(
    {
        "assumed_check_s": 100.0,
        "measured": [
            {"cell": CELL.id, "profile": "smoke", "checks": {"a": 7.0}, "runs": ["r"]},
            {"cell": CELL.id, "profile": "smoke", "layers": 2, "checks": {"a": 3.0}, "runs": ["r"]},
        ],
    }
)


def test_a_time_counts_where_it_was_measured_alone() -> None:
    checks = {CELL.id: ("a", "b")}
    found = expected(UNIT, checks, TIMES, profile="smoke", layers=None)
    assert (found.seconds, found.measured, found.assumed) == (107.0, 1, 1)
    assert expected(UNIT, checks, TIMES, profile="smoke", layers=2).seconds == 103.0
    for profile, layers in (("nightly", None), ("smoke", 3)):
        other = expected(UNIT, checks, TIMES, profile=profile, layers=layers)
        assert (other.seconds, other.measured, other.assumed) == (200.0, 0, 2)


@pytest.mark.parametrize(
    ("mode", "measured_in", "seconds"),
    [
        ("default", {"compile": {"a": 50.0}}, 50.0),
        ("default", {"compile": {"a": 50.0}, "default": {"a": 20.0}}, 20.0),
        ("default", {"default": {"b": 20.0}, "compile": {"a": 50.0}}, 50.0),
        ("default", {"eager": {"a": 5.0}}, 100.0),
        ("compile", {"default": {"a": 20.0}}, 100.0),
        ("eager", {"compile": {"a": 50.0}, "default": {"a": 20.0}}, 100.0),
    ],
)
def test_time_of_compile_counts_for_a_default_cell_that_was_not_measured(
    mode: Mode, measured_in: dict[Mode, dict[str, float]], seconds: float
) -> None:
    cell = replace(CELL, mode=mode)
    measured = [
        {"cell": replace(CELL, mode=other).id, "profile": "smoke", "checks": checks, "runs": ["r"]}
        for other, checks in measured_in.items()
    ]
    times = TimesFile.model_validate({"assumed_check_s": 100.0, "measured": measured})
    found = expected(Unit("u", (cell,), 0), {cell.id: ("a",)}, times, profile="smoke", layers=None)
    assert found.seconds == seconds


UNITS = st.dictionaries(st.text(min_size=1), st.floats(0.1, 10_000), min_size=1, max_size=40)


def in_turn(units: Mapping[str, float], count: int) -> list[list[str]]:
    return [list(units)[i::count] for i in range(count)]


@given(UNITS, st.floats(1, 20_000), st.integers(1, 50))
def test_no_shard_is_ended_that_goes_as_expected(units: dict[str, float], shard_s: float, most: int) -> None:
    found = sharding(units, shard_s=shard_s, most=most)
    assert 1 <= found.shards <= min(most, len(units))
    for part in in_turn(units, found.shards):
        took = sum(units[unit] for unit in part)
        assert took <= found.expected_s * 1.000001
        assert SET_UP_MINUTES * 60 + SLACK * took <= found.timeout_minutes * 60 * 1.000001


@given(UNITS, st.floats(1, 20_000), st.integers(1, 50))
def test_the_parts_that_run_makes_are_kept_under_the_limit(
    units: dict[str, float], shard_s: float, most: int
) -> None:
    found = sharding(units, shard_s=shard_s, most=most, parts=lambda count: in_turn(units, count))
    longest = max(sum(units[unit] for unit in part) for part in in_turn(units, found.shards))
    assert found.expected_s == pytest.approx(longest)
    assert longest <= shard_s or found.shards == min(most, len(units))
    if found.shards > 1:
        fewer = max(sum(units[unit] for unit in part) for part in in_turn(units, found.shards - 1))
        assert fewer > shard_s or math.ceil(sum(units.values()) / shard_s) >= found.shards


def test_times_are_of_checks_that_ran() -> None:
    unit = "cpu/tiny/CPU_ATTN/tp1-dp1/eager/core"
    checks = (
        samples.check(unit, "a", duration_s=2.04),
        samples.check(unit, "b", "fail", duration_s=5.0),
        samples.check(unit, "c", "error", duration_s=900.0),
        samples.check(unit, "d", "skip"),
        samples.check(unit, "e", "inconclusive", duration_s=None),
        samples.check(unit, "f", "pass", duration_s=0.01),
    )
    scope = Scope(profile="smoke", filters={}, weights="named", layers=None, seed=0)
    one = samples.statement("NOT_CERTIFIED", checks, scope=scope)
    longer = samples.statement(
        "CERTIFIED", (samples.check(unit, "a", duration_s=3.0),), scope=scope, run_id="later"
    )
    cut = samples.statement(
        "CERTIFIED", (samples.check(unit, "a", duration_s=1.0),), scope=scope.model_copy(update={"layers": 2})
    )
    found = measure([one, longer, cut], 60.0)
    assert [(m.layers, m.checks) for m in found.measured] == [
        (None, {"a": 3.0, "b": 5.0, "f": 0.1}),
        (2, {"a": 1.0}),
    ]
    assert found.measured[0].runs == tuple(sorted(("later", one.predicate.bi_harness.run_id)))
    assert found.assumed_check_s == 60.0
    assert measure([longer, cut, one], 60.0) == found


def test_the_file_reads_as_it_was_written(tmp_path: Path) -> None:
    (tmp_path / FILE).write_text(render_times(TIMES))
    assert load_data(tmp_path / FILE, TimesFile) == TIMES
    assert load_times(tmp_path / "hardware.yaml") == TIMES
    assert load_times(tmp_path / "elsewhere" / "hardware.yaml") == TimesFile()


def test_a_mistake_has_its_line(tmp_path: Path) -> None:
    (tmp_path / FILE).write_text("schema: bi-harness/times/1\nassumed_check_s: -1.0\n")
    with pytest.raises(SpecError, match=r"times\.yaml:2"):
        load_times(tmp_path / "hardware.yaml")


@pytest.mark.skipif(not kept_runs(), reason="no kept runs in a source archive")
def test_the_shipped_times_are_those_of_the_kept_runs() -> None:
    shipped = load_times(ROOT / "hardware.yaml")
    statements = [read_certificate(folder) for folder in kept_folders()]
    expected_text = render_times(measure(statements, shipped.assumed_check_s))
    assert (ROOT / FILE).read_text() == expected_text, "out of date: run `make times`"


def test_what_is_assumed_is_above_what_was_measured() -> None:
    shipped = load_times(ROOT / "hardware.yaml")
    means = [sum(m.checks.values()) / len(m.checks) for m in shipped.measured]
    assert means
    assert max(means) < shipped.assumed_check_s
