"""The pages, the badges and the feed, as text; ``test_browser`` opens them."""

from __future__ import annotations

import json
import re
import shlex
from datetime import datetime
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.trust import payloads
from bi_harness.report.dashboard import pages
from bi_harness.report.dashboard.charts import chart
from bi_harness.report.dashboard.fleet import Fleet
from bi_harness.report.dashboard.names import badge_name, page_name
from bi_harness.report.dashboard.pages import SHAPES, packed, paths, render_site, tally
from tests.report.dashboard.nights import ONE, OTHER, row, shown

ATOM = "{http://www.w3.org/2005/Atom}"


def site(fleet: Fleet, **options: str) -> dict[str, str]:
    options.setdefault("title", "Nights")
    return {name: data.decode() for name, data in render_site(fleet, **options)}  # type: ignore[arg-type]


def a_year() -> Fleet:
    good = [row(ago, {ONE: "pp", OTHER: "pp"}) for ago in (6, 5, 4)]
    return shown(*good, row(2, {ONE: "pf", OTHER: "pp"}, vllm="0.27.0"), row(0, {ONE: "pf", OTHER: "ep"}))


def test_the_files() -> None:
    found = site(a_year())
    assert {name for name in found if "/" not in name} == {"index.html", "cells.html", "feed.xml"}
    assert sum(name.startswith("cells/") for name in found) == 2
    assert {"badges/h200.svg", "badges/h200/m.svg"} <= set(found)


def test_the_same_bytes_again() -> None:
    assert site(a_year()) == site(a_year())


def test_the_cells_page() -> None:
    found = site(a_year())
    text = found[f"cells/{page_name(ONE, '')}"]
    for words in (
        "First bad",
        "2026-03-06",
        "2026-03-08",
        "vLLM 0.27.0",
        "0.26.0",
        "First at prompt 11, step 4.",
    ):
        assert words in text
    assert "bi-harness run -k b" in text
    assert "<script" not in text
    other = found[f"cells/{page_name(OTHER, '')}"]
    assert "Without an answer" in other
    command = re.search(r"To run the cell again:</p><pre>(.*?)</pre>", other)
    assert command is not None
    assert shlex.split(command[1])[:6] == ["bi-harness", "run", "--device", "h200", "--model", "m"]


def test_nothing_counts() -> None:
    text = site(shown())["index.html"]
    assert "No certificate counts." in text
    assert "None counts" in text


def test_what_does_not_count_is_told() -> None:
    fleet = shown(row(0, {ONE: "p"}), row(1, {}, why="contradicts itself", path="reports/bad"))
    assert "reports/bad" in site(fleet)["index.html"]
    assert "contradicts itself" in site(fleet)["index.html"]


@pytest.mark.parametrize("name", ["index.html", "cells.html", f"cells/{page_name(ONE, '')}"])
def test_the_policy_knows_what_is_in_the_page(name: str) -> None:
    text = site(a_year())[name]
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', text)
    assert policy is not None
    assert "default-src 'none'" in policy[1]
    assert "unsafe" not in policy[1]
    for kind, tag in (("style", "<style>(.*?)</style>"), ("script", "<script>(.*?)</script>")):
        for content in re.findall(tag, text, re.DOTALL):
            assert f"'{pages._hash(content)}'" in policy[1], kind
    assert not re.search(r"(src|href)=\"(https?:)?//", text)
    assert " style=" not in text


def test_data_cannot_end_its_element() -> None:
    text = str(pages._json({"a": "</script><!--<script>&\u2028"}))
    assert not set("<>&") & set(text)
    assert json.loads(text) == {"a": "</script><!--<script>&\u2028"}


def test_the_data_of_the_grid() -> None:
    text = site(a_year())["index.html"]
    found = re.search(r'<script type="application/json" id="fleet">(.*?)</script>', text, re.DOTALL)
    assert found is not None
    data = json.loads(found[1])
    assert (data["first"], data["nights"]) == ("2026-03-04", 7)
    assert data["versions"]["h200"][0] == [[0, 3, "0.26.0"], [4, 1, "0.27.0"], [6, 1, "0.26.0"]]
    assert [cell[8] for cell in data["cells"]] == ["3p.p.e", "3p.f.f"]
    assert [cell[9] for cell in data["cells"]] == [6, 4]


@given(st.text("pfweisk.", max_size=60))
def test_packed_is_unpacked(nights: str) -> None:
    found = "".join(
        letter * int(number or 1) for number, letter in re.findall(r"(\d*)([a-z.])", packed(nights))
    )
    assert found == nights


def test_every_state_has_a_shape_of_its_own() -> None:
    assert len(set(SHAPES.values())) == len(SHAPES) == 7
    assert paths("pp.f") == [("p", "M0 5h2v6h-2z"), ("f", "M3 0h1v16h-1z")]
    script = (Path(pages.__file__).parents[1] / "templates" / "dashboard" / "grid.js").read_text()
    shapes = re.search(r"const SHAPE = (\{.*\});", script)
    assert shapes is not None
    told = json.loads(re.sub(r"(\w): ", r'"\1": ', shapes[1]))
    assert {k: tuple(map(tuple, v)) for k, v in told.items()} == SHAPES


def test_tally() -> None:
    assert tally("ppf.") == "1 fail, 2 pass, 1 missing"


@pytest.mark.parametrize(
    ("ago", "letters", "words"),
    [
        (0, "pp", "certified"),
        (0, "pf", "not certified"),
        (3, "pp", "stale"),
        (3, "pf", "stale"),
        (1, "pp", "certified, 1 d"),
    ],
)
def test_badges(ago: int, letters: str, words: str) -> None:
    badge = site(shown(row(ago, {ONE: letters})))["badges/h200.svg"]
    root = ET.fromstring(badge)
    assert [one.text for one in root.iter("{http://www.w3.org/2000/svg}text")] == [
        "batch invariance h200",
        words,
    ]
    green = "#22773f" in badge
    assert green == words.startswith("certified")
    assert ("#6b737c" in badge) == (words == "stale")


def test_the_feed() -> None:
    root = ET.fromstring(site(a_year(), url="https://ci.example.org/bi/")["feed.xml"])
    assert root.tag == f"{ATOM}feed"
    assert root.find(f"{ATOM}author/{ATOM}name") is not None
    links = {link.get("rel"): link.get("href") for link in root.findall(f"{ATOM}link")}
    assert links == {
        "alternate": "https://ci.example.org/bi/index.html",
        "self": "https://ci.example.org/bi/feed.xml",
    }
    entries = root.findall(f"{ATOM}entry")
    ids = [entry.findtext(f"{ATOM}id") or "" for entry in entries]
    assert len(set(ids)) == len(ids) == 2
    assert all(one.startswith("urn:uuid:") for one in ids)
    for one in (root, *entries):
        stamp = one.findtext(f"{ATOM}updated") or ""
        assert datetime.fromisoformat(stamp).tzinfo is not None
        assert one.findtext(f"{ATOM}title")
    assert entries[0].findtext(f"{ATOM}title") == "✗ h200 · m: NOT CERTIFIED (was CERTIFIED)"
    assert "bi-harness 0.1.0; before, vLLM 0.26.0" in (entries[0].findtext(f"{ATOM}content") or "")
    # A night later the earlier changes have the ids that they had.
    later = ET.fromstring(site(shown(row(6, {ONE: "pp"}), row(5, {ONE: "pp"})))["feed.xml"])
    again = ET.fromstring(
        site(shown(row(6, {ONE: "pp"}), row(5, {ONE: "pp"}), row(4, {ONE: "f"})))["feed.xml"]
    )
    first = [e.findtext(f"{ATOM}id") for e in later.findall(f"{ATOM}entry")][-1]
    assert first in [e.findtext(f"{ATOM}id") for e in again.findall(f"{ATOM}entry")]


def test_an_empty_feed_is_one() -> None:
    root = ET.fromstring(site(shown())["feed.xml"])
    assert root.findtext(f"{ATOM}updated") == "2026-03-10T00:00:00Z"


def test_names_of_files() -> None:
    assert page_name(ONE, "") != page_name(ONE, "synthetic weights")
    assert badge_name("h200") == "h200"
    for text in ("H200", "a.svg", "con", "..", "", "a/b", "-", "é", "x" * 200):
        assert badge_name(text) != text
    for text in payloads.ALL:
        for name in (page_name(text, text), f"{badge_name(text)}.svg"):
            assert re.fullmatch(r"[a-z0-9-]{1,120}\.(html|svg)", name), name
            assert not name.startswith("-")


@given(st.text(), st.text())
def test_other_names_are_other_files(one: str, other: str) -> None:
    assert (page_name(one, "") == page_name(other, "")) == (one == other)
    assert (badge_name(one) == badge_name(other)) == (one == other)


def test_a_chart() -> None:
    found = chart("x", ["n0", "n1", "n2", "n3"], [("run", "run", [60.0, 120.0, None, 90.0])])
    assert found is not None
    (line,) = found.lines
    assert line.path.count("M") == 2, "a night without a value breaks the line"
    assert len(line.dots) == 1
    assert found.up[0][1].startswith("0")
    assert chart("x", ["n"], [("run", "run", [None])]) is None
    assert chart("x", ["n"], [("run", "run", [5.0])]) is not None
