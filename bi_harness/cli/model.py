"""``bi-harness model make``: a synthetic checkpoint of a model of ``models.yaml``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bi_harness.cli.lazy import new_app
from bi_harness.cli.options import AsJson, HardwareFile, Layers, ModelsFile, SuitesDir

app = new_app("Make synthetic checkpoints.")


@app.command("make")
def make(
    model: Annotated[str, typer.Argument(help="Id of models.yaml.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder to make; it must not exist.")],
    layers: Layers = None,
    engine_python: Annotated[
        str | None,
        typer.Option(
            "--engine-python",
            envvar="BI_HARNESS_ENGINE_PYTHON",
            help="Interpreter that has torch and transformers; this one.",
        ),
    ] = None,
    models_file: ModelsFile = None,
    hardware_file: HardwareFile = None,
    suites_dir: SuitesDir = None,
    as_json: AsJson = False,
) -> None:
    """Make a checkpoint and a tokenizer with a model's real shape and seeded random weights.

    The same model, layers and seed give the same bytes, and the digest that certificates name.
    """
    from bi_harness.cli.output import write_json
    from bi_harness.engine.make import make_checkpoint
    from bi_harness.matrix.select import known
    from bi_harness.spec.load import default_paths, load_spec

    paths = default_paths(models_file, hardware_file, suites_dir)
    spec = load_spec(paths.models, paths.hardware, paths.suites)
    known("model", [model], spec.models)
    record = make_checkpoint(spec.models[model], layers, out, engine_python)
    if as_json:
        write_json({"model": model, "path": str(out), **record})
    else:
        typer.echo(f"{out}: {model}, {record['digest']}")
