"""``bi-harness doctor``: what this host is, and what stops it from certifying."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from bi_harness.cli.options import AsJson, Device, HardwareFile, ModelsFile, SuitesDir
from bi_harness.cli.output import clean, write_json
from bi_harness.device.doctor import Diagnosis, Level, examine
from bi_harness.exits import OK, ExitCode
from bi_harness.report.releases import by_release, summary
from bi_harness.spec.hardware import DeviceSpec
from bi_harness.spec.load import default_paths, load_spec
from bi_harness.spec.releases import ReleasesFile, load_releases

_MARKS: dict[Level, str] = {
    "ok": "[green]ok[/]",
    "warn": "[yellow]warn[/]",
    "blocks": "[bold red]blocks[/]",
}


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""
    app.command("doctor")(doctor)


def doctor(
    device: Device = "auto",
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
    models_file: ModelsFile = None,
    hardware_file: HardwareFile = None,
    suites_dir: SuitesDir = None,
    as_json: AsJson = False,
) -> None:
    """Tell what this host is and what stops it from certifying.

    Each check is ok, warn or blocks; what is not ok has what to do about it. Below them are the vLLM releases
    that bi-harness was tried with on this device, and the results.

    Ends with 0 when nothing blocks, with 4 otherwise. Starts no engine and imports none.
    """

    def load_devices() -> Mapping[str, DeviceSpec]:
        paths = default_paths(models_file, hardware_file, suites_dir)
        return load_spec(paths.models, paths.hardware, paths.suites).devices

    diagnosis = examine(device, load_devices, out=out, engine_python=engine_python, load_tried=load_releases)
    if as_json:
        write_json(diagnosis.as_json())
    else:
        _show(diagnosis, Console(highlight=False))
    raise typer.Exit(int(OK if diagnosis.can_certify else ExitCode.USAGE))


def _show(diagnosis: Diagnosis, console: Console) -> None:
    def text(value: str) -> str:
        # Names and values come from the host, the environment and files: they are shown, never obeyed.
        return escape(clean(value))

    host = diagnosis.host
    where = f" in {host.container}" if host.container else ""
    console.print(f"[bold]{text(host.hostname)}[/]: {text(f'{host.os}, {host.kernel}{where}')}")
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for finding in diagnosis.findings:
        advice = f"\n[dim]→ {text(finding.todo)}[/]" if finding.todo else ""
        table.add_row(_MARKS[finding.level], finding.check, text(finding.found) + advice)
    console.print(table)
    if diagnosis.tried:
        console.print(f"vLLM releases tried on {text(diagnosis.tried[0].device)}:")
        for vllm, _, runs in by_release(ReleasesFile(runs=diagnosis.tried)):
            console.print(f"  {text(vllm)}  {text(summary(runs))}")
    blocking = [f.check for f in diagnosis.findings if f.level == "blocks"]
    if blocking:
        console.print(f"[bold red]cannot certify[/] {text(diagnosis.requested)}: {', '.join(blocking)}")
    else:
        console.print(f"[bold green]can certify[/] {diagnosis.device}")
