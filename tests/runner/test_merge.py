"""Shards' journals → one: the whole run's, byte for byte; and what is no set of shards is named."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st

from bi_harness.certificate.attempts import left
from bi_harness.certificate.build import build, remaining
from bi_harness.certificate.essence import essence
from bi_harness.certificate.events import (
    CheckFinished,
    Event,
    PlannedChecks,
    RunFinished,
    RunResumed,
    RunStarted,
    UnitFinished,
    UnitStarted,
)
from bi_harness.certificate.files import CERTIFICATE
from bi_harness.certificate.records import CheckResult, Status
from bi_harness.certificate.statement import Statement
from bi_harness.errors import UsageError
from bi_harness.report.write import WRITERS
from bi_harness.runner.journal import JOURNAL, as_bytes, read, read_text
from bi_harness.runner.merge import ShardJournal, merged, merged_id
from tests.certificate.journals import (
    DIGEST,
    TIME,
    end,
    ended,
    evidence,
    finished,
    ready,
    result,
    started,
    waiver,
)
from tests.certificate.shards import CHECKS, body, plan_of, ready_of, shard_of, split, unit, units_of, whole
from tests.kept import kept_run, kept_runs

HOST = {"hostname": "a", "machine": "x86_64", "cpu_model": "X", "gpus": []}
ASKED = {"options": {"seed": 0, "shard": None, "control": True, "engine_python": "/a"}, "vllm": "0.32.0"}
STATUSES: tuple[Status, ...] = ("pass", "pass", "pass", "fail", "error", "inconclusive")


def journal_of(events: Sequence[Event], place: str = "a") -> ShardJournal:
    """By way of its bytes, as it is read."""
    read, digest = read_text(as_bytes(events), place)
    return ShardJournal(place, read, digest)


def shards_of(events: Sequence[Event], units: Sequence[Sequence[str]]) -> list[ShardJournal]:
    return [journal_of(part, f"s{number}") for number, part in enumerate(split(events, units), start=1)]


def statement_of(events: Sequence[Event]) -> Statement:
    data = as_bytes(events)
    return build(*read_text(data, "events.jsonl", progress=False))


def problems(shards: Sequence[ShardJournal]) -> str:
    with pytest.raises(UsageError) as told:
        merged(shards)
    text = str(told.value)
    assert text.startswith("cannot merge: these are not the shards of one run\n")
    return text


@st.composite
def runs(draw: Any) -> tuple[list[Event], list[list[str]]]:
    """A whole run of some units, whatever came of their checks; and its units in parts."""
    count = draw(st.integers(1, 5))
    results = {
        f"{n}/{check}": result(draw(st.sampled_from(STATUSES)), check=check, cell=f"{unit(n)}/core")
        for n in range(1, count + 1)
        for check in CHECKS
    }
    shards = draw(st.integers(2, 7))
    where = {name: draw(st.integers(0, shards - 1)) for name in units_of(count)}
    units = [[name for name in units_of(count) if where[name] == index] for index in range(shards)]
    return whole(count, results), units


@given(runs(), st.randoms())
def test_a_run_in_parts_merges_to_its_own_bytes(
    run: tuple[list[Event], list[list[str]]], rng: random.Random
) -> None:
    events, units = run
    shards = shards_of(events, units)
    rng.shuffle(shards)
    again = merged(shards)
    assert as_bytes(again) == as_bytes(events)
    assert statement_of(again).to_json() == statement_of(events).to_json()


def test_so_do_all_reports() -> None:
    events = whole(4, {"2/alone": result("fail", check="alone", cell=f"{unit(2)}/core")})
    again = merged(shards_of(events, [[unit(3), unit(0)], [unit(1), unit(4)], [unit(2)]]))
    before, after = statement_of(events), statement_of(again)
    for name, writer in WRITERS.items():
        assert writer(before) == writer(after), name


@given(runs(), st.data())
@settings(max_examples=50)
def test_less_than_all_of_them_is_never_merged(run: tuple[list[Event], list[list[str]]], data: Any) -> None:
    events, units = run
    shards = shards_of(events, units)
    some = data.draw(st.lists(st.sampled_from(shards), min_size=1, max_size=len(shards) + 1))
    if sorted(one.place for one in some) != sorted(one.place for one in shards):
        said = problems(some)
        assert "missing: shard" in said or "times:" in said


def test_a_whole_run_is_its_own() -> None:
    events = whole(2)
    assert merged([journal_of(events)]) == events
    assert merged_id([journal_of(events)]) == events[0].run_id  # type: ignore[union-attr]


def test_units_that_ran_side_by_side_are_put_in_order() -> None:
    events = whole(3)
    first, second = split(events, [[unit(1), unit(0), unit(3)], [unit(2)]])
    # One event of each unit in turn, the later unit first.
    one, three = (body(n) for n in (1, 3))
    mixed = [first[0], *(e for pair in zip(three, one, strict=True) for e in pair), first[-1]]
    assert as_bytes(merged([journal_of(mixed, "s1"), journal_of(second, "s2")])) == as_bytes(events)


UNITS = [[unit(1), unit(0)], [unit(2)], [unit(3)]]


def test_missing_ones_are_named() -> None:
    shards = shards_of(whole(3), UNITS)
    assert "missing: shard 2 of 3" in problems([shards[0], shards[2]])
    assert "missing: shard 1, 3 of 3" in problems([shards[1]])


def test_one_that_is_there_twice_is_named() -> None:
    one, two, three = shards_of(whole(3), UNITS)
    again = ShardJournal("again", two.events, two.digest)
    said = problems([one, two, again, three])
    assert "shard 2 of 3 is there 2 times: s2, again" in said
    assert "does not undo the first" in said


def test_a_failure_is_not_undone_by_a_second_run_of_its_shard() -> None:
    bad = {"2/alone": result("fail", check="alone", cell=f"{unit(2)}/core")}
    failed, passed = shards_of(whole(3, bad), UNITS), shards_of(whole(3), UNITS)
    assert "is there 2 times" in problems([*failed, passed[1]])


def test_none_at_all() -> None:
    assert "no shard was given" in problems([])


def test_overlapping_ones_are_named() -> None:
    shards = shards_of(whole(3), [[unit(1), unit(0)], [unit(2), unit(1)], [unit(3)]])
    assert f"overlapping: {unit(1)} is of shard 1 of 3 (s1) and of shard 2 of 3 (s2)" in problems(shards)


def test_units_of_no_shard_are_named() -> None:
    shards = shards_of(whole(3), [[unit(1)], [unit(2)], []])
    said = problems(shards)
    assert f"missing: no shard has {unit(3)}" in said
    assert f"missing: no shard has {unit(0)}" in said


def test_a_whole_run_among_shards_is_named() -> None:
    assert "other: is a whole run and no shard" in problems(
        [*shards_of(whole(3), UNITS), journal_of(whole(3), "other")]
    )
    assert "b: is a whole run" in problems([journal_of(whole(3), "a"), journal_of(whole(3), "b")])


def test_shards_of_another_number_are_named() -> None:
    other = shards_of(whole(3), [[unit(1), unit(0), unit(2)], [unit(3)]])
    assert "another number of shards" in problems([*shards_of(whole(3), UNITS)[:2], other[1]])


def foreign(**changes: Any) -> list[ShardJournal]:
    """Shards of which the second is of a run that differs so."""
    base: dict[str, Any] = {"device": {"id": "cpu", "kind": "cpu", "host": HOST}, "asked": ASKED}
    one, _, three = shards_of(whole(3, **base), UNITS)
    return [one, shards_of(whole(3, **{**base, **changes}), UNITS)[1], three]


PROVENANCE = started().provenance


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"device": {"id": "h200", "kind": "cpu", "host": HOST}}, "device: cpu there, h200 here"),
        (
            {"device": {"id": "cpu", "kind": "cpu", "host": {**HOST, "cpu_model": "Y"}}},
            "host's cpu_model: X there, Y here",
        ),
        ({"asked": {**ASKED, "vllm": "0.33.0"}}, "vLLM: 0.32.0 there, 0.33.0 here"),
        (
            {"asked": {**ASKED, "options": {**ASKED["options"], "control": False}}},  # type: ignore[dict-item]
            "option control: True there, False here",
        ),
        (
            {"provenance": {**PROVENANCE, "digests": {**PROVENANCE["digests"], "models.yaml": "sha256:0"}}},
            "digest of models.yaml",
        ),
        ({"provenance": {**PROVENANCE, "harness": {"version": "0.2"}}}, "bi-harness: 0.1 there, 0.2 here"),
        (
            {"provenance": {**PROVENANCE, "harness": {"version": "0.1", "dirty": True}}},
            "bi-harness: {'version': '0.1'} there, {'version': '0.1', 'dirty': True} here",
        ),
        (
            {"provenance": {**PROVENANCE, "environment": {"VLLM_X": "1"}}},
            "variable VLLM_X: none there, 1 here",
        ),
        (
            {"provenance": {**PROVENANCE, "environment": {"BI_HARNESS_PLANT_FAULT": "ulp"}}},
            "variable BI_HARNESS_PLANT_FAULT: none there, ulp here",
        ),
        ({"scope": started().scope.model_copy(update={"seed": 1})}, "seed: 0 there, 1 here"),
        ({"waivers": (waiver(),)}, "waivers: another one here"),
    ],
)
def test_what_is_of_another_run_is_named(changes: dict[str, Any], message: str) -> None:
    said = problems(foreign(**changes))
    assert f"shard 2 of 3 (s2): is of another run than shard 1 of 3 (s1): {message}" in said


def test_another_plan_is_named() -> None:
    one, _, three = shards_of(whole(3), UNITS)
    other = shards_of(whole(4), [*UNITS[:2], [unit(3), unit(4)]])[1]
    assert "s2): is of another run than shard 1 of 3 (s1): plan:" in problems([one, other, three])


def test_what_may_differ() -> None:
    """The clock, the host's name, and what a shard is told in its own way."""
    base: dict[str, Any] = {"device": {"id": "cpu", "kind": "cpu", "host": HOST}, "asked": ASKED}
    plain = whole(3, **base)
    parts = []
    for number, part in enumerate(split(plain, UNITS), start=1):
        start = part[0]
        assert isinstance(start, RunStarted)
        options = {**ASKED["options"], "shard": [number, 3], "engine_python": f"/{number}"}  # type: ignore[dict-item]
        flag = ["--shard", f"{number}/3"] if number < 3 else [f"--shard={number}/3"]
        provenance = {
            **start.provenance,
            "command": ["bi-harness", "run", *flag],
            "environment": {"BI_HARNESS_SHARD": f"{number}/3", "BI_HARNESS_OUT": "/x"},
        }
        host = {**HOST, "hostname": f"host-{number % 2}", "memory_gib": number}
        changes = {
            "time": f"2026-01-14T09:1{5 - number}:00.000Z",
            "run_id": f"run-{number}",
            "device": {"id": "cpu", "kind": "cpu", "host": host},
            "asked": {**ASKED, "options": options},
            "provenance": provenance,
        }
        finish = RunFinished(time=f"2026-01-14T09:2{number}:00.000Z", interrupted=False)
        parts.append(journal_of([start.model_copy(update=changes), *part[1:-1], finish], f"s{number}"))
    again = merged(parts)
    start, last = again[0], again[-1]
    assert isinstance(start, RunStarted)
    assert isinstance(last, RunFinished)
    assert start.time == "2026-01-14T09:12:00.000Z", "of the first that began"
    assert last.time == "2026-01-14T09:23:00.000Z", "of the last that ended"
    assert start.device["hosts"] == ["host-1", "host-0"]
    assert start.device["host"]["hostname"] == "host-1"
    assert start.asked == {**ASKED, "options": {**ASKED["options"], "engine_python": "/1"}}  # type: ignore[dict-item]
    assert start.provenance["command"] == ["bi-harness", "run"]
    assert start.provenance["environment"] == {"BI_HARNESS_OUT": "/x"}
    assert start.run_id.startswith("20260114T091200Z-")
    assert start.run_id == merged_id(parts[::-1])
    assert start.shard is None
    found, wanted = essence(statement_of(again)), essence(statement_of(plain))
    assert found["predicate"]["bi_harness"].pop("device") != wanted["predicate"]["bi_harness"].pop("device")
    assert found == wanted


def test_a_damaged_one_is_named() -> None:
    one, two, three = shards_of(whole(3), UNITS)
    torn = ShardJournal("s2", [*two.events, two.events[-2]], two.digest)
    assert "s2: the journal goes on after run_finished" in problems([one, torn, three])
    stray = ShardJournal("s2", [*two.events[:-1], UnitStarted(time=TIME, unit=unit(3)), two.events[-1]], "0")
    assert f"s2): is damaged: it has a unit_started of {unit(3)}" in problems([one, stray, three])
    unknown = ShardJournal("s2", [*two.events[:-1], ready(unit="elsewhere"), two.events[-1]], "0")
    assert "it has a engine_ready of no unit of its plan" in problems([one, unknown, three])
    start = two.start
    assert start.shard is not None
    lying = start.model_copy(update={"shard": start.shard.model_copy(update={"plan": DIGEST})})
    assert "its plan is not the one that it was begun with" in problems(
        [one, ShardJournal("s2", [lying, *two.events[1:]], "0"), three]
    )


def test_engines_that_disagree_leave_it_inconclusive() -> None:
    """A plan has no word of what engines say: the certificate says it, as that of a whole run does."""
    events = [
        ready_of(2, "treatment").model_copy(update={"provenance": {"torch": {"version": "9"}}})
        if e.type == "engine_ready" and e.arm.unit == unit(2) and e.arm.arm == "treatment"
        else e
        for e in whole(3)
    ]
    found = statement_of(merged(shards_of(events, UNITS))).predicate.bi_harness
    assert (found.verdict, "do not agree on torch" in found.why) == ("INCONCLUSIVE", True)


@pytest.mark.parametrize("cut", [0, 1, 2])
def test_a_shard_that_was_cut_off_leaves_it_inconclusive(cut: int) -> None:
    parts = split(whole(3), UNITS)
    parts[1] = [*parts[1][:-1], end(True)] if cut == 0 else parts[1][: -cut - 1]
    shards = [journal_of(part, f"s{n}") for n, part in enumerate(parts, start=1)]
    assert [one.complete for one in shards] == [True, False, True]
    found = statement_of(merged(shards)).predicate.bi_harness
    assert (found.verdict, found.interrupted) == ("INCONCLUSIVE", True)
    assert (found.finished is None) == (cut > 0)


def test_a_failure_beside_a_shard_that_was_cut_off_is_one() -> None:
    parts = split(whole(3, {"1/alone": result("fail", check="alone", cell=f"{unit(1)}/core")}), UNITS)
    parts[1] = parts[1][:1]
    found = statement_of(merged([journal_of(p, f"s{n}") for n, p in enumerate(parts)])).predicate.bi_harness
    assert found.verdict == "NOT_CERTIFIED"


def resumed_part(part: list[Event], number: int, times: int) -> list[Event]:
    """A shard whose unit broke that often before its checks passed."""
    start, *rest = part
    assert isinstance(start, RunStarted)
    own = [e for e in rest if not isinstance(e, RunFinished)]
    name = unit(number)
    others = [e for e in own if e not in body(number)]
    told: list[Event] = [start, *others]
    error = result("error", check="alone", cell=f"{name}/core")
    for time in range(times):
        told += [
            UnitStarted(time=TIME, unit=name),
            finished(error),
            ended("interrupted" if time else "crashed", unit=name, message="it broke"),
            end(bool(time)),
        ]
        rest_of = remaining(told)
        told.append(
            RunResumed(
                time=TIME, kept=rest_of.kept, left=len(rest_of.reopened), units=rest_of.units, host=f"h{time}"
            )
        )
    return [*told, *body(number), end()]


@st.composite
def attempts_at(draw: Any, start: RunStarted) -> list[Event]:
    """A shard's journal: up to three attempts, in each of which anything may go wrong."""
    told: list[Event] = [start]
    for attempt in range(draw(st.integers(1, 3))):
        if attempt:
            rest = remaining(told)
            told.append(
                RunResumed(time=TIME, kept=rest.kept, left=len(rest.reopened), units=rest.units, host="h")
            )
        for cell, checks in remaining(told).checks.items():
            name = cell.rpartition("/")[0]
            told += [UnitStarted(time=TIME, unit=name), ready("treatment", unit=name)]
            for check in checks:
                # Mostly well, or hardly any would be certified.
                if draw(st.integers(0, 9)):
                    status = draw(st.sampled_from(STATUSES)) if draw(st.integers(0, 4)) == 0 else "pass"
                    told.append(finished(result(status, check=check, cell=cell)))
            if draw(st.integers(0, 9)):
                outcome = draw(st.sampled_from(["crashed", "interrupted", *["completed"] * 8]))
                told.append(ended(outcome, unit=name, message="" if outcome == "completed" else outcome))
        if draw(st.integers(0, 9)):
            told.append(end(draw(st.integers(0, 9)) == 0))
    return told


@given(st.data())
def test_each_check_is_in_the_whole_what_it_is_in_its_shard(data: Any) -> None:
    start = started(*plan_of(3))
    parts = [
        data.draw(attempts_at(start.model_copy(update={"shard": shard_of(start, index, 2, units)})))
        for index, units in ((1, [unit(1), unit(3)]), (2, [unit(0), unit(2)]))
    ]
    shards = [journal_of(part, f"s{number}") for number, part in enumerate(parts, start=1)]
    found = statement_of(merged(shards)).predicate.bi_harness
    alone = [statement_of(part).predicate.bi_harness for part in parts]
    checks = {(c.cell, c.check): c for one in alone for c in one.checks}
    assert {(c.cell, c.check): c for c in found.checks} == checks
    assert [c.cell for c in found.checks] == [p.cell for p in start.plan for _ in p.checks]
    passed = [one.shard is not None and one.shard.passed for one in alone]
    assert (found.verdict == "CERTIFIED") == all(passed)
    assert (found.verdict == "NOT_CERTIFIED") == any(one.verdict == "NOT_CERTIFIED" for one in alone)
    assert found.interrupted == any(one.interrupted for one in alone)
    assert len(found.resumed) == sum(len(one.resumed) for one in alone)
    assert sorted(map(str, found.effective)) == sorted(str(arm) for one in alone for arm in one.effective)
    event(found.verdict)


@pytest.mark.parametrize("times", [(1, 0), (0, 1), (2, 1), (1, 3)])
def test_resumed_shards_come_out_as_a_whole_run(times: tuple[int, int]) -> None:
    events = whole(4)
    parts = split(events, [[unit(1), unit(0), unit(3)], [unit(2)], [unit(4)]])
    parts[0] = resumed_part(parts[0], 3, times[0])
    parts[1] = resumed_part(parts[1], 2, times[1])
    again = merged([journal_of(part, f"s{n}") for n, part in enumerate(parts, start=1)])
    found = statement_of(again)
    assert found.predicate.bi_harness.verdict == "CERTIFIED"
    assert essence(found) == essence(statement_of(events))
    assert len(found.predicate.bi_harness.resumed) == sum(times)
    for one in found.predicate.bi_harness.resumed:
        assert {r.cell for r in one.reopened} <= {f"{unit(2)}/core", f"{unit(3)}/core"}


def resumed_empty(part: list[Event], times: int) -> list[Event]:
    """A shard without units that was interrupted and resumed."""
    start, *rest = part
    told = [start]
    for time in range(times):
        told += [end(True), RunResumed(time=TIME, kept=0, left=0, units=0, host=f"h{time}")]
    return [*told, *rest]


@pytest.mark.parametrize("times", [1, 3])
@pytest.mark.parametrize("other", [0, 1])
@pytest.mark.parametrize("place", [0, 2])
def test_a_resumed_shard_without_units_can_be_merged(times: int, other: int, place: int) -> None:
    events = whole(2)
    units: list[list[str]] = [[unit(1), unit(0)], [unit(2)]]
    units.insert(place, [])
    parts = split(events, units)
    parts[place] = resumed_empty(parts[place], times)
    rest = units.index([unit(2)])
    parts[rest] = resumed_part(parts[rest], 2, other)
    again = merged([journal_of(part, f"s{n}") for n, part in enumerate(parts, start=1)])
    assert merged([journal_of(part, f"s{n}") for n, part in enumerate(parts, start=1)]) == again
    found = statement_of(read_text(as_bytes(again), "merged")[0])
    assert found.predicate.bi_harness.verdict == "CERTIFIED"
    assert essence(found) == essence(statement_of(events))
    told = found.predicate.bi_harness.resumed
    assert sorted(len(one.reopened) for one in told) == [*[0] * times, *[2] * other]


def test_a_resumed_shard_without_units_undoes_no_failure() -> None:
    bad = result("fail", check="alone", cell=f"{unit(1)}/core")
    parts = split(whole(1, {"1/alone": bad}), [[unit(1), unit(0)], []])
    parts[1] = resumed_empty(parts[1], 1)
    found = statement_of(merged([journal_of(p, f"s{n}") for n, p in enumerate(parts)]))
    assert found.predicate.bi_harness.verdict == "NOT_CERTIFIED"


def test_many_units_are_looked_at_in_linear_time() -> None:
    import time

    def spent(count: int) -> float:
        cells = tuple(
            PlannedChecks(cell=f"{unit(n)}/core", unit=unit(n), checks=("alone",)) for n in range(count)
        )
        start = started(*cells)
        parts = [[unit(n) for n in range(count) if n % 2 == half] for half in (0, 1)]
        shards = [
            ShardJournal(f"s{i}", [start.model_copy(update={"shard": shard_of(start, i, 2, own)})], "0" * 64)
            for i, own in enumerate(parts, start=1)
        ]
        began = time.process_time()
        merged(shards)
        return time.process_time() - began

    assert spent(16_000) < 6 * max(spent(4_000), 0.05)


def test_errors_of_a_shard_that_was_not_resumed_stand() -> None:
    bad = result("error", check="alone", cell=f"{unit(1)}/core", reason="out of memory")
    parts = split(whole(3, {"1/alone": bad}), UNITS)
    parts[1] = resumed_part(parts[1], 2, 1)
    found = statement_of(merged([journal_of(p, f"s{n}") for n, p in enumerate(parts)])).predicate.bi_harness
    assert found.verdict == "INCONCLUSIVE"
    assert [(c.cell, c.reason) for c in found.checks if c.status == "error"] == [
        (f"{unit(1)}/core", "out of memory")
    ]


def test_what_a_resumed_shard_left_is_of_its_own_units() -> None:
    start = split(whole(3), UNITS)[1][0]
    assert isinstance(start, RunStarted)
    rest = left(start, {}, {})
    assert {one.cell for one in rest.reopened} == {f"{unit(2)}/core"}
    assert rest.units == 1


def test_a_merged_journal_cannot_be_resumed_for_units_it_has_not() -> None:
    parts = split(whole(3), UNITS)
    parts[1] = resumed_part(parts[1], 2, 1)
    again = merged([journal_of(p, f"s{n}") for n, p in enumerate(parts)])
    strange = [e.model_copy(update={"of": ("x",)}) if isinstance(e, RunResumed) else e for e in again]
    with pytest.raises(UsageError, match="resumed with a unit that is not planned: x"):
        build(strange, "0" * 64)


def test_waivers_come_out_as_in_a_whole_run() -> None:
    """One names checks of two shards, which fail in both; of a shard alone that is no waiver of nothing."""
    bad = {
        f"{n}/alone": result("fail", check="alone", cell=f"{unit(n)}/core", control=evidence(3))
        for n in (1, 2)
    }
    given = (waiver(cell="cpu/m[12]/*"), waiver(cell=f"{unit(3)}/*", check="no-such"))
    events = whole(3, bad, waivers=given)
    shards = shards_of(events, UNITS)
    found = statement_of(merged(shards))
    assert found.to_json() == statement_of(events).to_json()
    assert found.predicate.bi_harness.verdict == "CERTIFIED"
    assert found.predicate.result == "WARNED"
    for one in shards:
        alone = build(one.events, "0" * 64).predicate.bi_harness
        assert alone.shard is not None
        assert alone.shard.passed


def test_a_stale_waiver_fails_its_shard_and_the_whole() -> None:
    events = whole(3, waivers=(waiver(cell="cpu/m[12]/*"),))
    assert statement_of(merged(shards_of(events, UNITS))).predicate.bi_harness.verdict == "NOT_CERTIFIED"


def test_a_waiver_that_expires_between_shards_is_named() -> None:
    bad = {"2/alone": result("fail", check="alone", cell=f"{unit(2)}/core")}
    parts = split(whole(3, bad, waivers=(waiver(cell=f"{unit(2)}/core"),)), UNITS)
    later = parts[1][0].model_copy(update={"time": "2026-01-15T00:00:01.000Z"})
    parts[1] = [later, *parts[1][1:]]
    said = problems([journal_of(p, f"s{n}") for n, p in enumerate(parts, start=1)])
    assert f"the waiver of alone on {unit(2)}/core expired on 2026-01-14" in said


def test_digests_across_sizes_are_compared_across_shards() -> None:
    units = [f"cpu/m/CPU_ATTN/tp1-dp{n}/eager" for n in (1, 2)]
    plan = [PlannedChecks(cell=f"{name}/core", unit=name, checks=("alone",)) for name in units]

    def run(second: str) -> list[Event]:
        told: list[Event] = [started(*plan)]
        for name, digest in zip(units, (DIGEST, second), strict=True):
            told += [
                UnitStarted(time=TIME, unit=name),
                ready("treatment", unit=name),
                ready("control", unit=name),
                CheckFinished(
                    time=TIME,
                    result=CheckResult(
                        cell=f"{name}/core",
                        check="alone",
                        status="pass",
                        evidence=evidence(digest=digest),
                        control=evidence(3),
                    ),
                ),
                UnitFinished(time=TIME, unit=name, outcome="completed", duration_s=1.0),
            ]
        return [*told, end()]

    for digest, verdict in ((DIGEST, "CERTIFIED"), ("sha256:" + "0" * 64, "NOT_CERTIFIED")):
        shards = shards_of(run(digest), [[units[0]], [units[1]]])
        for one in shards:
            alone = build(one.events, "0" * 64).predicate.bi_harness
            assert alone.axes == ()
            assert alone.verdict == "INCONCLUSIVE"
        found = statement_of(merged(shards))
        assert found.predicate.bi_harness.verdict == verdict
        assert found.to_json() == statement_of(run(digest)).to_json()


def test_a_shard_knows_its_part() -> None:
    start = started(*plan_of(3))
    part = start.model_copy(update={"shard": shard_of(start, 1, 2, [unit(1)])})
    assert [p.cell for p in part.own] == [f"{unit(1)}/core", f"{unit(1)}/other"]
    assert start.own == start.plan


@pytest.mark.parametrize("run", kept_runs())
@pytest.mark.parametrize("count", [2, 3])
def test_kept_runs_of_real_engines_in_parts(run: str, count: int) -> None:
    """Whatever really ran: split by its units and merged, it gives the certificate that is kept of it."""
    folder = kept_run(run)
    events, digest = read(folder / JOURNAL)
    start = events[0]
    assert isinstance(start, RunStarted)
    if any(isinstance(e, RunResumed) for e in events):
        pytest.skip("it was resumed: its shards would have been, each by itself")
    units = list(dict.fromkeys(p.unit for p in start.plan))
    again = merged(shards_of(events, [units[index::count] for index in range(count)]))
    statement = build(again, digest)
    assert statement.to_json().encode() == (folder / CERTIFICATE).read_bytes()
    # The events of units that ran side by side are in another order than they came; no other is.
    assert sorted(as_bytes(again).splitlines()) == sorted(as_bytes(events).splitlines())
