"""``bi-harness run``: run the checks on this host and write a certificate."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bi_harness.cli.job import Annotate, tell
from bi_harness.cli.options import (
    AsJson,
    Backends,
    Device,
    Executor,
    ExecutorName,
    Expression,
    HardwareFile,
    Jobs,
    Layers,
    Models,
    ModelsFile,
    Modes,
    Profile,
    ProfileName,
    Shard,
    SignKey,
    Suites,
    SuitesDir,
    WaiversFile,
    Weights,
    WeightsName,
    given,
    refuse_blank,
)

if TYPE_CHECKING:
    from securesystemslib.signer import CryptoSigner

    from bi_harness.certificate.events import Event
    from bi_harness.certificate.statement import Statement

Out = Annotated[Path, typer.Option("--out", "-o", envvar="BI_HARNESS_OUT", help="Folder of runs.")]
Seed = Annotated[
    int, typer.Option("--seed", min=0, max=2**53 - 1, envvar="BI_HARNESS_SEED", help="Seed of the workload.")
]
EnginePython = Annotated[
    str | None,
    typer.Option(
        "--engine-python", envvar="BI_HARNESS_ENGINE_PYTHON", help="Interpreter that has vLLM; this one."
    ),
]

Record = Annotated[
    bool,
    typer.Option("--record", help="Beside the reports, propose what starts counted for expected.yaml."),
]

Endpoint = Annotated[
    str | None,
    typer.Option(
        "--endpoint",
        envvar="BI_HARNESS_ENDPOINT",
        help="Certify this running server: its URL (key in BI_HARNESS_API_KEY).",
    ),
]
ControlEndpoint = Annotated[
    str | None,
    typer.Option(
        "--control-endpoint",
        envvar="BI_HARNESS_CONTROL_ENDPOINT",
        help="Its control, a server with invariance off; one is started here by default.",
    ),
]


Preload = Annotated[
    bool,
    typer.Option(
        "--preload/--no-preload",
        envvar="BI_HARNESS_PRELOAD",
        help="Import vLLM once, and fork engines from that process.",
    ),
]

Resume = Annotated[
    Path | None,
    typer.Option(
        "--resume",
        metavar="RUN",
        envvar="BI_HARNESS_RESUME",
        help="Do what is left of the run in this folder; other flags are those it began with.",
    ),
]

Localize = Annotated[
    bool,
    typer.Option(
        "--localize/--no-localize",
        envvar="BI_HARNESS_LOCALIZE",
        help="Trace the first failure of each unit to the module where it begins.",
    ),
]

_API_KEY = "BI_HARNESS_API_KEY"

_FIELDS = {
    **{name: name for name in ("device", "profile", "weights", "layers", "seed")},
    **{name: name for name in ("engine_python", "endpoint", "control_endpoint", "executor", "jobs")},
    "model": "models",
    "suite": "suites",
    "backend": "backends",
    "mode": "modes",
    "k": "expression",
    "shard": "shard",
}
"""Parameters of ``run`` → fields of ``RunOptions``."""


def run(
    ctx: typer.Context,
    device: Device = "auto",
    model: Models = None,
    suite: Suites = None,
    backend: Backends = None,
    mode: Modes = None,
    k: Expression = None,
    shard: Shard = None,
    profile: Profile = ProfileName.smoke,
    weights: Weights = WeightsName.named,
    layers: Layers = None,
    seed: Seed = 0,
    engine_python: EnginePython = None,
    endpoint: Endpoint = None,
    control_endpoint: ControlEndpoint = None,
    out: Out = Path("reports"),
    resume: Resume = None,
    jobs: Jobs = "auto",
    localize: Localize = True,
    executor: Executor = ExecutorName.local,
    preload: Preload = False,
    record: Record = False,
    sign_key: SignKey = None,
    models_file: ModelsFile = None,
    hardware_file: HardwareFile = None,
    suites_dir: SuitesDir = None,
    waivers: WaiversFile = None,
    annotate: Annotate = True,
    as_json: AsJson = False,
) -> None:
    """Run the checks on real vLLM engines and write a certificate with its reports.

    With --endpoint, the online suite asks a server that is running already. Its invariance mode and
    configuration are not verified, and the verdict says so.

    A failure that waivers.yaml names shows as waived, with its evidence, and is no pass. A waiver that has
    expired, or that names a check which passes, fails the run.

    With --shard I/N (in a Buildkite step with parallelism, its own job by default), a part of the plan runs.
    Such a run certifies nothing by itself: give the folders of all shards to `bi-harness merge`. It ends with
    0 when all of its part passed, or there was nothing in it to run.

    With --resume RUN (its folder), checks that have a result keep it, and the others run. It must be the same
    run: other YAML, suites, flags, another vLLM, bi-harness or host are refused (4), and so is a folder in
    which a run is still going on.

    With a vLLM release newer than any that bi-harness was tried with on the device (`bi-harness releases`),
    the command prints a warning and runs.

    With --executor ray, units run on the nodes of a Ray cluster, each on one node; this process alone writes
    the journal. A unit whose node is lost runs again elsewhere for what has no verdict (docs/ray.md).

    Ends with 0 when certified, 1 when not, 2 when interrupted, 4 for a wrong flag, a mistake in the YAML or
    the wrong device, 5 when there is nothing to run, 6 when inconclusive, 75 when the surroundings failed.
    """
    from rich.console import Console

    from bi_harness.certificate.verdict import exit_code
    from bi_harness.errors import UsageError
    from bi_harness.matrix.shards import shard_asked
    from bi_harness.report.console import print_result
    from bi_harness.runner.earlier import resuming
    from bi_harness.runner.progress import watching
    from bi_harness.runner.resume import prepare_again
    from bi_harness.runner.run import RunOptions, execute, prepare, stop_signals
    from bi_harness.spec.load import default_paths, load_spec
    from bi_harness.spec.waivers import load_waivers, waivers_path

    if preload and executor is not ExecutorName.local:
        raise UsageError("--preload forks engines on this host, and --executor ray starts them on others")
    # Before anything else: hours of work must not end at a key that cannot sign.
    signer = signer_of(sign_key)
    if endpoint is not None:
        refuse_blank(_API_KEY)
    options = RunOptions(
        device=device,
        out=out,
        models=model,
        suites=suite,
        backends=backend,
        modes=[m.value for m in mode] if mode else None,
        expression=k,
        profile=profile.value,
        weights=weights.value,
        layers=layers,
        seed=seed,
        engine_python=engine_python,
        endpoint=endpoint,
        control_endpoint=control_endpoint,
        jobs=_jobs(jobs),
        # A run that is resumed says itself which shard it is.
        shard=shard_asked(shard, os.environ if resume is None else {}),
        # Elsewhere there may be no engine to rerun anything on; `bi-harness localize` does it afterwards.
        localize=localize and endpoint is None and executor is ExecutorName.local,
        executor=executor.value,
        preload=preload,
    )
    screen = Console(stderr=True)
    with ExitStack() as stack:
        earlier = stack.enter_context(resuming(resume)) if resume is not None else None
        if earlier is None:
            paths = default_paths(models_file, hardware_file, suites_dir)
            waivers_file = waivers_path(waivers, paths.models)
            if waivers_file is not None:
                options = replace(options, waivers=load_waivers(waivers_file))
            prepared = prepare(options, load_spec(paths.models, paths.hardware, paths.suites))
        else:
            prepared = prepare_again(
                earlier,
                options,
                given(ctx, _FIELDS),
                models=models_file,
                hardware=hardware_file,
                suites=suites_dir,
                waivers=waivers,
            )
            if prepared.options.endpoint is not None:
                refuse_blank(_API_KEY)
            if not earlier.complete:
                from bi_harness.report.write import remove_reports

                remove_reports(earlier.run_dir)  # They are of less than what will be there.
        if endpoint is None and prepared.options.endpoint is None:
            warn_if_untried(prepared.vllm, prepared.device)
        if (part := prepared.shard) is not None:
            units = f"{len(prepared.own.plan.units)} of {len(prepared.selection.plan.units)} units"
            typer.echo(f"shard {part.index} of {part.count}: {units}", err=True)
        stopped = stack.enter_context(stop_signals())
        with watching(screen) as watch:
            stack.callback(prepared.executor.close)
            run_dir, statement = execute(
                prepared, _importing_reports(watch), stopped=stopped, earlier=earlier
            )
        from bi_harness.report.write import write_reports

        if earlier is not None and signer is None:
            from bi_harness.report.sealed import refuse_stale

            refuse_stale(
                statement, run_dir
            )  # A run that was complete keeps its signature, if it still holds.
        reports = write_reports(statement, run_dir, enough=stopped.again) | sign(statement, run_dir, signer)
        if not stopped.again():
            tell(statement, run_dir, annotate=annotate, stopped=stopped)
    if as_json:
        write_json_result(statement, run_dir)
    print_result(statement, screen if as_json else Console(), reports)
    if record:
        write_proposal(statement, run_dir)
    result = statement.predicate.bi_harness
    raise typer.Exit(exit_code(result.verdict, interrupted=result.interrupted, shard=result.shard))


def warn_if_untried(vllm: str | None, device: str) -> None:
    """Warn on stderr where a vLLM release is newer than any that was tried.

    The warning goes to no certificate and changes no verdict.

    Args:
        vllm: the release that will run; ``None`` for none, which says nothing.
        device: id in ``hardware.yaml``.
    """
    from bi_harness.cli.output import warn
    from bi_harness.errors import SpecError
    from bi_harness.spec.releases import load_releases, release_standing

    if vllm is None:
        return
    try:
        warning = release_standing(vllm, device, load_releases().runs).warning
    except SpecError as error:
        warning = f"cannot tell whether vLLM {vllm} was tried: {error}"
    if warning is not None:
        warn(warning)


def _importing_reports(watch: Callable[[Event], None]) -> Callable[[Event], None]:
    """Have what the reports need imported once a check has begun: while engines start, rather than after the
    last one has ended; and not before, when this process has work of its own to do."""
    thread = threading.Thread(target=_import_reports)

    def passed(event: Event) -> None:
        watch(event)
        if event.type == "check_started" and thread.ident is None:
            thread.start()

    return passed


def _import_reports() -> None:
    from bi_harness.report import write  # noqa: F401 - jinja, markdown and the like
    from bi_harness.report.parquet import import_ahead

    import_ahead()


def _jobs(text: str) -> int | None:
    """The number of ``--jobs``; ``None`` for ``auto``.

    Raises:
        UsageError: it is neither.
    """
    from bi_harness.errors import UsageError

    if text == "auto":
        return None
    if not re.fullmatch(r"[1-9][0-9]{0,2}", text):
        raise UsageError(f"--jobs {text}: give a number from 1 to 999, or auto")
    return int(text)


def signer_of(path: Path | None) -> CryptoSigner | None:
    """The key of ``--sign-key``.

    Raises:
        UsageError: it cannot sign.
    """
    if path is None:
        return None
    from bi_harness.certificate.sign import load_signing_key

    return load_signing_key(path)


def sign(statement: Statement, run_dir: Path, signer: CryptoSigner | None) -> dict[str, Path]:
    """Sign what lies in the run's folder, where a key was given; returns name → path.

    The files for Buildkite's Test Engine are written first where there are to be some, and are signed, too.

    Raises:
        InfrastructureError: a file cannot be read or written.
        UsageError: something in the folder cannot be signed.
    """
    if signer is None:
        return {}
    from bi_harness.cli.job import content_for_test_engine, in_job, write_test_engine
    from bi_harness.report.sealed import write_sealed
    from bi_harness.report.testengine import PATTERN

    beside: dict[str, bytes] = {}
    if in_job() or any(run_dir.glob(PATTERN)):
        write_test_engine(statement, run_dir, sign=True)
        beside = content_for_test_engine(statement, run_dir)
    return write_sealed(statement, run_dir, signer, beside)


def write_proposal(statement: Statement, run_dir: Path) -> None:
    """``--record``: what starts counted, as entries for ``expected.yaml``. Nothing else is written."""
    from bi_harness.cli.output import warn
    from bi_harness.report.startup_proposal import PROPOSAL, render_proposal
    from bi_harness.report.write import replace_file

    if text := render_proposal(statement):
        typer.echo(f"proposal: {replace_file(run_dir / PROPOSAL, text)}", err=True)
    else:
        warn("nothing to record: no check of this run told what a cold and a warm start counted")


def write_json_result(statement: Statement, run_dir: Path) -> None:
    """``--json`` of ``run`` and ``report``: the certificate, and where it is."""
    from bi_harness.cli.output import write_json

    write_json({"run": str(run_dir), "certificate": statement.model_dump(mode="json", by_alias=True)})
