"""``bi-harness diff``: what changed between certificates, and where a series of them went bad."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bi_harness.cli.options import AsJson
from bi_harness.errors import UsageError

if TYPE_CHECKING:
    from bi_harness.certificate.statement import Statement
    from bi_harness.report.diff_view import View

Certificates = Annotated[
    list[Path], typer.Argument(metavar="A B...", help="Certificates, or folders of runs.")
]
AsSeries = Annotated[
    bool,
    typer.Option(
        "--series",
        envvar="BI_HARNESS_DIFF_SERIES",
        help="By the time they ended: the last good and the first bad one of each check.",
    ),
]
MarkdownFile = Annotated[
    Path | None, typer.Option("--md", envvar="BI_HARNESS_DIFF_MD", help="Write it as Markdown, too.")
]


def diff(
    certificates: Certificates,
    series: AsSeries = False,
    md: MarkdownFile = None,
    as_json: AsJson = False,
) -> None:
    """Show what changed from certificate A to B: verdict, checks, exact bits, configuration, environment.

    With more than two, each is compared with the next. With --series, folders may hold many; a check that a
    certificate says nothing of is unknown there, never good. Signatures are not looked at: see verify.

    Ends with 0 when all say the same (verdict, status of every check, bits with invariance on), 1 when not,
    4 when one cannot be read. With --series: 0 when each check passed in the newest certificate that has it;
    1 when one is bad where it was last known, or a place was not read that may have one (a link, a folder, a
    run without a certificate); 6 when one has no answer in the newest that has it, or none has any.
    """
    from rich.console import Console

    from bi_harness.cli.output import write_json
    from bi_harness.report.diff_view import print_view
    from bi_harness.report.write import replace_file

    view, title, data, code = _series(certificates) if series else _differences(certificates)
    if md is not None:
        from bi_harness.report.diff_view import render_view

        text = "\n".join(render_view(one, title) for one in view)
        typer.echo(f"{md.name}: {replace_file(md, text)}", err=True)
    if as_json:
        write_json(data)
    screen = Console(stderr=as_json)
    for one in view:
        print_view(one, screen)
    raise typer.Exit(code)


def _differences(paths: list[Path]) -> tuple[list[View], str, dict[str, Any], int]:
    from bi_harness.certificate.diff import compare_certificates
    from bi_harness.report.diff_view import difference_view

    if len(paths) < 2:
        raise UsageError("diff needs two certificates; to look at one: bi-harness report RUN")
    read = [_read(path) for path in paths]
    found = [compare_certificates(a, b, (name, other)) for (name, a), (other, b) in pairwise(read)]
    data = {"differences": [{"differs": one.matters, **one.model_dump(mode="json")} for one in found]}
    return [difference_view(one) for one in found], "Difference", data, int(any(one.matters for one in found))


def _series(paths: list[Path]) -> tuple[list[View], str, dict[str, Any], int]:
    from bi_harness.certificate.series import series_of
    from bi_harness.report.diff_view import series_view
    from bi_harness.report.discovery import printable_path
    from bi_harness.report.read import find_series

    files = find_series(paths)
    found = series_of([_read(path) for path in files.certificates])
    not_read = [{"path": printable_path(place.path), "why": place.why} for place in files.unread]
    data = {**found.model_dump(mode="json"), "not_read": not_read}
    view = _with_unread(series_view(found), [str(place) for place in files.unread])
    return [view], "Series", data, 1 if not_read else int(found.exit_code)


def _with_unread(view: View, places: list[str]) -> View:
    """The view, which says before all else what it does not speak of."""
    if not places:
        return view
    from bi_harness.report.text import clean, plural

    headline = f"INCOMPLETE: {plural(len(places), 'place')} not read. {view.headline}"
    return replace(
        view, headline=headline, lines=(*view.lines, *(f"Not read: {clean(p, 900)}" for p in places))
    )


def _read(path: Path) -> tuple[str, Statement]:
    from bi_harness.cli.output import warn
    from bi_harness.report.discovery import printable_path
    from bi_harness.report.facts import contradictions
    from bi_harness.report.read import read_certificate

    name = printable_path(path)
    statement = read_certificate(path)
    for line in contradictions(statement):
        warn(f"{name}: {line}")
    return name, statement
