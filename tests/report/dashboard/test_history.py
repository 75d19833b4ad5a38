"""The Parquet file: what goes in comes out, and nothing else is taken for it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bi_harness.errors import UsageError
from bi_harness.report.dashboard import history
from bi_harness.report.dashboard.rows import Cell, Row, Start, refused
from tests.report.dashboard.nights import ONE, row


def test_round_trip(tmp_path: Path) -> None:
    rows = [row(1, {ONE: "pf"}), row(0, {ONE: "pp"}), refused("x", "damaged", "d")]
    table = history.joined(history.table_of(rows))
    (tmp_path / "h.parquet").write_bytes(history.render(table, ["b", "a"]))
    found = history.load(tmp_path / "h.parquet")
    assert found is not None
    assert found[0].equals(table)
    assert found[1] == ("a", "b")


def test_the_same_rows_are_the_same_bytes_in_any_order() -> None:
    rows = [row(ago, {ONE: "pf"}) for ago in range(5)]
    one = history.render(history.joined(history.table_of(rows)), ())
    other = history.render(history.joined(history.table_of(rows[::-2]), history.table_of(rows[-2::-2])), ())
    assert one == other


def test_a_certificate_counts_once() -> None:
    first = row(0, {ONE: "pp"}, certificate="c", digest="d1")
    again = row(0, {ONE: "pp"}, certificate="c", digest="d2", path="a/copy")
    assert history.joined(history.table_of([first, again])).num_rows == 1
    # The copy that was damaged does not push out the one that counts.
    damaged = row(0, {}, certificate="c", digest="d3", why="its signature is not good")
    kept = history.joined(history.table_of([damaged]), history.table_of([first]))
    assert kept["why"].to_pylist() == [""]


def test_none(tmp_path: Path) -> None:
    assert history.load(tmp_path / "h.parquet") is None


def test_no_rows() -> None:
    assert history.joined(history.table_of([])).num_rows == 0


@pytest.mark.parametrize(
    "damage", ["empty", "text", "cut", "flipped", "columns", "version", "null", "folder"]
)
def test_what_is_no_history_is_refused(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "h.parquet"
    table = history.table_of([row(0, {ONE: "pf"})])
    data = history.render(table, ())
    if damage == "empty":
        path.write_bytes(b"")
    elif damage == "text":
        path.write_bytes(b"PAR1 it is not")
    elif damage == "cut":
        path.write_bytes(data[: len(data) // 2])
    elif damage == "flipped":
        path.write_bytes(data[:40] + bytes(255 - byte for byte in data[40:400]) + data[400:])
    elif damage == "columns":
        path.write_bytes(history.render(table.drop_columns(["told"]), ()))
    elif damage == "version":
        pq.write_table(table, path)
    elif damage == "null":
        column = pa.array([None], pa.string())
        path.write_bytes(history.render(table.set_column(0, "digest", column), ()))
    else:
        path.mkdir()
    with pytest.raises(UsageError, match="history"):
        history.load(path)


def test_cut_anywhere_it_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "h.parquet"
    data = history.render(history.table_of([row(ago, {ONE: "pf"}) for ago in range(3)]), ())
    for size in {0, 1, 4, 8, len(data) - 1, len(data) - 4, *range(12, len(data), 997)}:
        path.write_bytes(data[:size])
        with pytest.raises(UsageError, match="is no history"):
            history.load(path)


def test_changed_byte_of_its_rows_is_found(tmp_path: Path) -> None:
    path = tmp_path / "h.parquet"
    table = history.table_of([row(ago, {ONE: "pf"}, said=f"run {ago}") for ago in range(3)])
    data = history.render(table, ())
    refused_ones = 0
    for at in range(4, len(data) - 8, 61):
        path.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
        try:
            found = history.load(path)
        except UsageError:
            refused_ones += 1
            continue
        # Of the footer there are bytes that say nothing of the rows.
        assert found is not None
        assert found[0].equals(table)
    assert refused_ones > 20


GOOD = row(0, {ONE: "pp"})
NAN = float("nan")
FORGED: dict[str, tuple[Row, str]] = {
    "a failure under CERTIFIED": (row(0, {ONE: "pf"}, verdict="CERTIFIED"), "does not follow"),
    "an error under CERTIFIED": (row(0, {ONE: "pe"}, verdict="CERTIFIED"), "does not follow"),
    "an unsettled pass under CERTIFIED": (row(0, {ONE: "pu"}, verdict="CERTIFIED"), "does not follow"),
    "nothing passed under CERTIFIED": (row(0, {ONE: "ss"}, verdict="CERTIFIED"), "does not follow"),
    "no failure under NOT_CERTIFIED": (row(0, {ONE: "pp"}, verdict="NOT_CERTIFIED"), "does not follow"),
    "a failure under INCONCLUSIVE": (row(0, {ONE: "pf"}, verdict="INCONCLUSIVE"), "does not follow"),
    "another verdict": (replace(GOOD, verdict="GREEN"), "verdict is none"),
    "another letter": (replace(GOOD, cells=(Cell(ONE, "a", "x", 1.0),)), "status that is none"),
    "fewer letters": (replace(GOOD, cells=(Cell(ONE, "a\nb", "p", 1.0),)), "a status for each check"),
    "no cell": (replace(GOOD, cells=()), "has 0 cells"),
    "a cell without an id": (replace(GOOD, cells=(Cell("", "a", "p", 1.0),)), "id is empty"),
    "a night that is no day": (replace(GOOD, night="2026-02-30"), "not a day"),
    "a night in words": (replace(GOOD, night="x" * 5_000), "too long"),
    "no night": (replace(GOOD, night=""), "no night"),
    "an end that is no time": (replace(GOOD, ended="later"), "began and ended"),
    "no device": (replace(GOOD, device=""), "no device"),
    "NaN seconds": (replace(GOOD, seconds=NAN), "no time that a run takes"),
    "endless seconds": (replace(GOOD, seconds=float("inf")), "no time that a run takes"),
    "negative seconds": (replace(GOOD, seconds=-1.0), "no time that a run takes"),
    "NaN seconds of a cell": (replace(GOOD, cells=(Cell(ONE, "a", "p", NAN),)), "seconds that are no time"),
    "NaN seconds of a start": (replace(GOOD, starts=(Start("eager", "treatment", 1, NAN),)), "its starts"),
    "no starts at all": (replace(GOOD, starts=(Start("eager", "treatment", 0, 1.0),)), "its starts"),
    "a million letters": (replace(GOOD, said="x" * 1_000_000), "too long"),
    "told that is no JSON": (replace(GOOD, told="["), "its told is not one"),
    "told of another form": (replace(GOOD, told='[{"cell": 1}]'), "its told is not one"),
    "told of a huge number": (replace(GOOD, told="1" * 5_000), "its told is not one"),
    "a nested environment": (replace(GOOD, environment="[" * 100_000), "its environment is not one"),
    "an environment of numbers": (replace(GOOD, environment="[[1, 2]]"), "its environment is not one"),
    "cells of what does not count": (replace(GOOD, why="damaged"), "does not count, and has cells"),
    "no digest": (replace(GOOD, digest=""), "no digest"),
}


@pytest.mark.parametrize(("forged", "words"), FORGED.values(), ids=FORGED.keys())
def test_row_that_no_certificate_gives_is_refused(tmp_path: Path, forged: Row, words: str) -> None:
    path = tmp_path / "h.parquet"
    path.write_bytes(history.render(history.table_of([row(1, {ONE: "pp"}), forged]), ()))
    with pytest.raises(UsageError, match=words) as found:
        history.load(path)
    assert "--rebuild" in str(found.value)


@pytest.mark.parametrize("kind", [pa.int64(), pa.float64(), pa.large_string(), pa.binary()])
@pytest.mark.parametrize("name", ["night", "seconds", "verdict"])
def test_column_of_another_type_is_refused(tmp_path: Path, name: str, kind: pa.DataType) -> None:
    if (name, kind) == ("seconds", pa.float64()):
        return
    table = history.table_of([GOOD])
    place = table.schema.get_field_index(name)
    path = tmp_path / "h.parquet"
    wrong = pa.array([None], kind)
    path.write_bytes(history.render(table.set_column(place, name, wrong), ()))
    with pytest.raises(UsageError, match="is no history"):
        history.load(path)


def test_list_without_a_value_in_it_is_refused(tmp_path: Path) -> None:
    table = history.table_of([GOOD])
    path = tmp_path / "h.parquet"
    for name, value in (("signed_by", [[None]]), ("cells", [[None]]), ("starts", [[None]])):
        place = table.schema.get_field_index(name)
        column = pa.array(value, table.schema.field(name).type)
        path.write_bytes(history.render(table.set_column(place, table.schema.field(name), column), ()))
        with pytest.raises(UsageError, match="is no history"):
            history.load(path)


def test_file_that_says_it_has_very_many_rows_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "h.parquet"
    path.write_bytes(history.render(history.table_of([GOOD] * 3), ()))
    monkeypatch.setattr(history, "MAX_ROWS", 2)
    with pytest.raises(UsageError, match="3 rows"):
        history.load(path)


def test_history_of_the_version_before_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "h.parquet"
    table = history.table_of([GOOD])
    old = table.replace_schema_metadata({b"bi_harness.history": b"bi-harness/dashboard-history/1"})
    pq.write_table(old, path)
    with pytest.raises(UsageError, match="another version"):
        history.load(path)
