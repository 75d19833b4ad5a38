"""``bi-harness pipeline``: write the Buildkite pipeline that certifies a fleet. Starts nothing."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bi_harness.cli.options import (
    Backends,
    Expression,
    HardwareFile,
    Layers,
    Models,
    ModelsFile,
    Modes,
    Profile,
    ProfileName,
    Suites,
    SuitesDir,
    VllmVersion,
    Weights,
    WeightsName,
)
from bi_harness.cli.output import warn
from bi_harness.errors import NothingToRun, UsageError

if TYPE_CHECKING:
    from bi_harness.spec.load import Spec

Devices = Annotated[
    list[str] | None,
    typer.Option(
        "--device", "-d", envvar="BI_HARNESS_DEVICE", help="Only this device of hardware.yaml (repeatable)."
    ),
]
ChangedFiles = Annotated[
    str | None,
    typer.Option(
        "--changed-files",
        metavar="LIST|@FILE|-",
        envvar="BI_HARNESS_CHANGED_FILES",
        help="Only suites that these files touch: names with commas, @FILE with one a line, or - for stdin.",
    ),
]
Policy = Annotated[
    str | None,
    typer.Option(
        "--policy", envvar="BI_HARNESS_POLICY", help="Policy of the gate step; no gate without one."
    ),
]
Queue = Annotated[
    str | None,
    typer.Option(
        "--queue",
        envvar="BI_HARNESS_QUEUE",
        help="Agent queue of merge and gate; by default the one of the first CPU in hardware.yaml.",
    ),
]
SetUp = Annotated[
    list[str] | None,
    typer.Option(
        "--set-up", help="Line of shell that every step begins with (repeatable), such as 'make setup'."
    ),
]
Harness = Annotated[
    str,
    typer.Option("--harness", envvar="BI_HARNESS_HARNESS", help="How steps call bi-harness, in words."),
]
ShardMinutes = Annotated[
    int,
    typer.Option(
        "--shard-minutes", min=1, envvar="BI_HARNESS_SHARD_MINUTES", help="What a shard should take at most."
    ),
]
MaxShards = Annotated[
    int,
    typer.Option("--max-shards", min=1, max=400, envvar="BI_HARNESS_MAX_SHARDS", help="Shards of a device."),
]
Measure = Annotated[
    list[Path] | None,
    typer.Option(
        "--measure",
        metavar="REPORTS",
        help="Write a times.yaml of what these certificates took, instead (repeatable).",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", envvar="BI_HARNESS_JSON", help="The pipeline as JSON.")]

MAX_CHANGED = 16 * 1024 * 1024
"""Bytes of a list of changed files."""

JOBS = 500
"""Jobs of one upload that Buildkite takes, unless an organization has agreed on more."""


def pipeline(
    device: Devices = None,
    changed_files: ChangedFiles = None,
    model: Models = None,
    suite: Suites = None,
    backend: Backends = None,
    mode: Modes = None,
    k: Expression = None,
    profile: Profile = ProfileName.nightly,
    weights: Weights = WeightsName.named,
    layers: Layers = None,
    vllm_version: VllmVersion = None,
    policy: Policy = None,
    queue: Queue = None,
    set_up: SetUp = None,
    harness: Harness = "bi-harness",
    shard_minutes: ShardMinutes = 120,
    max_shards: MaxShards = 32,
    models_file: ModelsFile = None,
    hardware_file: HardwareFile = None,
    suites_dir: SuitesDir = None,
    measure: Measure = None,
    as_json: AsJson = False,
) -> None:
    """Write the Buildkite pipeline that certifies the devices of hardware.yaml, to stdout.

    For `bi-harness pipeline | buildkite-agent pipeline upload`. Each device has a step with its shards, one
    that merges them into a certificate, and all have a gate. Rules are decided for the vLLM that is named, or
    for the reference of hardware.yaml: agents decide again, for the one they have.

    With --changed-files, only suites that depend on one of these files run; a file that nobody has spoken of
    touches all.

    Ends with 0; with 4 for a wrong flag or a mistake in the YAML; with 5 when nothing would run.
    """
    if measure:
        _measure(measure, hardware_file)
        return

    from bi_harness.buildkite.changes import touched
    from bi_harness.buildkite.pipeline import DevicePlan, Options, as_yaml, build
    from bi_harness.buildkite.pipeline import as_json as json_text
    from bi_harness.matrix.expand import expand
    from bi_harness.matrix.select import known, select
    from bi_harness.matrix.shards import parts
    from bi_harness.matrix.weights import unit_weights
    from bi_harness.spec.load import default_paths, load_spec
    from bi_harness.spec.times import load_times

    paths = default_paths(models_file, hardware_file, suites_dir)
    spec = load_spec(paths.models, paths.hardware, paths.suites)
    times = load_times(paths.hardware)
    known("device", device or (), spec.devices)
    known("suite", suite or (), spec.suites)
    notes = [f"profile {profile.value}"]
    asked = list(suite or ())
    limited = False
    if changed_files is not None:
        files = _changed(changed_files)
        hit = touched(files, spec.suites, _folder(paths.suites))
        notes += _told(files, hit, spec)
        limited = set(hit) != set(spec.suites)
        if limited:
            asked = [name for name in hit if not suite or name in suite]
    # With nothing touched there is nothing to plan: to expand(), no suite is every suite.
    devices = list(dict.fromkeys(device or spec.devices)) if asked or not limited else []
    plans = []
    for name in devices:
        plan = expand(
            spec,
            name,
            vllm_version=vllm_version or spec.reference(name),
            profile=profile.value,
            weights=weights.value,
            layers=layers,
            models=model,
            suites=asked,
            backends=backend,
            modes=[m.value for m in mode] if mode else None,
        )
        selection = select(plan, spec, k)
        # As `run --shard` deals them out.
        deal = partial(parts, unit_weights(selection, spec))
        plans.append(DevicePlan(spec.devices[name], selection, tuple(asked), deal))
    if not limited and not any(plan.selection.running for plan in plans):
        raise NothingToRun(f"nothing to run on {', '.join(devices)} in profile {profile.value}")
    options = Options(
        profile=profile.value,
        layers=layers,
        run=_run_flags(
            {
                "--model": model,
                "--backend": backend,
                "--mode": [m.value for m in mode or ()],
                "-k": [k] if k and k.strip() else None,
                "--weights": [weights.value] if weights is not WeightsName.named else None,
                "--layers": [str(layers)] if layers is not None else None,
                "--models-file": [str(models_file)] if models_file else None,
                "--hardware-file": [str(hardware_file)] if hardware_file else None,
                "--suites-dir": [str(suites_dir)] if suites_dir else None,
            }
        ),
        harness=_words(harness),
        set_up=tuple(set_up or ()),
        policy=policy,
        queue=queue or _light_queue(spec),
        shard_s=60.0 * shard_minutes,
        most_shards=max_shards,
    )
    try:
        built = build(plans, options, times, notes, limited=limited)
    except ValueError as error:
        raise UsageError(str(error)) from error
    jobs = sum(one.sharding.shards + 1 for one in built.devices) + 1
    if jobs > JOBS:
        warn(
            f"{jobs:,} jobs: Buildkite takes {JOBS} of an upload; give a lower --max-shards, or fewer devices"
        )
    for note in built.notes:
        _note(note)
    sys.stdout.write(json_text(built) if as_json else as_yaml(built))


def _run_flags(flags: Mapping[str, Sequence[str] | None]) -> tuple[str, ...]:
    # --flag=value: a value may begin with a dash.
    return tuple(
        word
        for flag, values in flags.items()
        for value in values or ()
        for word in ([flag, value] if len(flag) == 2 else [f"{flag}={value}"])
    )


def _words(text: str) -> tuple[str, ...]:
    try:
        words = tuple(shlex.split(text))
    except ValueError as error:
        raise UsageError(f"--harness {text[:200]!r}: {error}") from error
    if not words:
        raise UsageError("--harness is empty; give how steps call bi-harness, such as .venv/bin/bi-harness")
    return words


def _light_queue(spec: Spec) -> str:
    """Of the first CPU: what has no device of its own to run on needs no GPU."""
    return next((one.queue for one in spec.devices.values() if one.kind == "cpu"), "default")


def _changed(given: str) -> list[str]:
    """The names of ``--changed-files``.

    Raises:
        UsageError: the file cannot be read, or is too large.
    """
    from bi_harness.reading import read_bounded

    if given == "-":
        data = sys.stdin.buffer.read(MAX_CHANGED + 1)
    elif given.startswith("@"):
        try:
            data = read_bounded(given[1:], MAX_CHANGED)
        except (OSError, ValueError) as error:
            why = getattr(error, "strerror", None) or error
            raise UsageError(f"cannot read --changed-files {given[:400]}: {why}") from error
    else:
        return [name for name in given.replace(",", "\n").splitlines() if name]
    if len(data) > MAX_CHANGED:
        raise UsageError(f"--changed-files has more than {MAX_CHANGED // 2**20} MiB")
    text = data.decode("utf-8", "surrogateescape")
    # `git diff -z` ends names with a NUL and quotes none.
    return [name for name in (text.split("\0") if "\0" in text else text.split("\n")) if name]


def _folder(suites: Path) -> str:
    """Where the suites lie in the repository that the pipeline is of."""
    try:
        return suites.resolve().relative_to(Path.cwd()).as_posix()
    except ValueError:
        return "suites"


def _told(files: Sequence[str], hit: Mapping[str, str], spec: Spec) -> list[str]:
    what = f"of {len(files):,} changed files" if len(files) != 1 else "of 1 changed file"
    if not files:
        return ["no changed file was named: everything runs"]
    if not hit:
        return [f"{what}, none touches a suite"]
    if set(hit) == set(spec.suites):
        first = dict.fromkeys(hit.values())
        return [f"{what}, some touch every suite ({', '.join(list(first)[:3])})"]
    return [f"{what}, some touch {', '.join(f'{suite} ({name})' for suite, name in hit.items())}"]


def _note(text: str) -> None:
    from bi_harness.cli.output import clean

    typer.echo(f"note: {clean(text)}", err=True)


def _measure(reports: Sequence[Path], hardware_file: Path | None) -> None:
    """``--measure``: certificates → ``times.yaml`` on stdout, and the runs that were read on stderr."""
    from bi_harness.buildkite.times import measure, render_times
    from bi_harness.report.read import find_certificates, read_certificate
    from bi_harness.spec.load import default_paths
    from bi_harness.spec.times import FILE, TimesFile, load_times

    hardware = default_paths(None, hardware_file, None).hardware
    current = hardware.with_name(FILE)
    if current.is_file() and current.stat().st_size == 0:
        # `> times.yaml` has emptied the file before this program starts.
        assumed = TimesFile().assumed_check_s
        _note(f"{current} is empty: assumed_check_s is the default, {assumed:g} s")
    else:
        assumed = load_times(hardware).assumed_check_s
    statements = [read_certificate(path) for path in find_certificates(reports)]
    # Below reports/ lie kept runs and a user's own: the output must say which of them it is made from.
    for statement in statements:
        _note(f"from run {statement.predicate.bi_harness.run_id}")
    sys.stdout.write(render_times(measure(statements, assumed)))
