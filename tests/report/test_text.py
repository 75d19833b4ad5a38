from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bi_harness.report import text
from bi_harness.report.bits import bit_pair, float_text
from bi_harness.report.cellid import parse_cell_id
from bi_harness.report.tree import entries, leaves


def test_clean_strips_whole_terminal_sequences_and_invisible_characters() -> None:
    assert text.clean("\x1b[1;31mred\x1b[0m\x1b]0;title\x07 a\u202eb\u200bc\x00\r\n d\ud800") == "red abc d"


def test_clean_says_how_much_it_cut() -> None:
    assert text.clean("x" * 1_000, 10) == "xxxxxxxxxx… [990 more characters]"


def test_clean_does_not_read_a_megabyte_to_show_a_line() -> None:
    shown = text.clean("\x1b" * 1_000_000 + "end", 10)
    assert shown.startswith("… [")


@given(st.text(), st.integers(1, 50))
def test_clean_gives_one_short_printable_line(value: str, limit: int) -> None:
    shown = text.clean(value, limit)
    assert shown.isprintable()
    assert len(shown) <= limit + 40


@pytest.mark.parametrize(
    ("value", "shown"),
    [(None, "none"), (True, "yes"), (False, "no"), (12345, "12345"), (0.1, "0.1")],
)
def test_scalar(value: object, shown: str) -> None:
    assert text.scalar(value) == shown


def test_a_number_that_python_refuses_to_print_is_shown_by_its_size() -> None:
    assert text.scalar(10**5000) == text.count(10**5000) == "2^16609 or more"
    assert text.scalar(-(10**5000)) == "-2^16609 or more"


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(None, "—"), (0.84, "0.8 s"), (42, "42 s"), (185, "3 min 05 s"), (7_620, "2 h 07 min"), (-1, "-1 s")],
)
def test_duration(seconds: float | None, shown: str) -> None:
    assert text.duration(seconds) == shown


@pytest.mark.parametrize(
    ("stamp", "shown"),
    [
        ("2026-01-14T09:15:00+00:00", "2026-01-14 09:15:00 UTC"),
        ("2026-01-14T09:15:00Z", "2026-01-14 09:15:00 UTC"),
        ("2026-01-14T09:15:00.25+02:00", "2026-01-14 09:15:00 +0200"),
        ("2026-01-14T09:15:00", "2026-01-14 09:15:00"),
        ("yesterday", "yesterday"),
        (None, "—"),
    ],
)
def test_when(stamp: str | None, shown: str) -> None:
    assert text.when(stamp) == shown


def test_elapsed_is_unknown_where_the_stamps_do_not_tell() -> None:
    assert text.elapsed("2026-01-14T09:15:00Z", "2026-01-14T09:16:00Z") == 60
    assert text.elapsed("2026-01-14T09:15:00Z", "2026-01-14T09:16:00") is None
    assert text.elapsed("2026-01-14T09:15:00Z", None) is None


def test_xml_text_keeps_line_breaks_and_drops_what_xml_forbids() -> None:
    assert text.xml_text("a\r\nb\x00\x0b\ufffe\x1b[31mc") == "a\nbc"


def test_cell_id_is_read_back() -> None:
    cell = parse_cell_id("h200/qwen3-1.7b/FLASH_ATTN/tp2-dp1/compile/online")
    assert (cell.device, cell.model, cell.backend, cell.tp, cell.dp, cell.mode, cell.suite) == (
        "h200",
        "qwen3-1.7b",
        "FLASH_ATTN",
        2,
        1,
        "compile",
        "online",
    )
    assert parse_cell_id("h200/Qwen/Qwen3/FLASH_ATTN/tp1-dp1/eager/online").model == "Qwen/Qwen3"


@pytest.mark.parametrize(
    "cell_id",
    [
        "",
        "/",
        "a/b/c",
        "h200/m/B/tp1-dp1/eager/",
        "h200/m/B/tp1/eager/s",
        "h200/m/B/tp１-dp1/eager/s",
        "/////",
    ],
)
def test_an_ill_formed_cell_id_is_kept_whole(cell_id: str) -> None:
    cell = parse_cell_id(cell_id)
    assert not cell.well_formed
    assert cell.model == cell.raw == cell_id


@given(st.text())
def test_no_cell_id_raises(cell_id: str) -> None:
    assert parse_cell_id(cell_id).raw == cell_id


def test_bits_that_differ_are_marked_and_named() -> None:
    pair = bit_pair("0x3f800000", "0xbf800001")
    assert pair.positions == (31, 0)
    assert [bit.field for bit in pair.reference].count("exponent") == 8
    assert "".join(bit.value for bit in pair.observed) == f"{0xBF800001:032b}"
    assert "bits 31, 0" in pair.summary
    assert bit_pair("0x00000000", "0x00000000").summary == "no bit differs"


def test_float_text_tells_neighbours_apart_and_names_what_is_not_finite() -> None:
    assert float_text("0x3f800000") != float_text("0x3f800001")
    assert [float_text(bits) for bits in ("0x7fc00000", "0x7f800000", "0xff800000")] == ["nan", "inf", "-inf"]


def test_a_tree_shows_any_json() -> None:
    value = {"a": {"b": [1, None], "c": [{"d": True}]}, "e": {}, "command": ["run", "-k", "a b"], "": ""}
    assert dict(leaves(entries(value))) == {
        "a.b": "1, none",
        "a.c.1.d": "yes",
        "e": "none",
        "command": "run -k 'a b'",
        "(empty)": "(empty)",
    }


def test_a_tree_is_bounded_in_depth_and_width() -> None:
    deep: object = 1
    for _ in range(500):
        deep = {"k": [deep]}
    assert len(list(leaves(entries(deep)))) == 1
    assert len(entries(dict.fromkeys(range(10_000), 1))) == 401


@pytest.mark.parametrize("plain", ["", " ", "a", " a ", "a  b", "  a   b  ", "a b", "x" * 399])
def test_the_short_way_for_plain_text_gives_the_same(plain: str) -> None:
    # A non-breaking space takes the long way, and reads as a space at the end: as none.
    assert text.clean(plain) == text.clean(f"{plain}\u00a0")
