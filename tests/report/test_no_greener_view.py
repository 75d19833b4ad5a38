"""No view is greener than the verdict: each reason not to be CERTIFIED while checks pass, in each view."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pyarrow.parquet as pq
import pytest
from rich.console import Console

from bi_harness.buildkite.annotation import body, style
from bi_harness.certificate.build import build
from bi_harness.certificate.diff import compare_certificates
from bi_harness.certificate.events import Event
from bi_harness.certificate.records import CheckResult
from bi_harness.certificate.series import series_of
from bi_harness.certificate.statement import Statement
from bi_harness.certificate.verdict import exit_code
from bi_harness.cli import dashboard
from bi_harness.report.console import print_result
from bi_harness.report.dashboard.collect import collect
from bi_harness.report.dashboard.fleet import Fleet, fleet
from bi_harness.report.dashboard.history import joined, load, render, table_of
from bi_harness.report.dashboard.pages import render_site
from bi_harness.report.dashboard.rows import day
from bi_harness.report.diff_view import headline, series_view
from bi_harness.report.testengine import render_test_engine
from bi_harness.report.write import WRITERS
from tests.certificate.journals import (
    CELL,
    DIGEST,
    JOURNAL,
    TIME,
    UNIT,
    batches,
    end,
    ended,
    evidence,
    planned,
    ready,
    result,
    skipped,
    sound,
    waiver,
)
from tests.certificate.policies import certificate, held, policy
from tests.certificate.shards import shard_of

OTHER = "sha256:" + "cd" * 32
GREEN = "#22773f"

NOT, OPEN = "NOT_CERTIFIED", "INCONCLUSIVE"


def with_start(events: Sequence[Event], **changes: Any) -> list[Event]:
    return [events[0].model_copy(update=changes), *events[1:]]


def with_arm(config: dict[str, Any]) -> list[Event]:
    events = sound()
    arm = ready().arm.model_copy(update={"config": {**ready().arm.config, **config}})
    events[2] = ready().model_copy(update={"arm": arm})
    return events


def sizes(digest: str, status: Any = "pass") -> list[Event]:
    """A check at two data parallel sizes."""
    cells = [CELL.replace("dp1", dp) for dp in ("dp1", "dp2")]
    found: list[CheckResult] = [
        result(status, cell=cell, evidence=evidence(digest=d, reference_digest=d))
        for cell, d in zip(cells, (DIGEST, digest), strict=True)
    ]
    return sound(*found, plan=tuple(planned(cell=cell) for cell in cells))


def shard(events: list[Event]) -> list[Event]:
    start: Any = events[0]
    return with_start(events, shard=shard_of(start, 1, 2, [UNIT]))


def no_checks() -> list[Event]:
    events = sound()
    return [events[0].model_copy(update={"plan": ()}), *events[2:4], end()]


WIDE = batches((1, 1), (2, 1))

REASONS: dict[str, tuple[str, Callable[[], list[Event]]]] = {
    "bits differ across data parallel sizes": (NOT, lambda: sizes(OTHER)),
    "a stale waiver": (NOT, lambda: with_start(sound(), waivers=(waiver(),))),
    "a stale waiver of one check of two": (
        NOT,
        lambda: with_start(sound(result(), result(check="other")), waivers=(waiver(),)),
    ),
    "an expired waiver": (NOT, lambda: with_start(sound(), waivers=(waiver(expires="2026-01-01"),))),
    "an expired waiver beside one in force": (
        NOT,
        lambda: with_start(
            sound(result("fail"), result(check="other")),
            waivers=(waiver(), waiver(expires="2026-01-01")),
        ),
    ),
    "a unit that crashed after its checks": (OPEN, lambda: [*sound()[:-2], ended("crashed"), end()]),
    "a unit that timed out after its checks": (OPEN, lambda: [*sound()[:-2], ended("timed_out"), end()]),
    "a unit that never ended": (OPEN, lambda: [*sound()[:-2], end()]),
    "engines of two releases": (
        OPEN,
        lambda: [*sound()[:3], ready("control", torch={"version": "2.12.0"}), *sound()[4:]],
    ),
    "engines with two checkpoints": (
        OPEN,
        lambda: [*sound()[:3], ready("control", checkpoints={"tiny": OTHER}), *sound()[4:]],
    ),
    "interrupted": (OPEN, lambda: [*sound()[:-1], end(interrupted=True)]),
    "cut off": (OPEN, lambda: sound()[:-1]),
    "a shard": (OPEN, lambda: shard(sound())),
    "a shard that was interrupted": (OPEN, lambda: shard([*sound()[:-1], end(interrupted=True)])),
    "a planted fault": (OPEN, lambda: with_arm({"planted_fault": "norm-256"})),
    "a configuration that was not verified": (OPEN, lambda: with_arm({"verified": False})),
    "no check at all": (OPEN, no_checks),
    "skips alone": (OPEN, lambda: [sound(plan=(skipped(),))[0], end()]),
    "waived failures alone": (OPEN, lambda: with_start(sound(result("fail")), waivers=(waiver(),))),
    "a pass whose batch never formed": (OPEN, lambda: sound(result(evidence=evidence(batches=WIDE)))),
    "a pass whose control did not diverge": (OPEN, lambda: sound(result(control=evidence(0)))),
    "a pass without a control": (OPEN, lambda: sound(result(control=None))),
}

REFUSED = {"a shard", "a planted fault", "no check at all"}
"""Of these the dashboard shows no cell, and names them under what does not count."""


@pytest.fixture(params=REASONS, name="reason")
def _reason(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def statement_of(reason: str) -> Statement:
    return build(REASONS[reason][1](), JOURNAL)


def test_reason_gives_its_verdict_while_no_check_speaks_against_it(reason: str) -> None:
    statement = statement_of(reason)
    told = statement.predicate.bi_harness
    assert told.verdict == REASONS[reason][0], told.why
    assert {check.status for check in told.checks} <= {"pass", "skip", "waived"}
    assert statement.predicate.result == "FAILED"
    passed = told.shard is not None and told.shard.passed
    assert passed or exit_code(told.verdict, interrupted=told.interrupted, shard=told.shard) != 0


def test_reports_show_the_verdict(reason: str) -> None:
    statement = statement_of(reason)
    words = REASONS[reason][0].replace("_", " ")
    files = {name: writer(statement) for name, writer in WRITERS.items()}
    html = files["certificate.html"].decode()
    assert f"<h1>{words}" in html
    assert "v-certified" not in html.partition("</style>")[2]
    title = files["certificate.md"].decode().splitlines()[0]
    assert words in title
    assert "✅" not in title
    assert json.loads(files["certificate.json"])["predicate"]["result"] == "FAILED"
    table = pq.read_table(io.BytesIO(files["cells.parquet"]))
    assert set(table["verdict"].to_pylist()) <= {REASONS[reason][0]}
    screen = io.StringIO()
    print_result(statement, Console(file=screen, width=200))
    assert words in screen.getvalue()


def test_ci_viewers_are_not_green(reason: str) -> None:
    statement = statement_of(reason)
    root = ElementTree.fromstring(WRITERS["junit.xml"](statement))
    part = statement.predicate.bi_harness.shard
    if part is not None and part.passed:
        # No red step, so that `merge` has its turn, and no pass either.
        case = next(one for one in root.iter("testcase") if one.get("name") == "verdict")
        assert [one.tag for one in case] == ["skipped"]
    else:
        assert list(root.iter("failure"))
    results = [
        case["result"] for data in render_test_engine(statement, []).values() for case in json.loads(data)
    ]
    assert "failed" in results
    assert style(statement) != "success"
    assert REASONS[reason][0].replace("_", " ") in body(statement).splitlines()[0]


def test_gate_stays_closed(reason: str) -> None:
    events = REASONS[reason][1]()
    found = held(policy(allow_waivers=True), certificate(events))
    assert not found.passed


def dashboard_of(folder: Path, *runs: list[Event]) -> Fleet:
    """The site of these runs, with a history in between as a later build has it."""
    for number, events in enumerate(runs):
        (folder / f"run{number}").mkdir(parents=True)
        text = build(events, JOURNAL).to_json()
        (folder / f"run{number}" / "certificate.json").write_text(text)
    look = partial(dashboard._look, keys=(), signed_only=False)
    table = joined(table_of(collect([str(folder)], look).rows))
    (folder / "history.parquet").write_bytes(render(table, ()))
    held_rows = load(folder / "history.parquet")
    assert held_rows is not None
    assert held_rows[0].equals(table)
    return fleet(table, day(TIME[:10]))


def site(shown: Fleet) -> dict[str, str]:
    return {name: data.decode() for name, data in render_site(shown, title="t")}


def test_dashboard_has_no_green_place(reason: str, tmp_path: Path) -> None:
    shown = dashboard_of(tmp_path, REASONS[reason][1]())
    assert {one.verdict for one in (*shown.devices, *shown.models)} <= {NOT, OPEN, "SKIPPED"}
    if reason in REFUSED:
        assert shown.refused
        assert shown.devices == ()
        return
    assert shown.devices
    assert shown.refused == ()
    if reason != "a stale waiver of one check of two":
        assert "p" not in {letter for cell in shown.cells for letter in cell.nights}
    assert all(one.good == 0 for one in (*shown.devices, *shown.models))
    assert bool(shown.ranges) == (REASONS[reason][0] == NOT or reason == "waived failures alone")
    files = site(shown)
    for name, text in files.items():
        if name.startswith("badges/"):
            assert GREEN not in text, name
            assert not re.search(r">(certified|passing)[^<]*<", text), name
    assert "✓" not in files["feed.xml"]
    assert "◐" not in files["feed.xml"]
    if REASONS[reason][0] == NOT:
        assert {one.verdict for one in shown.devices} == {NOT}


def test_dashboard_says_why(reason: str, tmp_path: Path) -> None:
    """What a cell's page tells is the reason, not only a colour."""
    if reason in (*REFUSED, "skips alone"):
        return
    shown = dashboard_of(tmp_path, REASONS[reason][1]())
    pages = [text for name, text in site(shown).items() if name.startswith("cells/")]
    words = {
        "bits differ across data parallel sizes": "other bits on",
        "a stale waiver": "is stale",
        "a stale waiver of one check of two": "is stale",
        "an expired waiver": "expired on 2026-01-01",
        "an expired waiver beside one in force": "expired on 2026-01-01",
        "waived failures alone": "Waived, not passed",
    }.get(reason, "reads pass, but")
    assert all(words in text for text in pages)


def test_difference_and_series_are_no_success(reason: str) -> None:
    statement = statement_of(reason)
    good = build(sound(), JOURNAL)
    found = compare_certificates(good, statement)
    assert found.matters
    assert "became" in headline(found)
    alone = series_of([("it", statement)])
    assert alone.exit_code == (1 if alone.bad else 6)
    assert bool(alone.bad) == (REASONS[reason][0] == NOT or reason == "waived failures alone")
    assert not series_view(alone).headline.startswith("None of")
    if reason in ("a planted fault", "no check at all", "skips alone"):
        return
    # After a good one: it speaks for the checks that it has.
    started_later = statement.predicate.bi_harness.model_copy(
        update={"started": "2026-01-15T09:00:00Z", "finished": None, "run_id": "later"}
    )
    predicate = statement.predicate.model_copy(update={"bi_harness": started_later})
    later = statement.model_copy(update={"predicate": predicate})
    assert series_of([("good", good), ("it", later)]).exit_code != 0


def test_certified_run_stays_green_everywhere(tmp_path: Path) -> None:
    """The control: a sound run, of two sizes that agree, is a success in every view."""
    for number, events in enumerate((sound(), sizes(DIGEST))):
        statement = build(events, JOURNAL)
        assert statement.predicate.bi_harness.verdict == "CERTIFIED"
        shown = dashboard_of(tmp_path / str(number), events)
        assert {one.verdict for one in (*shown.devices, *shown.models)} == {"CERTIFIED"}
        assert {cell.nights for cell in shown.cells} == {"p"}
        assert GREEN in site(shown)["badges/cpu.svg"]
        assert series_of([("it", statement)]).exit_code == 0
        assert style(statement) == "success"
    assert held(policy(), certificate()).passed


def test_sound_run_of_the_same_night_makes_good_one_that_was_cut_off(tmp_path: Path) -> None:
    """As it does with an error: a run that as a whole concluded nothing says nothing of bits."""
    cut = with_start(sound()[:-1], run_id="20260114T080000Z-abcdef")
    shown = dashboard_of(tmp_path / "a", cut, sound())
    assert {one.verdict for one in shown.devices} == {"CERTIFIED"}
    shown = dashboard_of(tmp_path / "b", with_start(sound(), waivers=(waiver(),)), sound())
    assert {one.verdict for one in shown.devices} == {NOT}


def test_shards_beside_their_merged_run_change_nothing(tmp_path: Path) -> None:
    later = with_start(shard(sound()), time="2026-01-14T23:59:00.000Z", run_id="20260114T235900Z-abcdef")
    shown = dashboard_of(tmp_path, sound(), later)
    assert {one.verdict for one in shown.devices} == {"CERTIFIED"}
    assert "shard 1 of 2" in shown.refused[0][1]


def test_model_passes_beside_a_model_that_fails(tmp_path: Path) -> None:
    """A failure that another model's cell explains leaves a model uncertified, and its cells as they are."""
    unit = UNIT.replace("tiny", "large")
    cell = f"{unit}/core"
    broken = [result(), result("fail", cell=cell)]
    events = sound(*broken, plan=(planned(), planned(cell=cell, unit=unit)))
    shown = dashboard_of(tmp_path, events)
    assert {one.model: one.verdict for one in shown.models} == {"tiny": "PASSING", "large": NOT}
