"""The Parquet file: what goes in comes out, and nothing else is taken for it."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bi_harness.errors import UsageError
from bi_harness.report.dashboard import history
from bi_harness.report.dashboard.rows import refused
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
