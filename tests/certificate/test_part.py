"""A shard's own certificate: whatever its checks say, it is not the device's."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given

from bi_harness.certificate.build import build
from bi_harness.certificate.events import Event, RunStarted, ShardStarted
from bi_harness.certificate.files import CERTIFICATE
from bi_harness.certificate.statement import HarnessResult, Statement
from bi_harness.certificate.verdict import exit_code
from bi_harness.certificate.verify import Folder, examine
from bi_harness.cli.examined import recompute
from bi_harness.errors import UsageError
from bi_harness.exits import ExitCode
from bi_harness.report.junit import render_junit
from tests.certificate.journals import DIGEST, JOURNAL, UNIT, end, ended, result, sound, waiver
from tests.certificate.policies import CLEAN, certificate, held, policy
from tests.certificate.shards import CHECKS, shard_of, split, unit, whole
from tests.certificate.test_any_journal import journals

PARTS_OF_ONE = ([unit(1), unit(0)], [unit(2)], [unit(3)])
PARTS = ([unit(1), unit(0)], [unit(2), unit(3)], [])


def made(events: list[Event]) -> HarnessResult:
    return build(events, JOURNAL).predicate.bi_harness


def code(found: HarnessResult) -> ExitCode:
    return exit_code(found.verdict, interrupted=found.interrupted, shard=found.shard)


def crashed() -> list[Event]:
    """All checks passed, and the second unit broke in the end."""
    bad = ended("crashed", unit=unit(2), message="it broke")
    return [bad if e.type == "unit_finished" and e.unit == unit(2) else e for e in whole(3)]


def test_a_shard_in_which_all_passed_is_not_certified_and_did_its_job() -> None:
    first, second, empty = (made(events) for events in split(whole(3), PARTS))
    for found in (first, second, empty):
        assert found.verdict == "INCONCLUSIVE"
        assert found.shard is not None
        assert found.shard.passed
        assert code(found) is ExitCode.CERTIFIED
        assert found.shard.count == 3
    assert first.why == (
        "shard 1 of 3 alone certifies nothing: `bi-harness merge` makes the certificate, of all 3. "
        "In this one all 2 checks passed, and the control of each diverged with invariance off"
    )
    assert "there was nothing in it to run" in empty.why
    assert [(c.cell, c.status) for c in first.checks] == [
        (f"{unit(1)}/core", "pass"),
        (f"{unit(1)}/core", "pass"),
        (f"{unit(1)}/other", "skip"),
        (f"{unit(0)}/core", "skip"),
    ]
    assert empty.checks == ()
    assert {p.shard.plan for p in (first, second, empty) if p.shard} == {
        first.shard.plan if first.shard else ""
    }
    assert build(split(whole(3), PARTS)[0], JOURNAL).predicate.result == "FAILED"


@pytest.mark.parametrize(
    ("status", "verdict", "exits"),
    [
        ("fail", "NOT_CERTIFIED", ExitCode.NOT_CERTIFIED),
        ("error", "INCONCLUSIVE", ExitCode.INCONCLUSIVE),
        ("inconclusive", "INCONCLUSIVE", ExitCode.INCONCLUSIVE),
    ],
)
def test_what_did_not_pass(status: Any, verdict: str, exits: ExitCode) -> None:
    bad = result(status, check="alone", cell=f"{unit(2)}/core")
    found = [made(events) for events in split(whole(3, {"2/alone": bad}), PARTS)]
    assert [f.shard and f.shard.passed for f in found] == [True, False, True]
    assert (found[1].verdict, code(found[1])) == (verdict, exits)
    assert found[1].why.startswith("shard 2 of 3: ")


def test_a_shard_of_which_all_is_waived_did_its_job() -> None:
    bad = {f"2/{check}": result("fail", check=check, cell=f"{unit(2)}/core") for check in CHECKS}
    given = tuple(waiver(check, cell=f"{unit(2)}/core") for check in CHECKS)
    events = split(whole(3, bad, waivers=given), PARTS_OF_ONE)[1]
    found = made(events)
    assert found.shard is not None
    assert (found.verdict, found.shard.passed, code(found)) == ("INCONCLUSIVE", True, ExitCode.CERTIFIED)
    assert "2 checks waived: not passed" in found.why
    assert looked(build(events, JOURNAL)) == []
    broke = ended("crashed", unit=unit(2), message="it broke")
    for cut in (
        [broke if e.type == "unit_finished" else e for e in events],
        [*events[:-1], end(True)],
        [e for e in events if e.type != "unit_finished"],
        [e for e in events if e.type != "check_finished"],
    ):
        part = made(cut).shard
        assert part is not None
        assert not part.passed
        assert looked(build(cut, JOURNAL)) == []


def test_an_interrupted_shard_did_not_do_its_job() -> None:
    for events in split([*whole(3)[:-1], end(True)], PARTS):
        found = made(events)
        assert found.shard is not None
        assert not found.shard.passed
        assert code(found) is ExitCode.INTERRUPTED
        assert code(made(events[:-1])) is ExitCode.INTERRUPTED, "cut off"


def test_a_unit_that_ended_badly_is_no_pass_of_its_shard() -> None:
    _, found, _ = (made(part) for part in split(crashed(), PARTS))
    assert found.shard is not None
    assert not found.shard.passed
    assert "it broke" in found.why


def test_results_of_other_shards_are_refused() -> None:
    first, second, _ = split(whole(3), PARTS)
    with pytest.raises(UsageError, match="was not planned"):
        made([*first[:-1], *second[1:]])


def test_a_shard_that_cannot_be_is_refused() -> None:
    start, *rest = split(whole(3), PARTS)[0]
    assert isinstance(start, RunStarted)
    assert start.shard is not None
    for changes, message in (
        ({"units": (*start.shard.units, "nowhere")}, "not planned: nowhere"),
        ({"index": 4}, "shard 4 of 3: there is none"),
    ):
        wrong = start.model_copy(update={"shard": start.shard.model_copy(update=changes)})
        with pytest.raises(UsageError, match=message):
            made([wrong, *rest])


def test_without_its_shard_the_whole_plan_is_missed() -> None:
    """Whoever takes the mark of a shard off its journal gets the checks of the others as errors."""
    start, *rest = split(whole(3), PARTS)[0]
    found = made([start.model_copy(update={"shard": None}), *rest])
    assert found.verdict == "INCONCLUSIVE"
    assert found.totals.error == 4


def test_a_whole_run_says_nothing_of_shards() -> None:
    text = build(sound(), JOURNAL).to_json()
    assert '"shard"' not in text
    assert '"shard"' not in sound()[0].model_dump_json()


@given(journals())
def test_no_journal_of_a_shard_is_certified(events: list[Event]) -> None:
    start, *rest = events
    assert isinstance(start, RunStarted)
    for units in ([UNIT], []):
        shard = shard_of(start, 1, 2, units)
        try:
            statement = build([start.model_copy(update={"shard": shard}), *rest], JOURNAL)
        except UsageError:
            continue
        found = statement.predicate.bi_harness
        assert found.verdict != "CERTIFIED"
        assert statement.predicate.result == "FAILED"
        if found.shard is not None and found.shard.passed and units:
            try:
                whole_run = made(events)
            except UsageError:
                pytest.fail("what is no run passed as a shard")
            if whole_run.totals.passed:
                assert whole_run.verdict == "CERTIFIED", "it would be, if it were all"
            else:
                # A part in which all is waived did its job; that something passed is asked of the whole.
                assert whole_run.verdict == "INCONCLUSIVE"
                assert {check.status for check in whole_run.checks} <= {"waived", "skip"}


def looked(statement: Statement) -> list[str]:
    folder = Folder("a", {CERTIFICATE: statement.to_json().encode()}, whole=False)
    return [p.where for p in examine(folder, [], recompute()).problems]


def test_a_shards_certificate_is_consistent_by_itself() -> None:
    bad = {"2/alone": result("fail", check="alone", cell=f"{unit(2)}/core")}
    for results in ({}, bad):
        for events in split(whole(3, results), PARTS):
            for cut in (events, events[:-1]):
                assert looked(build(cut, JOURNAL)) == []
    assert looked(build(split(crashed(), PARTS)[1], JOURNAL)) == []


@pytest.mark.parametrize(
    "changes",
    [
        {"verdict": "CERTIFIED"},
        {"why": "all is well"},
        {"shard": None, "verdict": "CERTIFIED"},
    ],
)
def test_one_that_says_more_is_found_out(changes: dict[str, Any]) -> None:
    statement = build(split(whole(3), PARTS)[0], JOURNAL)
    said = statement.predicate.bi_harness.model_copy(update=changes)
    predicate = statement.predicate.model_copy(update={"bi_harness": said})
    assert looked(statement.model_copy(update={"predicate": predicate})) != []


def test_an_open_part_cannot_read_passed() -> None:
    bad = {"2/alone": result("inconclusive", check="alone", cell=f"{unit(2)}/core")}
    statement = build(split(whole(3, bad), PARTS)[1], JOURNAL)
    told = statement.predicate.bi_harness
    assert told.shard is not None
    said = told.model_copy(update={"shard": told.shard.model_copy(update={"passed": True})})
    predicate = statement.predicate.model_copy(update={"bi_harness": said})
    assert f"{CERTIFICATE}: shard" in looked(statement.model_copy(update={"predicate": predicate}))


def test_the_gate_wants_all_of_them() -> None:
    start, *rest = sound()
    assert isinstance(start, RunStarted)
    shard = ShardStarted(index=1, count=2, plan=DIGEST, units=(UNIT,))
    alone = certificate([start, *rest], shard=shard)
    found = held(policy(), alone)
    assert not found.passed
    assert "it is of shard 1 of 2 alone" in " ".join(found.requirements[0].why)
    assert not found.certificates[0].counts
    both = held(policy(), alone, certificate(place="b"), later=timedelta(0))
    assert both.passed, "beside what they were merged to they do no harm"
    failing = certificate([start, *sound(result("fail"))[1:]], shard=shard)
    assert held(policy(), failing, certificate(place="b")).requirements[0].state == "failed"
    assert CLEAN


def test_junit_turns_no_step_red_whose_part_passed() -> None:
    bad = {"2/alone": result("error", check="alone", cell=f"{unit(2)}/core")}
    passed, failed, _ = (render_junit(build(part, JOURNAL)).decode() for part in split(whole(3, bad), PARTS))
    assert 'failures="0"' in passed
    assert "<failure" not in passed
    assert 'type="shard"' in passed
    assert "shard 1 of 3 alone certifies nothing" in passed
    assert "<error" in failed
    cut = render_junit(build(split(whole(3), PARTS)[0][:-1], JOURNAL)).decode()
    assert 'type="INCONCLUSIVE"' in cut
