"""``bi-harness localize``: which module of the model a failure begins in."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bi_harness.cli.options import AsJson
from bi_harness.cli.run import EnginePython

Budget = Annotated[
    float,
    typer.Option(
        "--budget", min=10, metavar="SECONDS", help="Begin nothing new after so long.", show_default=True
    ),
]
LocalizedOut = Annotated[
    Path | None, typer.Option("--out", "-o", metavar="DIR", help="Folder for the result; RUN/localized.")
]


def localize(
    ctx: typer.Context,
    run_folder: Annotated[
        Path, typer.Argument(metavar="RUN", help="Folder of a run: DIR/<device>/<run id>.")
    ],
    cell: Annotated[str, typer.Argument(metavar="CELL", help="A cell's id, or a part of it.")],
    check: Annotated[
        str | None, typer.Argument(metavar="CHECK", help="Its failed check; the first by default.")
    ] = None,
    budget: Budget = 900.0,
    engine_python: EnginePython = None,
    out: LocalizedOut = None,
    as_json: AsJson = False,
) -> None:
    """Trace a failure to the first module whose inputs are equal and whose output differs.

    The smallest pair of requests that still differs is rerun on a real engine, eager, with hooks on every
    module. The run itself is not changed: what is found goes to RUN/localized. It must be the same run: other
    YAML, suites, another vLLM, bi-harness or host are refused (4).

    Ends with 0 when it was told where the failure begins, 1 when not, 2 when interrupted, 4 for a wrong
    argument, 5 when nothing failed, 75 when the surroundings failed.
    """
    from rich.console import Console

    from bi_harness.cli.options import given
    from bi_harness.cli.output import write_json
    from bi_harness.exits import ExitCode
    from bi_harness.report.console import print_localized
    from bi_harness.report.html import render_localized
    from bi_harness.report.write import replace_file
    from bi_harness.runner.localize_run import localize_run, stem
    from bi_harness.runner.run import RunOptions, stop_signals

    options = RunOptions(device="auto", out=run_folder, engine_python=engine_python)
    explicit = given(ctx, {"engine_python": "engine_python"})
    with stop_signals() as stopped:
        found, folder = localize_run(
            run_folder, cell, check, options, explicit, budget_s=budget, out=out, stopped=stopped
        )
        interrupted = stopped()
    if as_json:
        write_json(found.model_dump(mode="json", by_alias=True))
    screen = Console(stderr=as_json)
    print_localized(found, screen)
    name = stem(found)
    text = found.model_dump_json(indent=2, by_alias=True) + "\n"
    for path in (
        replace_file(folder / f"{name}.json", text),
        replace_file(folder / f"{name}.html", render_localized(found)),
    ):
        screen.print(f"{path}", markup=False, highlight=False, emoji=False, soft_wrap=True)
    told = found.outcome in ("module", "elsewhere")
    code = ExitCode.CERTIFIED if told else ExitCode.NOT_CERTIFIED
    raise typer.Exit(ExitCode.INTERRUPTED if interrupted else code)
