"""``bi-harness dashboard``: a static site of many nights' certificates."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from datetime import UTC, date, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bi_harness.cli.lazy import new_app
from bi_harness.cli.options import AsJson, key_given
from bi_harness.errors import UsageError

if TYPE_CHECKING:
    import pyarrow as pa

    from bi_harness.certificate.verify import Folder
    from bi_harness.report.dashboard.rows import Row

app = new_app("Show many nights' certificates as a static site.")

Reports = Annotated[
    list[str],
    typer.Argument(metavar="REPORTS...", help="Certificates, runs' folders, folders of them, or patterns."),
]
Out = Annotated[
    Path, typer.Option("--out", "-o", envvar="BI_HARNESS_DASHBOARD_OUT", help="Folder of the site.")
]
History = Annotated[
    Path | None,
    typer.Option(
        "--history",
        envvar="BI_HARNESS_DASHBOARD_HISTORY",
        help="Parquet file of what was verified; by default history.parquet in the site.",
    ),
]
PublicKeys = Annotated[
    list[Path] | None,
    typer.Option(
        "--public-key",
        envvar="BI_HARNESS_PUBLIC_KEY",
        callback=key_given,
        help="Check signatures with this key (repeatable). A bad signature does not count.",
    ),
]
SignedOnly = Annotated[
    bool,
    typer.Option(
        "--signed-only",
        envvar="BI_HARNESS_DASHBOARD_SIGNED_ONLY",
        help="Count only what one of the keys signed.",
    ),
]
AsOf = Annotated[
    str | None,
    typer.Option(
        "--as-of", envvar="BI_HARNESS_DASHBOARD_AS_OF", help="Day that is shown (2026-12-31); today, in UTC."
    ),
]
Nights = Annotated[
    int,
    typer.Option("--nights", min=1, max=3660, envvar="BI_HARNESS_DASHBOARD_NIGHTS", help="Nights shown."),
]
StaleDays = Annotated[
    int,
    typer.Option(
        "--stale-days",
        min=0,
        max=3660,
        envvar="BI_HARNESS_DASHBOARD_STALE_DAYS",
        help="Days without a report after which a cell is stale.",
    ),
]
Keep = Annotated[
    bool,
    typer.Option(
        "--keep",
        envvar="BI_HARNESS_DASHBOARD_KEEP",
        help="Keep what the history has of certificates that are not given any more.",
    ),
]
Rebuild = Annotated[
    bool,
    typer.Option(
        "--rebuild",
        envvar="BI_HARNESS_DASHBOARD_REBUILD",
        help="Verify everything anew, whatever the history has.",
    ),
]
Title = Annotated[
    str, typer.Option("--title", envvar="BI_HARNESS_DASHBOARD_TITLE", help="Title of the site.")
]
Url = Annotated[
    str,
    typer.Option(
        "--url", envvar="BI_HARNESS_DASHBOARD_URL", help="Where the site will be, for the feed's links."
    ),
]
Jobs = Annotated[
    int | None,
    typer.Option(
        "--jobs", "-j", min=1, envvar="BI_HARNESS_DASHBOARD_JOBS", help="Processes that verify; the cores."
    ),
]


@app.command()
def build(
    reports: Reports,
    out: Out = Path("site"),
    history: History = None,
    public_key: PublicKeys = None,
    signed_only: SignedOnly = False,
    as_of: AsOf = None,
    nights: Nights = 366,
    stale_days: StaleDays = 2,
    keep: Keep = False,
    rebuild: Rebuild = False,
    title: Title = "Batch invariance",
    url: Url = "",
    jobs: Jobs = None,
    as_json: AsJson = False,
) -> None:
    """Build a static site from certificates: cells × nights, first bad ranges, certification, trends.

    Each certificate is verified first: what is damaged, contradicts itself, was changed or has a bad
    signature is listed with the reason and does not count. What was verified before and has not changed is
    taken from the history. The site opens from disk. The same certificates and --as-of give the same bytes.

    Ends with 0 when it is written, whatever it shows; 4 when something given cannot be used; 5 when no
    certificate counts (the site says so).
    """
    from bi_harness.certificate.sign import load_public_key
    from bi_harness.cli.output import clean, write_json
    from bi_harness.exits import ExitCode
    from bi_harness.report.dashboard import collect, fleet, pages
    from bi_harness.report.dashboard import history as store
    from bi_harness.report.dashboard.site import check_folder, write_site
    from bi_harness.report.write import replace_file

    day, site_url = _day(as_of), _slashed(url)
    if signed_only and not public_key:
        raise UsageError("--signed-only needs the keys: --public-key PATH")
    check_folder(out)
    keys = sorted(load_public_key(path).keyid for path in public_key or ())
    keys += ["signed-only"] if signed_only else []
    place = history or out / store.NAME
    held, stats = (None, {}) if rebuild else _held(place, out, keys)
    look = partial(_look, keys=tuple(str(path) for path in public_key or ()), signed_only=signed_only)
    found = collect.collect(
        reports,
        look,
        known=held["digest"].to_pylist() if held is not None else (),
        stats=stats,
        jobs=jobs or os.cpu_count() or 1,
    )
    table = _together(held, found, keep=keep)
    shown = fleet.fleet(table, day, nights=nights, stale_days=stale_days)
    data = store.render(table, keys)
    extra = [(_SEEN, collect.dump_stats(found.stats))]
    if history is None:
        extra.append((store.NAME, data))
    else:
        replace_file(history, data)
    files = write_site(out, _all(pages.render_site(shown, title=title, url=site_url), extra))
    told = {
        "site": str(out / "index.html"),
        "as_of": day.isoformat(),
        "files": files,
        "cells": len(shown.cells),
        "nights": len(shown.nights),
        "certificates": len(shown.certificates),
        "verified_now": len(found.rows),
        "not_counted": [{"path": path, "why": why} for path, why in shown.refused],
        "devices": [
            {
                "device": one.device,
                "verdict": one.verdict,
                "age_days": one.age,
                "cells": one.cells,
                "good": one.good,
            }
            for one in shown.devices
        ],
        "first_bad": len(shown.ranges),
    }
    if as_json:
        write_json(told)
    else:
        for path, why in shown.refused[:20]:
            typer.echo(clean(f"not counted: {path}: {why}"), err=True)
        if len(shown.refused) > 20:
            typer.echo(f"not counted: {len(shown.refused) - 20} more, see the site", err=True)
        for one in shown.devices:
            typer.echo(
                clean(
                    f"{one.device}: {one.verdict}, {one.good} of {one.cells} cells pass, {one.age} days old"
                )
            )
        typer.echo(
            f"{len(shown.cells):,} cells, {len(shown.nights):,} nights, {len(shown.certificates):,} "
            f"certificates ({len(found.rows):,} verified now): {out / 'index.html'}"
        )
    raise typer.Exit(int(ExitCode.CERTIFIED if shown.certificates else ExitCode.NOTHING_TO_RUN))


@app.command()
def serve(
    site: Annotated[Path, typer.Argument(metavar="SITE", help="Folder that `dashboard build` wrote.")] = Path(
        "site"
    ),
    port: Annotated[
        int,
        typer.Option(
            "--port", min=0, max=65535, envvar="BI_HARNESS_DASHBOARD_PORT", help="Port; 0 for a free one."
        ),
    ] = 8765,
) -> None:
    """Serve a site on 127.0.0.1, until Ctrl-C. A new build of it shows at once."""
    from bi_harness.report.dashboard.serve import server
    from bi_harness.report.dashboard.site import MARKER

    if not (site / MARKER).is_file():
        raise UsageError(f"{site}: is no site of `bi-harness dashboard build`")
    with server(site, port) as running:
        typer.echo(f"http://127.0.0.1:{running.server_port}/", err=False)
        try:
            running.serve_forever()
        except KeyboardInterrupt:
            typer.echo("", err=True)


_SEEN = ".seen.json"
"""Which files were examined: beside the history, and like it made anew at any time."""


def _day(text: str | None) -> date:
    if text is None:
        return datetime.now(UTC).date()
    try:
        day = date.fromisoformat(text)
        # ISO 8601 has other forms of a day; one is enough, and no reader takes it for another.
        if day.isoformat() != text:
            raise ValueError
        return day
    except ValueError:
        raise UsageError(f"--as-of {text[:60]!r} is not a day; write one like 2026-12-31") from None


def _slashed(url: str) -> str:
    from urllib.parse import urlsplit

    if not url:
        return ""
    try:
        parts = urlsplit(url)
        good = (
            len(url) <= _URL_LIMIT
            and _URL.fullmatch(url) is not None
            and parts.scheme in ("http", "https")
            and bool(parts.hostname)
            and parts.username is None
            and not (parts.query or parts.fragment)
            # Reading it is what checks it.
            and parts.port != 0
        )
    except ValueError:
        good = False
    if not good:
        raise UsageError(
            f"--url {url[:100]!r} is not the address of a site; write one like https://ci.example.org/bi/"
        )
    return url if url.endswith("/") else f"{url}/"


_URL_LIMIT = 1_000
# What RFC 3986 allows in a URL; urlsplit drops line breaks and tabs without a word.
_URL = re.compile(r"[A-Za-z0-9._~:/?#\[\]@!$&'()*+,;=%-]+")


def _held(place: Path, out: Path, keys: list[str]) -> tuple[pa.Table | None, dict[str, tuple[str, str]]]:
    """The history's rows and which files they are of; nothing where other keys were asked about."""
    from bi_harness.report.dashboard import collect
    from bi_harness.report.dashboard import history as store

    found = store.load(place)
    if found is None:
        return None, {}
    table, had = found
    if list(had) != sorted(keys):
        from bi_harness.cli.output import warn

        warn(f"{place}: was made with other keys; every certificate is verified anew")
        return None, {}
    return table, collect.load_stats(out / _SEEN)


def _together(held: pa.Table | None, found: Any, *, keep: bool) -> pa.Table:
    import pyarrow as pa
    import pyarrow.compute as pc

    from bi_harness.report.dashboard import history as store
    from bi_harness.report.dashboard.collect import UNREAD

    new = store.table_of((*found.rows, *found.unread))
    if held is None:
        return store.joined(new)
    held = held.filter(pc.invert(pc.starts_with(held["digest"], UNREAD)))
    if not keep:
        there = pa.array(list(found.known), pa.string())
        held = held.filter(pc.is_in(held["digest"], value_set=there))
    # Where a file is now, not where it was when it was verified.
    paths = [
        found.known.get(digest, path)
        for digest, path in zip(held["digest"].to_pylist(), held["path"].to_pylist(), strict=True)
    ]
    held = held.set_column(held.schema.get_field_index("path"), "path", pa.array(paths, pa.string()))
    return store.joined(held, new)


def _look(folder: Folder, digest: str, shown: str, *, keys: tuple[str, ...], signed_only: bool) -> Row:
    """Examine what was read; in a process of its own where there are many.

    Whatever goes wrong with one file is a row of what does not count, so that the others are shown.
    """
    from bi_harness.certificate.sign import load_public_key
    from bi_harness.certificate.verify import examine
    from bi_harness.cli.examined import recompute
    from bi_harness.matrix.collector import no_collection
    from bi_harness.report.dashboard.claims import read_claim
    from bi_harness.report.dashboard.history import table_of
    from bi_harness.report.dashboard.history_check import row_problem
    from bi_harness.report.dashboard.rows import refused, row_of
    from bi_harness.report.text import clean

    held = [load_public_key(Path(path)) for path in keys]
    again = recompute()
    with no_collection():
        try:
            examined = examine(folder, held, again, must_be_signed=False)
            claim = None if examined.genuine else read_claim(folder)
            row = row_of(examined, digest, shown, signed_only=signed_only, claim=claim)
            if why := row_problem(table_of([row])):
                # The next build would refuse the history that has it.
                return refused(shown, f"cannot be shown: {why}", digest, read_claim(folder))
            return row
        except Exception as error:
            why = f"cannot be examined: {type(error).__name__}: {clean(str(error), 300)}"
            return refused(shown, why, digest, read_claim(folder))


def _all(pages: Iterator[tuple[str, bytes]], extra: list[tuple[str, bytes]]) -> Iterator[tuple[str, bytes]]:
    yield from pages
    yield from extra
