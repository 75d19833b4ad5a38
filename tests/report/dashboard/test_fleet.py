"""What is shown for a day: green is earned, and what is missing or too old is never green."""

from __future__ import annotations

from datetime import date

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bi_harness.certificate.series import series_of
from bi_harness.errors import UsageError
from bi_harness.report.dashboard import fleet as module
from bi_harness.report.dashboard.fleet import STATES, Fleet, runs, state_of
from bi_harness.report.dashboard.rows import Row, Start
from tests.certificate.journals import result
from tests.certificate.test_series import run
from tests.report.dashboard.nights import DAY, ONE, OTHER, row, shown


def nights(fleet: Fleet, cell: str = ONE) -> str:
    return next(one.nights for one in fleet.cells if one.cell == cell)


def test_a_night_without_a_certificate_is_missing() -> None:
    assert nights(shown(row(4, {ONE: "pp"}), row(3, {ONE: "pp"}), row(0, {ONE: "pp"}))) == "pp..p"


def test_a_cell_that_a_certificate_does_not_have_is_missing() -> None:
    found = shown(row(1, {ONE: "p", OTHER: "p"}), row(0, {ONE: "p"}))
    assert nights(found, OTHER) == "p."
    assert nights(found) == "pp"


@pytest.mark.parametrize(
    ("letters", "state"),
    [
        ("pp", "p"),
        ("ps", "p"),
        ("ss", "s"),
        ("pw", "w"),
        ("wi", "i"),
        ("ie", "e"),
        ("ef", "f"),
        ("pppf", "f"),
    ],
)
def test_the_worst_check_makes_the_cell(letters: str, state: str) -> None:
    assert STATES[state_of(letters, partial=False)] == state
    assert nights(shown(row(0, {ONE: letters}))) == state


def test_a_part_of_a_suite_is_no_pass() -> None:
    found = shown(row(0, {ONE: "pp"}, partial=True))
    assert nights(found) == "k"
    assert found.models[0].verdict == "INCONCLUSIVE"
    assert nights(shown(row(0, {ONE: "pf"}, partial=True))) == "f"


@pytest.mark.parametrize(
    ("first", "second", "state"),
    [
        ("pp", "pf", "f"),
        ("pf", "pp", "f"),
        ("pi", "pp", "i"),
        ("pw", "pp", "w"),
        ("pe", "pp", "p"),
        ("ss", "pp", "p"),
        ("ee", "ii", "i"),
    ],
)
def test_of_two_certificates_of_a_night_a_pass_makes_good_an_error_alone(
    first: str, second: str, state: str
) -> None:
    for a, b in ((first, second), (second, first)):
        found = shown(row(0, {ONE: a}, run_id="a"), row(0, {ONE: b}, run_id="b"))
        assert nights(found) == state


def test_the_certificate_that_decides_is_the_one_shown() -> None:
    found = shown(row(0, {ONE: "pf"}, run_id="bad"), row(0, {ONE: "pp"}, run_id="worse-later"))
    held = found.certificate_of(found.cells[0], 0)
    assert held is not None
    assert held.run_id == "bad"
    assert [one.check for one in found.told(int(found.cells[0].certificates[0]), ONE)] == ["b"]


def test_a_part_beside_the_whole_is_the_whole() -> None:
    found = shown(row(0, {ONE: "pp"}, run_id="a"), row(0, {ONE: "p"}, run_id="b", partial=True))
    assert nights(found) == "p"


@pytest.mark.parametrize(("ago", "stale"), [(0, False), (2, False), (3, True), (200, True)])
def test_stale(ago: int, stale: bool) -> None:
    found = shown(row(ago, {ONE: "pp"}))
    assert found.cells[0].stale is stale
    assert found.cells[0].age == ago
    (device,) = found.devices
    assert device.verdict == ("STALE" if stale else "CERTIFIED")
    assert device.before == "CERTIFIED"
    assert device.good == (0 if stale else 1)


def test_stale_by_the_day_alone() -> None:
    rows = [row(5, {ONE: "p"})]
    assert shown(*rows, as_of=DAY.replace(day=6)).devices[0].verdict == "CERTIFIED"
    assert shown(*rows).devices[0].verdict == "STALE"
    assert shown(*rows, stale_days=5).devices[0].verdict == "CERTIFIED"


def test_one_cell_that_reports_no_more_leaves_no_certificate() -> None:
    found = shown(row(4, {ONE: "p", OTHER: "p"}), row(0, {ONE: "p"}))
    assert found.devices[0].verdict == "INCOMPLETE"
    assert (found.devices[0].good, found.devices[0].stale) == (1, 1)


def test_a_failure_stays_one_though_it_is_old() -> None:
    found = shown(row(4, {ONE: "f", OTHER: "p"}), row(0, {OTHER: "p"}))
    assert found.devices[0].verdict == "NOT_CERTIFIED"


def test_verdicts() -> None:
    assert shown(row(0, {ONE: "pf"})).models[0].verdict == "NOT_CERTIFIED"
    assert shown(row(0, {ONE: "pe"})).models[0].verdict == "INCONCLUSIVE"
    assert shown(row(0, {ONE: "pw"})).models[0].verdict == "WAIVED"
    assert shown(row(0, {ONE: "ss"})).models[0].verdict == "SKIPPED"
    assert shown(row(0, {ONE: "pp"})).models[0].verdict == "CERTIFIED"


def test_a_model_that_passes_in_a_certificate_that_does_not_is_not_certified() -> None:
    other = ONE.replace("/m/", "/n/")
    found = shown(row(0, {ONE: "pp", other: "pf"}))
    assert {one.model: one.verdict for one in found.models} == {"m": "PASSING", "n": "NOT_CERTIFIED"}
    assert found.devices[0].verdict == "NOT_CERTIFIED"


@pytest.mark.parametrize(
    ("verdict", "letters", "state"),
    [
        ("INCONCLUSIVE", "pp", "i"),
        ("INCONCLUSIVE", "ps", "i"),
        ("NOT_CERTIFIED", "pp", "f"),
        ("NOT_CERTIFIED", "pw", "f"),
        ("A VERDICT OF TOMORROW", "pp", "i"),
    ],
)
def test_no_cell_is_green_where_nothing_in_the_certificate_explains_its_verdict(
    verdict: str, letters: str, state: str
) -> None:
    found = shown(row(0, {ONE: letters}, verdict=verdict))
    assert nights(found) == state
    assert {one.verdict for one in (*found.devices, *found.models)} == {
        "NOT_CERTIFIED" if state == "f" else "INCONCLUSIVE"
    }
    assert {letter for track in found.cells[0].checks() for letter in track.nights} <= {state, "s"}


def test_failure_of_another_device_does_not_explain_a_verdict() -> None:
    elsewhere = ONE.replace("h200", "b200")
    found = shown(row(0, {ONE: "p", elsewhere: "f"}))
    assert {one.device: one.verdict for one in found.devices} == {
        "h200": "NOT_CERTIFIED",
        "b200": "NOT_CERTIFIED",
    }


def test_waived_failure_beside_a_failure_is_no_pass() -> None:
    found = shown(row(0, {ONE: "pw", ONE.replace("/m/", "/n/"): "f"}))
    assert {one.model: one.verdict for one in found.models} == {"m": "INCONCLUSIVE", "n": "NOT_CERTIFIED"}


def test_pass_that_proves_nothing_gives_way_to_one_that_counts() -> None:
    unsettled = row(0, {ONE: "up"}, verdict="INCONCLUSIVE", run_id="a")
    assert nights(shown(unsettled)) == "i"
    assert [track.nights for track in shown(unsettled).cells[0].checks()] == ["i", "p"]
    found = shown(unsettled, row(0, {ONE: "pp"}, run_id="b"))
    assert nights(found) == "p"
    assert found.devices[0].verdict == "CERTIFIED"


def bad(ago: int | None, device: str = "h200", **changes: str) -> Row:
    night = "" if ago is None else row(ago, {ONE: "p"}).night
    return Row(f"bad{ago}", "", f"reports/bad{ago}", why="was changed", device=device, night=night, **changes)


@pytest.mark.parametrize(
    ("ago", "verdict"),
    [
        (0, "INCONCLUSIVE"),
        (1, "INCONCLUSIVE"),
        (2, "CERTIFIED"),
        (None, "INCONCLUSIVE"),
        (-5, "INCONCLUSIVE"),
    ],
)
def test_certificate_that_does_not_count_speaks_against_its_device_until_it_reports_later(
    ago: int | None, verdict: str
) -> None:
    other = ONE.replace("h200", "b200")
    found = shown(row(2, {ONE: "p"}), row(1, {ONE: "p"}), row(1, {other: "p"}), bad(ago))
    assert {one.device: one.verdict for one in found.devices} == {"h200": verdict, "b200": "CERTIFIED"}
    assert {one.verdict for one in found.models if one.device == "h200"} == {verdict}
    assert nights(found) == "pp.", "its cells passed, whatever another file says"
    assert (f"reports/bad{ago}", "was changed") in found.refused


def test_certificate_that_does_not_count_makes_no_failure_better() -> None:
    assert shown(row(0, {ONE: "f"}), bad(0)).devices[0].verdict == "NOT_CERTIFIED"
    assert shown(row(9, {ONE: "p"}), bad(9)).devices[0].verdict == "STALE"
    assert shown(bad(0)).devices == ()


@pytest.mark.parametrize("nights_shown", [2, 366, 3660])
def test_day_with_too_few_days_before_it_is_a_mistake(nights_shown: int) -> None:
    with pytest.raises(UsageError, match="begin before the year 1: 0001-01-01"):
        shown(row(0, {ONE: "p"}), as_of=date.min, nights=nights_shown)
    assert shown(as_of=date.min, nights=1).nights == ()
    assert shown(row(0, {ONE: "p"}), as_of=date.max, nights=3660).refused == ()


def test_what_ran_otherwise_is_a_row_of_its_own() -> None:
    found = shown(row(1, {ONE: "f"}), row(0, {ONE: "p"}, variant="synthetic weights", run_id="s"))
    assert [(one.variant, one.nights) for one in found.cells] == [("", "f."), ("synthetic weights", ".p")]
    assert [one.verdict for one in found.models] == ["NOT_CERTIFIED", "CERTIFIED"]


def test_first_bad() -> None:
    rows = [row(5, {ONE: "p"}), row(4, {ONE: "p"}), row(2, {ONE: "e"}), row(1, {ONE: "f"}, vllm="0.27.0")]
    found = shown(*rows, row(0, {ONE: "f"}, vllm="0.27.0"))
    (one,) = found.ranges
    assert (one.good_night, one.bad_night) == (1, 4)
    assert [(change.before, change.after) for change in one.environment] == [("0.26.0", "0.27.0")]
    assert found.cells[0].since == 4
    assert found.cells[0].last_pass == 1


def test_never_good() -> None:
    (one,) = shown(row(1, {ONE: "f"}), row(0, {ONE: "f"})).ranges
    assert one.last_good is None
    assert one.environment == ()


def test_good_again_is_in_no_range() -> None:
    found = shown(row(2, {ONE: "p"}), row(1, {ONE: "f"}), row(0, {ONE: "p"}))
    assert found.ranges == ()
    assert found.cells[0].since is None


def test_without_an_answer_since() -> None:
    found = shown(row(3, {ONE: "p"}), row(2, {ONE: "e"}), row(0, {ONE: "i"}))
    assert found.ranges == ()
    assert (found.cells[0].last_pass, found.cells[0].since) == (0, 1)


def test_cells_that_share_a_pair_share_a_range() -> None:
    good, bad = row(1, {ONE: "p", OTHER: "p"}), row(0, {ONE: "f", OTHER: "f"})
    (one,) = shown(good, bad).ranges
    assert len(one.cells) == 2


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from("pfwei"), min_size=1, max_size=7))
def test_first_bad_is_that_of_diff_series(letters: list[str]) -> None:
    """A cell of one check goes bad where ``diff --series`` says that the check does."""
    statuses = {"p": "pass", "f": "fail", "w": "fail", "e": "error", "i": "inconclusive"}
    found = shown(*(row(len(letters) - 1 - i, {ONE: letter}) for i, letter in enumerate(letters)))
    told = series_of(
        [run(i + 1, result(statuses[letter], "alone")) for i, letter in enumerate(letters)]  # type: ignore[arg-type]
    )
    track = next(track for track in told.tracks if track.check == "alone")
    assert (found.cells[0].last_good, found.cells[0].first_bad) == (track.last_good, track.first_bad)


def test_changes_of_a_verdict() -> None:
    rows = [row(5, {ONE: "p"}), row(4, {ONE: "p"}), row(3, {ONE: "f"}, vllm="0.27.0")]
    changes = shown(*rows).changes
    assert [(one.before, one.after) for one in changes] == [
        ("NOT_CERTIFIED", "STALE"),
        ("CERTIFIED", "NOT_CERTIFIED"),
        ("NONE", "CERTIFIED"),
    ]
    assert changes[1].versions[0] == "0.27.0"
    assert changes[1].versions_before[0] == "0.26.0"
    assert changes[0].time == "2026-03-10T00:00:00Z"


def test_what_began_after_the_day_does_not_count() -> None:
    found = shown(row(-1, {ONE: "p"}), row(1, {ONE: "f"}))
    assert nights(found) == "f."
    assert "after the day" in found.refused[0][1]


def test_the_window() -> None:
    rows = [row(ago, {ONE: "p"}) for ago in (9, 3, 0)]
    assert nights(shown(*rows, nights=4)) == "p..p"
    assert len(shown(*rows).nights) == 10


def test_tracks_of_checks() -> None:
    found = shown(row(2, {ONE: "pf"}), row(0, {ONE: "ppw"}))
    assert [(track.check, track.nights) for track in found.cells[0].checks()] == [
        ("a", "p.p"),
        ("b", "f.p"),
        ("c", "..w"),
    ]


def test_versions_of_a_night() -> None:
    found = shown(row(1, {ONE: "p"}), row(0, {ONE: "p"}), row(0, {OTHER: "p"}, vllm="0.27.0", run_id="b"))
    assert found.versions["h200"][0][0] == "0.26.0"
    assert set(found.versions["h200"][1][0].split(" / ")) == {"0.26.0", "0.27.0"}


def test_trends() -> None:
    (one,) = shown(row(2, {ONE: "p"}), row(0, {ONE: "p"}), row(0, {OTHER: "p"}, run_id="b")).trends
    assert one.run == (7200.0, None, 14400.0)
    assert one.start_eager == (20.0, None, 20.0)
    assert one.start_compile == (60.0, None, 60.0)
    assert one.start_graphs == (None, None, None)


def test_starts_with_cuda_graphs_alone_have_a_trend_of_their_own() -> None:
    (one,) = shown(row(0, {ONE: "p"}, starts=(Start("graphs", "treatment", 1, 30.0),))).trends
    assert (one.start_eager, one.start_compile, one.start_graphs) == ((None,), (None,), (30.0,))


def test_nothing_at_all() -> None:
    found = shown()
    assert found.cells == found.devices == found.ranges == found.changes == found.nights == ()


def test_an_id_of_another_form_is_kept_whole() -> None:
    found = shown(row(0, {"x": "p", ONE: "p"}, device="h200"))
    assert [one.cell for one in found.cells] == [ONE, "x"]
    assert {one.device for one in found.devices} == {"h200"}


def test_too_many_cells(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_ROWS", 1)
    with pytest.raises(UsageError, match="2 cells"):
        shown(row(0, {ONE: "p", OTHER: "p"}))


@given(st.text("pf.ei", max_size=40))
def test_runs_are_the_nights(text: str) -> None:
    assert "".join(letter * length for letter, _, length in runs(text)) == text
    assert [at for _, at, _ in runs(text)] == [
        i for i in range(len(text)) if i == 0 or text[i] != text[i - 1]
    ]


@settings(max_examples=80, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 6), st.text("pfweis", min_size=1, max_size=3)), max_size=9))
def test_never_green_without_a_pass(told: list[tuple[int, str]]) -> None:
    """A night is green only where a certificate of that night has a pass and nothing worse."""
    found = shown(*(row(ago, {ONE: letters}, run_id=f"r{i}") for i, (ago, letters) in enumerate(told)))
    for cell in found.cells:
        for i, letter in enumerate(cell.nights):
            of_night = [letters for ago, letters in told if found.nights[i] == row(ago, {ONE: "p"}).night]
            if letter == "p":
                assert any("p" in letters for letters in of_night)
                assert not any(set(letters) & set("fwi") for letters in of_night)
            assert (letter == ".") == (not of_night)
    for one in found.models:
        if one.verdict == "CERTIFIED":
            assert all(c.now in "ps" and not c.stale for c in found.cells)
