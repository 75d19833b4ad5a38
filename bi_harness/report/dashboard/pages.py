"""The pages of the site: the grid's, one a cell, a plain list, badges. Pure: same fleet, same bytes."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shlex
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any, Final

from jinja2 import Environment, PackageLoader, StrictUndefined

from bi_harness import __version__
from bi_harness.certificate.diff import ValueChange
from bi_harness.report.dashboard import looks
from bi_harness.report.dashboard.charts import chart
from bi_harness.report.dashboard.feed import render_feed
from bi_harness.report.dashboard.fleet import CellView, Certificate, Fleet, Group, Range, runs
from bi_harness.report.dashboard.names import badge_name, page_name
from bi_harness.report.reproduce import cell_arguments
from bi_harness.report.text import clean, count, plural

RANGES: Final = 100
RANGE_CELLS: Final = 24
CHANGED: Final = 120
"""Values of the environment that are told of a pair."""
REFUSED: Final = 300
FINDINGS: Final = 20
NIGHTS: Final = 30
"""Nights in a cell's table; its strips have all."""

SHAPES: Final[dict[str, tuple[tuple[int, int], ...]]] = {
    "p": ((5, 6),),
    "k": ((5, 2), (9, 2)),
    "f": ((0, 16),),
    "e": ((0, 6), (10, 6)),
    "i": ((9, 7),),
    "w": ((2, 5), (9, 5)),
    "s": ((7, 2),),
}
"""Top and height of a night's bars, of 16: they tell the state as the colour does. As in grid.js."""

FILTERS: Final = (
    ("device", "Device"),
    ("model", "Model"),
    ("suite", "Suite"),
    ("backend", "Backend"),
    ("mode", "Mode"),
)
_COLOURS: Final = {
    "pass": "#22773f",
    "fail": "#b3201b",
    "inconclusive": "#8a5a00",
    "part": "#8a5a00",
    "waived": "#6b3fa0",
    "stale": "#6b737c",
    "skip": "#6b737c",
    "missing": "#6b737c",
}
_LANES: Final = ("vLLM", "torch", "bi-harness")


@cache
def _environment() -> Environment:
    return Environment(
        loader=PackageLoader("bi_harness.report"),
        autoescape=True,  # always: every value comes from files that anybody may have written
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


@cache
def _asset(name: str) -> str:
    text = (files("bi_harness.report") / "templates" / "dashboard" / name).read_text(encoding="utf-8")
    # Of a style sheet, which every page has in it, what is there for its reader alone is left out.
    return re.sub(r"\s*\n\s*", "", text) if name.endswith(".css") else text


def _hash(text: str) -> str:
    """What a Content-Security-Policy knows an inline script or style sheet by."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def render_site(fleet: Fleet, *, title: str, url: str = "") -> Iterator[tuple[str, bytes]]:
    """Every file of the site, as its path in it and its bytes.

    Args:
        title: of the pages.
        url: where the site will be, for the feed; empty for a site that is opened from disk.
    """
    common = {
        "title": clean(title, 120),
        "as_of": fleet.as_of.isoformat(),
        "version": __version__,
        "css": _asset("site.css"),
        "style_hash": _hash(_asset("site.css")),
    }
    names = [page_name(cell.cell, cell.variant) for cell in fleet.cells]
    yield "index.html", _index(fleet, names, common)
    yield "cells.html", _list(fleet, names, common)
    page = _environment().get_template("dashboard/cell.html.j2")
    parts = _parts(fleet)
    for cell, name in zip(fleet.cells, names, strict=True):
        yield f"cells/{name}", page.render(_cell(fleet, cell, parts, common)).encode()
    yield "feed.xml", render_feed(fleet, title=common["title"], url=url)
    yield from _badges(fleet)


@dataclass(frozen=True, slots=True)
class _Parts:
    """What many pages have in common, rendered once.

    Attributes:
        marks: by a state's letter.
        lanes: table rows, by device.
        certificates: table cells, by number; ``none`` for a night without one.
    """

    marks: dict[str, str]
    lanes: dict[str, str]
    certificates: list[str]
    none: str
    legend: str


def _macros() -> Any:
    return _environment().get_template("dashboard/macros.html.j2").module


def _parts(fleet: Fleet) -> _Parts:
    macros = _macros()
    return _Parts(
        marks={letter: macros.mark(look) for letter, look in looks.STATES.items()},
        lanes={device: macros.lane_rows(_lanes(fleet, device)) for device in fleet.versions},
        certificates=[
            macros.night_of(
                looks.versions_words(one.versions), one.run_id, _said(one), looks.signature(one)[1]
            )
            for one in fleet.certificates
        ],
        none=macros.night_of("", "", "no certificate", ""),
        legend=macros.legend(_LEGEND),
    )


def paths(nights: str) -> list[tuple[str, str]]:
    """The strip of a line of nights: for each state an SVG path, a night being 1 wide."""
    found: dict[str, list[str]] = {}
    for letter, at, length in runs(nights):
        for top, height in SHAPES.get(letter, ()):
            found.setdefault(letter, []).append(f"M{at} {top}h{length}v{height}h{-length}z")
    return [(letter, "".join(parts)) for letter, parts in found.items()]


def packed(nights: str) -> str:
    """The letters, each run as its length (but 1) and the letter."""
    return "".join(f"{length if length > 1 else ''}{letter}" for letter, _, length in runs(nights))


def tally(nights: str) -> str:
    """``340 pass, 3 fail, 22 missing``."""
    return ", ".join(
        f"{nights.count(letter)} {look.word}" for letter, look in looks.STATES.items() if letter in nights
    )


_LEGEND: Final = [
    (look, paths(letter * 3)[0][1] if letter != "." else "", letter) for letter, look in looks.STATES.items()
]


def _json(data: Any) -> str:
    """As the content of a script element: no character of it can end that, or begin a comment."""
    text = json.dumps(data, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    for char in "<>&":
        text = text.replace(char, f"\\u{ord(char):04x}")
    return text


def _index(fleet: Fleet, names: Sequence[str], common: dict[str, Any]) -> bytes:
    cells, script = fleet.cells, _asset("grid.js")
    stale = sum(cell.stale for cell in cells)
    bad = sum(cell.first_bad is not None for cell in cells)
    summary = (
        f"{plural(len(cells), 'cell')} on {plural(len(fleet.devices), 'device')} over "
        f"{plural(len(fleet.nights), 'night')}: {count(bad)} bad where last known, {count(stale)} stale."
    )
    devices, rows = _table(fleet)
    return (
        _environment()
        .get_template("dashboard/index.html.j2")
        .render(
            **common,
            grid_css=_asset("grid.css"),
            grid_hash=_hash(_asset("grid.css")),
            script=script,
            script_hash=_hash(script),
            data=_json(_data(fleet, names)),
            summary=summary,
            devices=[{**_standing(fleet, one), "device": one.device} for one in fleet.devices],
            filters=FILTERS,
            legend=_macros().legend(_LEGEND),
            stale_days=fleet.stale_days,
            ranges=[_range(fleet, one, names) for one in fleet.ranges[:RANGES]],
            ranges_left=max(0, len(fleet.ranges) - RANGES),
            table_devices=devices,
            table_rows=rows,
            charts=list(_charts(fleet)),
            counted=_counted(fleet),
            refused=fleet.refused[:REFUSED],
            refused_left=max(0, len(fleet.refused) - REFUSED),
            meanings=[(looks.VERDICTS[v], text) for v, text in looks.MEANINGS.items()],
        )
        .encode()
    )


def _data(fleet: Fleet, names: Sequence[str]) -> dict[str, Any]:
    words: list[dict[str, int]] = [{} for _ in range(7)]

    def code(place: int, text: str) -> int:
        return words[place].setdefault(text, len(words[place]))

    cells = []
    for cell, name in zip(fleet.cells, names, strict=True):
        p = cell.parts
        texts = (_device(fleet, cell), p.model, p.backend, p.parallel, p.mode, p.suite, cell.variant)
        codes = [code(place, text) for place, text in enumerate(texts)]
        cells.append([*codes, name, packed(cell.nights), cell.since])
    keys = ("devices", "models", "backends", "parallels", "modes", "suites", "variants")
    return {
        "first": fleet.nights[0] if fleet.nights else "",
        "nights": len(fleet.nights),
        "stale": fleet.stale_days,
        **{key: list(found) for key, found in zip(keys, words, strict=True)},
        "info": {
            one.device: [look.mark, look.kind, look.word]
            for one in fleet.devices
            for look in (looks.VERDICTS[one.verdict],)
        },
        "versions": {
            device: [_spans([night[i] for night in nights]) for i in range(3)]
            for device, nights in fleet.versions.items()
        },
        "cells": cells,
    }


def _device(fleet: Fleet, cell: CellView) -> str:
    if cell.parts.device:
        return cell.parts.device
    one = fleet.certificate_of(cell, cell.last)
    return one.device if one is not None else ""


def _spans(values: Iterable[str]) -> list[list[Any]]:
    """First night, how many, and the value, for each run of one; a night without a report ends none."""
    found: list[list[Any]] = []
    for at, value in enumerate(values):
        if not value:
            continue
        if found and found[-1][2] == value:
            found[-1][1] = at - found[-1][0] + 1
        else:
            found.append([at, 1, value])
    return found


def _standing(fleet: Fleet, one: Group) -> dict[str, Any]:
    newest = fleet.certificates[one.certificate]
    return {
        "look": looks.VERDICTS[one.verdict],
        "was": looks.VERDICTS[one.before].word if one.verdict == "STALE" else "",
        "good": count(one.good),
        "cells": count(one.cells),
        "stale": count(one.stale) if one.stale else "",
        "share": round(100 * one.good / one.cells, 1) if one.cells else 0,
        "age": looks.days_ago(one.age),
        "oldest": looks.days_ago(one.oldest) if one.oldest > one.age else "",
        "signature": looks.signature(newest)[1],
        "versions": looks.versions_words(newest.versions),
    }


def _table(fleet: Fleet) -> tuple[list[str], list[tuple[str, str, list[tuple[str, dict[str, Any] | None]]]]]:
    devices = [one.device for one in fleet.devices]
    by: dict[tuple[str, str], dict[str, Group]] = {}
    for one in fleet.models:
        by.setdefault((one.model, one.variant), {})[one.device] = one
    rows = []
    for (model, variant), held in sorted(by.items()):
        slots = [(device, _standing(fleet, held[device]) if device in held else None) for device in devices]
        rows.append((model, variant, slots))
    return devices, rows


def _changed(changes: Sequence[ValueChange]) -> tuple[list[tuple[str, str, str]], int]:
    rows = [
        (
            ".".join(change.path),
            "—" if change.before is None else change.before,
            "—" if change.after is None else change.after,
        )
        for change in changes
    ]
    return rows[:CHANGED], max(0, len(rows) - CHANGED)


def _range(fleet: Fleet, one: Range, names: Sequence[str]) -> dict[str, Any]:
    rows, left = _changed(one.environment)
    between = one.bad_night - one.good_night - 1 if one.good_night is not None else 0
    return {
        "device": one.device,
        "never": one.last_good is None,
        "count": plural(len(one.cells), "cell"),
        "good_night": fleet.nights[one.good_night] if one.good_night is not None else "",
        "good_versions": _versions(fleet, one.last_good),
        "bad_night": fleet.nights[one.bad_night],
        "bad_versions": _versions(fleet, one.first_bad),
        "between": f"{plural(between, 'night')} without an answer" if between else "",
        "cells": [(_label(fleet.cells[i]), f"cells/{names[i]}") for i in one.cells[:RANGE_CELLS]],
        "cells_left": max(0, len(one.cells) - RANGE_CELLS),
        "rows": rows,
        "rows_left": left,
    }


def _label(cell: CellView) -> str:
    return f"{cell.cell} ({cell.variant})" if cell.variant else cell.cell


def _versions(fleet: Fleet, number: int | None) -> str:
    return "" if number is None else looks.versions_words(fleet.certificates[number].versions)


def _charts(fleet: Fleet) -> Iterator[Any]:
    for trend in fleet.trends:
        run = chart(f"{trend.device}: run time", fleet.nights, [("all runs of a night", "run", trend.run)])
        start = chart(
            f"{trend.device}: engine start",
            fleet.nights,
            [
                ("eager, median", "eager", trend.start_eager),
                ("CUDA graphs without torch.compile, median", "graphs", trend.start_graphs),
                ("torch.compile, median", "compile", trend.start_compile),
            ],
        )
        yield from (one for one in (run, start) if one is not None)


def _counted(fleet: Fleet) -> str:
    certificates = fleet.certificates
    if not certificates:
        return "None counts: there is nothing to show."
    kinds = [looks.signature(one)[0] for one in certificates]
    journals = sum(one.journal for one in certificates)
    return (
        f"{plural(len(certificates), 'certificate')} of {certificates[0].night} to {certificates[-1].night} "
        f"verified, each consistent with the checks that it lists; {count(journals)} computed again from the "
        f"journal beside it. {count(kinds.count('good'))} signed by a given key, "
        f"{count(kinds.count('unchecked'))} signed and not checked, {count(kinds.count('none'))} unsigned."
    )


def _lanes(fleet: Fleet, device: str) -> list[tuple[str, list[dict[str, Any]]]]:
    found = []
    width = max(1, len(fleet.nights))
    for i, name in enumerate(_LANES):
        spans = _spans([night[i] for night in fleet.versions[device]])
        segments = []
        for at, length, text in spans:
            room = int(1000 * length / width / 6.2)
            segments.append(
                {
                    "x": round(1000 * at / width, 1),
                    "text": text,
                    "night": fleet.nights[at],
                    "shown": text if len(text) <= room else "",
                }
            )
        if segments:
            found.append((name, segments))
    return found


def _one(fleet: Fleet, cell: CellView, night: int | None) -> dict[str, str] | None:
    held = fleet.certificate_of(cell, night) if night is not None else None
    if night is None or held is None:
        return None
    return {"night": fleet.nights[night], "versions": looks.versions_words(held.versions), "run": held.run_id}


def _cell(
    fleet: Fleet,
    cell: CellView,
    parts: _Parts,
    common: dict[str, Any],
) -> dict[str, Any]:
    newest = fleet.certificate_of(cell, cell.last)
    assert newest is not None
    good, since = _one(fleet, cell, cell.last_pass), _one(fleet, cell, cell.since)
    rows: list[tuple[str, str, str]] = []
    left = 0
    if good is not None and cell.last_pass is not None and cell.since is not None:
        pair = int(cell.certificates[cell.last_pass]), int(cell.certificates[cell.since])
        rows, left = _changed(fleet.differences(*pair))
    findings, findings_night = _findings(fleet, cell)
    last_pass = cell.nights.rfind("p")
    bad = cell.first_bad is not None
    return {
        **common,
        "cell": cell.cell,
        "variant": cell.variant,
        "look": looks.STATES[cell.now],
        "now": cell.now,
        "marks": parts.marks,
        "stale": cell.stale,
        "stale_look": looks.VERDICTS["STALE"],
        "last_night": fleet.nights[cell.last],
        "age": looks.days_ago(cell.age),
        "last_pass": fleet.nights[last_pass] if last_pass >= 0 else "never in this window",
        "head": [
            ("Device", newest.hardware),
            ("Ran with", looks.versions_words(newest.versions)),
            ("Scope", newest.scope),
            ("Signature", looks.signature(newest)[1]),
        ],
        "since_title": "First bad" if bad else "Without an answer",
        "since_word": "first bad" if bad else "first without an answer",
        "good": good,
        "since": since,
        "rows": rows,
        "rows_left": left,
        "findings": findings[:FINDINGS],
        "findings_left": max(0, len(findings) - FINDINGS),
        "findings_night": findings_night,
        "first_night": fleet.nights[0],
        "width": len(fleet.nights),
        "cell_paths": paths(cell.nights),
        "cell_words": tally(cell.nights),
        "tracks": [
            {
                "check": track.check,
                "now": track.nights.rstrip(".")[-1],
                "paths": paths(track.nights),
                "words": tally(track.nights),
            }
            for track in cell.checks()
        ],
        "lanes": parts.lanes.get(newest.device, ""),
        "legend": parts.legend,
        "nights": _nights(fleet, cell, parts),
        "nights_shown": min(NIGHTS, len(fleet.nights)),
        "nights_left": len(fleet.nights) > NIGHTS,
        "path": newest.path,
        "said": newest.said,
        "command": _command(cell, newest),
    }


def _findings(fleet: Fleet, cell: CellView) -> tuple[list[dict[str, Any]], str]:
    """What the last night tells that did not pass; where that has no bits, the last bad one as well."""
    if cell.now in "ps" and cell.first_bad is None:
        return [], ""
    night = cell.last
    if cell.now in "psk":
        night = max(cell.nights.rfind("f"), cell.nights.rfind("w"))
    number = int(cell.certificates[night])
    letters = {look.word: letter for letter, look in looks.STATES.items()}
    found = [
        {
            "now": letters[one.status],
            "kind": looks.STATES[letters[one.status]].kind,
            "check": one.check,
            "reason": one.reason,
            "where": one.where,
            "figures": one.figures,
            "control": one.control,
            "waiver": one.waiver,
            "log": one.log,
            "command": one.command,
        }
        for one in fleet.told(number, cell.cell)
    ]
    found.sort(key=lambda one: list(looks.STATES).index(one["now"]))
    return found, f"{fleet.nights[night]}, run {fleet.certificates[number].run_id}"


def _nights(fleet: Fleet, cell: CellView, parts: _Parts) -> str:
    """Table rows of the last nights, newest first. A night is a date of ours."""
    found = []
    for night in range(len(fleet.nights) - 1, max(-1, len(fleet.nights) - 1 - NIGHTS), -1):
        number = int(cell.certificates[night])
        found.append(
            # What is not ours was rendered by a template before.
            f'<tr role="row"><th role="rowheader" scope="row">{fleet.nights[night]}</th>'
            f'<td role="cell">{parts.marks[cell.nights[night]]}</td>'
            f"{parts.certificates[number] if number >= 0 else parts.none}</tr>"
        )
    return "\n".join(found)


def _said(held: Certificate) -> str:
    return "CERTIFIED, with waived failures" if held.verdict == "WAIVED" else held.verdict.replace("_", " ")


def _command(cell: CellView, newest: Certificate) -> str:
    return f"{shlex.join(cell_arguments(cell.cell, newest.device))} {newest.again}"


def _list(fleet: Fleet, names: Sequence[str], common: dict[str, Any]) -> bytes:
    cells = [
        {
            "href": f"cells/{name}",
            "cell": cell.cell,
            "variant": cell.variant,
            "look": looks.STATES[cell.now],
            "night": fleet.nights[cell.last],
            "stale": cell.stale,
            "since": "" if cell.since is None else fleet.nights[cell.since],
        }
        for cell, name in zip(fleet.cells, names, strict=True)
    ]
    return _environment().get_template("dashboard/cells.html.j2").render(**common, cells=cells).encode()


def _badges(fleet: Fleet) -> Iterator[tuple[str, bytes]]:
    for one in fleet.devices:
        yield f"badges/{badge_name(one.device)}.svg", badge(f"batch invariance {one.device}", one)
    for one in fleet.models:
        # No name of a model has a NUL in it, so that no two share a badge.
        model = badge_name(f"{one.model}\0{one.variant}" if one.variant else one.model)
        name = f"badges/{badge_name(one.device)}/{model}.svg"
        yield name, badge(f"{one.device} {one.model}", one)


def badge(left: str, one: Group) -> bytes:
    """An SVG badge: grey where it is stale, whatever it was."""
    look = looks.VERDICTS[one.verdict]
    right = {
        "CERTIFIED": "certified",
        "WAIVED": "certified, waived",
        "PASSING": "passing",
        "NOT_CERTIFIED": "not certified",
    }.get(one.verdict, one.verdict.lower())
    if one.verdict not in ("STALE", "NONE", "SKIPPED") and one.age:
        right += f", {one.age} d"
    label = clean(left, 60)
    split, rest = (round(12 + 6.6 * len(text)) for text in (label, right))
    page = _environment().get_template("dashboard/badge.svg.j2")
    return (
        page.render(left=label, right=right, split=split, width=split + rest, colour=_COLOURS[look.kind])
        + "\n"
    ).encode()
