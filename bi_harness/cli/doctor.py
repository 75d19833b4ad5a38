"""``bi-harness doctor``: what this host is, and what stops it from certifying."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from bi_harness.device.doctor import Diagnosis, Level, examine
from bi_harness.exits import OK, ExitCode
from bi_harness.spec.hardware import DeviceSpec
from bi_harness.spec.load import default_paths, load_spec

_MARKS: dict[Level, str] = {
    "ok": "[green]ok[/]",
    "warn": "[yellow]warn[/]",
    "blocks": "[bold red]blocks[/]",
}


def doctor(
    device: Annotated[
        str, typer.Option("--device", envvar="BI_HARNESS_DEVICE", help="A device of hardware.yaml, or auto.")
    ] = "auto",
    engine_python: Annotated[
        str | None,
        typer.Option(
            "--engine-python",
            envvar="BI_HARNESS_ENGINE_PYTHON",
            help="The Python that has the vLLM to certify.",
        ),
    ] = None,
    out: Annotated[
        Path, typer.Option("--out", envvar="BI_HARNESS_OUT", help="Where the reports would go.")
    ] = Path("reports"),
    models: Annotated[Path | None, typer.Option("--models", help="Another models.yaml.")] = None,
    hardware: Annotated[Path | None, typer.Option("--hardware", help="Another hardware.yaml.")] = None,
    suites: Annotated[Path | None, typer.Option("--suites", help="Another folder of suites.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Data on stdout, nothing else there.")] = False,
) -> None:
    """Tell what this host is and what stops it from certifying.

    Each check is ok, warn or blocks; what is not ok has what to do about it.

    Ends with 0 when nothing blocks, with 4 otherwise. Starts no engine and imports none.
    """

    def load_devices() -> Mapping[str, DeviceSpec]:
        paths = default_paths(models, hardware, suites)
        return load_spec(paths.models, paths.hardware, paths.suites).devices

    diagnosis = examine(device, load_devices, out=out, engine_python=engine_python)
    if as_json:
        json.dump(diagnosis.as_json(), sys.stdout, indent=2, ensure_ascii=False)
        sys.stdout.write("\n")
    else:
        _show(diagnosis, Console(highlight=False))
    raise typer.Exit(OK if diagnosis.can_certify else ExitCode.USAGE)


def _show(diagnosis: Diagnosis, console: Console) -> None:
    host = diagnosis.host
    where = f" in {host.container}" if host.container else ""
    console.print(f"[bold]{escape(host.hostname)}[/]: {escape(host.os)}, {escape(host.kernel)}{where}")
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for finding in diagnosis.findings:
        text = escape(finding.found) + (f"\n[dim]→ {escape(finding.todo)}[/]" if finding.todo else "")
        table.add_row(_MARKS[finding.level], finding.check, text)
    console.print(table)
    blocking = [f.check for f in diagnosis.findings if f.level == "blocks"]
    if blocking:
        console.print(f"[bold red]cannot certify[/] {escape(diagnosis.requested)}: {', '.join(blocking)}")
    else:
        console.print(f"[bold green]can certify[/] {diagnosis.device}")
