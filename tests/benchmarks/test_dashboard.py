"""The benchmark of the dashboard, small: its certificates are genuine, and its site is that of its nights."""

from __future__ import annotations

import json
import re
from pathlib import Path

from benchmarks import dashboard


def test_its_site(tmp_path: Path) -> None:
    found = dashboard.measure(tmp_path, nights=9, cells=24, full=True)
    assert found["full"]["checks"] > 9 * 24
    for site in ("site", "site-full"):
        text = (tmp_path / site / "index.html").read_text()
        told = re.search(r'<script type="application/json" id="fleet">(.*?)</script>', text, re.DOTALL)
        assert told is not None
        data = json.loads(told[1])
        assert (data["nights"], len(data["cells"])) == (9, 24)
        assert "not counted" not in text.lower()
    # The history of nights that were not written is what their certificates would have given.
    pages = [
        {path.name: path.read_text() for path in (tmp_path / site / "cells").iterdir()}
        for site in ("site", "site-full")
    ]
    assert pages[0].keys() == pages[1].keys()
    strips = [
        {name: re.findall(r'class="strip".*?</svg>', text) for name, text in found.items()} for found in pages
    ]
    assert strips[0] == strips[1]
    assert found["paint"].get("rows", 20) > 10
