"""``bi-harness releases``: list the vLLM releases that bi-harness was tried with, or write that list."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bi_harness.cli.options import AsJson
from bi_harness.errors import UsageError

if TYPE_CHECKING:
    from bi_harness.spec.releases import ReleasesFile

Runs = Annotated[
    list[Path] | None,
    typer.Argument(
        metavar="[RUN...]", help="Certificates, runs' folders, or folders of them to read instead."
    ),
]
Out = Annotated[
    Path | None,
    typer.Option("--out", "-o", help="Write releases.yaml here; with RUN, to stdout by default."),
]
Page = Annotated[
    Path | None, typer.Option("--page", help="Write the Markdown page here, too; none by default.")
]


def releases(runs: Runs = None, out: Out = None, page: Page = None, as_json: AsJson = False) -> None:
    """List the vLLM releases that this version of bi-harness was tried with, and the results.

    With RUN, write releases.yaml from these certificates instead. Each certificate is verified first, as
    `bi-harness verify` does it without a key; if one is not genuine, nothing is written. A certificate that
    says nothing about a vLLM release (of a running server, a shard, a planted fault) is left out with a note.

    Ends with 0; with 4 for a certificate that is not genuine, a wrong argument or a mistake in releases.yaml.
    """
    from bi_harness.cli.output import write_json
    from bi_harness.report.releases import render_page, render_releases
    from bi_harness.report.write import replace_file
    from bi_harness.spec.releases import load_releases

    found = _from_certificates(runs) if runs else load_releases()
    text = render_releases(found)
    if out is not None:
        typer.echo(f"{out.name}: {replace_file(out, text)}", err=True)
    if page is not None:
        typer.echo(f"{page.name}: {replace_file(page, render_page(found))}", err=True)
    if as_json:
        write_json(found.model_dump(mode="json", by_alias=True))
    elif not runs:
        _show(found)
    elif out is None:
        sys.stdout.write(text)


def _from_certificates(paths: Sequence[Path]) -> ReleasesFile:
    from bi_harness.cli.examined import examined_among_others
    from bi_harness.report.discovery import discover, printable_path
    from bi_harness.report.releases import releases_of, unusable_because

    found = discover(paths)
    statements, problems = [], [f"not read: {place}" for place in found.unread]
    for run in found.runs:
        path, result = printable_path(run.path), examined_among_others(run.path, [])
        if not result.genuine or result.statement is None:
            reasons = [f"{finding.where}: {finding.what}" for finding in result.problems[:3]]
            problems.append(f"{path}: not a genuine certificate: {'; '.join(reasons)}")
        elif reason := unusable_because(result.statement):
            _note(f"left out {path}: {reason}")
        else:
            statements.append(result.statement)
    if problems:
        raise UsageError(
            "\n".join(problems) + "\nWhat to do: leave these out, or look at `bi-harness verify`"
        )
    if not statements:
        raise UsageError("no certificate that says something about a vLLM release: nothing written")
    return releases_of(statements)


def _note(text: str) -> None:
    from bi_harness.cli.output import clean

    typer.echo(f"note: {clean(text)}", err=True)


def _show(found: ReleasesFile) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from bi_harness.cli.output import clean
    from bi_harness.report.console import plain
    from bi_harness.report.releases import by_release, counted, covered, verdict_of

    if not found.runs:
        typer.echo("No run is on record.")
        return
    console = Console(highlight=False)

    def shown(text: str) -> Text:
        return Text(plain(console, clean(text)))

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("vLLM", "device", "date", "result", "covered"):
        table.add_column(column, overflow="fold")
    for vllm, device, group in by_release(found):
        for number, run in enumerate(group):
            table.add_row(
                *(shown(text) for text in ((vllm, device) if number == 0 else ("", ""))),
                shown(run.date),
                shown(f"{verdict_of(run)}: {counted(run)}"),
                shown(covered(run)),
            )
    console.print(table)
