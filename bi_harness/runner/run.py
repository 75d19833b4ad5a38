"""``bi-harness run``, from what was asked to the certificate, as small steps."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import Any

from bi_harness.certificate.build import build
from bi_harness.certificate.events import (
    Event,
    PlannedChecks,
    RunFinished,
    RunStarted,
    ShardStarted,
    plan_digest,
)
from bi_harness.certificate.records import Waiver
from bi_harness.certificate.statement import EndpointScope, Power, Scope, Statement
from bi_harness.device.facts import HostFacts
from bi_harness.engine.config import checkpoint_spec
from bi_harness.engine.endpoint import endpoint_url
from bi_harness.errors import NothingToRun, SpecError, UsageError
from bi_harness.invariance.faults.registry import PLANT_VARIABLE
from bi_harness.matrix.cells import Unit
from bi_harness.matrix.expand import expand
from bi_harness.matrix.select import Selection, narrowed, select
from bi_harness.matrix.shards import Shard, narrowed_to, parts
from bi_harness.matrix.waivers import unknown_waivers
from bi_harness.matrix.weights import unit_weights
from bi_harness.runner.caches import SharedStart, model_cache
from bi_harness.runner.context import Context, SelectedCell
from bi_harness.runner.earlier import Earlier
from bi_harness.runner.engines import safe_name
from bi_harness.runner.execution import Executor, Job
from bi_harness.runner.executors import LOCAL, LocalExecutor, executor_named
from bi_harness.runner.hold import WORK, held, unit_folder
from bi_harness.runner.journal import JOURNAL, Journal, now, read
from bi_harness.runner.known_power import known_power
from bi_harness.runner.local import MARGIN_S, UnitTask
from bi_harness.runner.needs import need
from bi_harness.runner.preload import preloading
from bi_harness.runner.provenance import harness_provenance
from bi_harness.spec.load import Spec
from bi_harness.spec.models import ModelSpec
from bi_harness.spec.operators import Amount
from bi_harness.spec.types import Profile, Weights
from bi_harness.spec.waivers import WAIVERS, Waivers
from bi_harness.workload.plan import plan_workload

ENDPOINT_SUITE = "online"
"""The suite whose checks ask nothing of a server but answers."""

OF_THE_MOMENT = ("out", "command", "waivers", "jobs", "localize", "preload", "shared")
"""Options that may be others when a run is resumed, or that are compared as what they say."""


@dataclass(frozen=True, slots=True)
class RunOptions:
    """What was asked for.

    Attributes:
        device: id of ``hardware.yaml``, or ``auto``.
        out: the run's folder is made under ``out/<device>/``.
        models, suites, backends, modes, expression: the selection; ``None`` for everything.
        profile, weights, layers, seed: see ``Scope``.
        engine_python: the interpreter that has vLLM; ``None`` for this one.
        command: the command line, for the certificate.
        fault: planted in the treatment (see ``bi_harness.invariance.faults``): never certified.
        control: whether the control runs: without it no check passes.
        endpoint: base URL of a running server to certify in place of one that is started.
        control_endpoint: the same for its control.
        cores: the CPU cores that units keep to, for several runs side by side; empty for all.
        waivers: failures that are let be; ``None`` where no file is given.
        jobs: units at once, at most; ``None`` for as many as the host takes.
        shard: the part of the plan that runs; ``None`` for all of it.
        localize: whether the first failure of each unit is traced to where it begins.
        executor: ``local``: this host; ``ray``: the nodes of a Ray cluster.
        preload: whether engines are forked from a process that has vLLM imported, see ``runner.preload``.
        shared: what the run shares with other runs; ``None`` for nothing, as every run that certifies has it.
    """

    device: str
    out: Path
    models: Sequence[str] | None = None
    suites: Sequence[str] | None = None
    backends: Sequence[str] | None = None
    modes: Sequence[str] | None = None
    expression: str | None = None
    profile: Profile = "smoke"
    weights: Weights = "named"
    layers: int | None = None
    seed: int = 0
    engine_python: str | None = None
    command: Sequence[str] = field(default_factory=lambda: tuple(sys.argv))
    fault: str | None = None
    control: bool = True
    endpoint: str | None = None
    control_endpoint: str | None = None
    cores: tuple[int, ...] = ()
    waivers: Waivers | None = None
    jobs: int | None = 1
    shard: Shard | None = None
    localize: bool = False
    executor: str = LOCAL
    preload: bool = False
    shared: SharedStart | None = None

    def environment(self) -> dict[str, str]:
        """Of the units."""
        return {**os.environ, **({PLANT_VARIABLE: self.fault} if self.fault else {})}

    def filters(self) -> dict[str, str]:
        """The selection flags in use, for the scope."""
        given = {
            "model": self.models,
            # Of an endpoint there is no other.
            "suite": self.suites if self.endpoint is None else None,
            "backend": self.backends,
            "mode": self.modes,
        }
        found = {name: " ".join(values) for name, values in given.items() if values}
        return {**found, **({"k": self.expression} if self.expression else {})}


@dataclass(frozen=True, slots=True)
class Prepared:
    """A run that is known to make sense, before anything was started or written."""

    options: RunOptions
    spec: Spec
    device: str
    host: HostFacts
    python: str
    vllm: str | None
    selection: Selection
    power: tuple[Power, ...] = ()
    executor: Executor = field(default_factory=LocalExecutor)
    nodes: tuple[dict[str, Any], ...] = ()
    shard: ShardStarted | None = None

    @property
    def own(self) -> Selection:
        """What of the selection runs here: all of it, but for a shard."""
        return self.selection if self.shard is None else narrowed_to(self.selection, self.shard.units)


def prepare(options: RunOptions, spec: Spec) -> Prepared:
    """Check what was asked for against the host, the engine and the YAML.

    Raises:
        WrongDevice: the host is not the device that was named.
        UsageError: no engine, a selection or workload that cannot be, a waiver that names nothing in the
            matrix, or a suite's damaged self-test.
        NothingToRun: the selection leaves nothing.
    """
    options = _at_endpoint(options)
    if options.waivers is not None and (wrong := unknown_waivers(spec, options.waivers)):
        raise SpecError("\n".join(wrong))
    executor = executor_named(options.executor)
    there = executor.find(options.device, spec.devices, options.engine_python)
    device, engine = there.device, there.engine
    kind = spec.devices[device].kind
    if engine.vllm_version is None and options.control_endpoint is None:
        raise UsageError(
            f"{engine.executable} has no vLLM: install bi-harness[{kind}] there, or name the interpreter "
            "that has it with --engine-python"
        )
    plan = expand(
        spec,
        device,
        vllm_version=engine.vllm_version or spec.reference(device),
        profile=options.profile,
        weights=options.weights,
        layers=options.layers,
        gpus=there.gpus,
        models=options.models,
        suites=options.suites,
        backends=options.backends,
        modes=options.modes,
    )
    selection = select(plan, spec, options.expression)
    if options.endpoint is not None:
        selection = narrowed(selection, spec, ENDPOINT_SUITE)
    if not selection.plan.units:
        filters = " ".join(f"{name}={value}" for name, value in options.filters().items())
        skipped = sum(p.status == "skip" for p in selection.plan.cells)
        raise NothingToRun(
            f"nothing to run on {device} ({filters or 'no filters'}; {skipped} cells are skipped by rules): "
            "see `bi-harness plan` with the same flags"
        )
    for unit in selection.plan.units:
        for cell in unit.cells:
            # Raised here rather than from a unit: a mistake in the YAML is no engine's error.
            model, suite = spec.models[cell.model], spec.suites[cell.suite]
            if suite.workload == "operators":
                Amount.of(suite, options.profile)
            else:
                plan_workload(model, suite, profile=options.profile, seed=options.seed)
            named = checkpoint_spec(model, options.weights, options.layers) is None
            if named and model.path is not None and options.executor == LOCAL:
                _see_checkpoint(model.id, Path(model.path), spec.paths.models)
    suites = dict.fromkeys(cell.suite for unit in selection.plan.units for cell in unit.cells)
    # A run without a control certifies nothing; and a self-test must be able to replace what is recorded.
    power = known_power(spec, suites) if options.control else ()
    run = Prepared(
        options,
        spec,
        device,
        there.host,
        engine.executable,
        engine.vllm_version,
        selection,
        power,
        executor=executor,
        nodes=there.nodes,
    )
    return replace(run, shard=_shard(run))


def _shard(run: Prepared) -> ShardStarted | None:
    if run.options.shard is None:
        return None
    index, count = run.options.shard.index, run.options.shard.count
    units = parts(unit_weights(run.selection, run.spec), count)[index - 1]
    return ShardStarted(index=index, count=count, plan=plan_digest(_plan(run.selection)), units=units)


def _at_endpoint(options: RunOptions) -> RunOptions:
    """The options with the endpoints' URLs as reports show them, and the one suite that asks servers.

    Raises:
        UsageError: flags that do not go together, or a URL that is none or holds credentials.
    """
    if options.endpoint is not None and options.executor != LOCAL:
        raise UsageError("--endpoint asks a server from this host: leave --executor out")
    if options.endpoint is None:
        if options.control_endpoint is not None:
            raise UsageError("--control-endpoint is the control of --endpoint: give that, too")
        return options
    if len(options.models or ()) != 1:
        raise UsageError(
            "--endpoint needs --model ID, one: which model of models.yaml does it serve? Its vocabulary "
            "makes the prompts, and its control runs it"
        )
    if set(options.suites or ()) - {ENDPOINT_SUITE}:
        raise UsageError(f"--endpoint: only the suite {ENDPOINT_SUITE} asks servers; leave --suite out")
    if options.environment().get(PLANT_VARIABLE):
        raise UsageError(f"--endpoint: {PLANT_VARIABLE} is for engines that bi-harness starts; unset it")
    url = endpoint_url(options.endpoint)
    control = endpoint_url(options.control_endpoint) if options.control_endpoint is not None else None
    if control == url:
        raise UsageError("--control-endpoint is --endpoint: a control is a server with invariance off")
    return replace(options, endpoint=url, control_endpoint=control, suites=(ENDPOINT_SUITE,))


def _see_checkpoint(model: str, folder: Path, source: Path) -> None:
    if not (folder / "config.json").is_file():
        problem = "is not there" if not folder.exists() else "has no config.json"
        raise UsageError(
            f"{source}: models.{model}.path: {folder} {problem}. Give the folder of a checkpoint, "
            "or run its shape with --weights synthetic"
        )


def execute(
    run: Prepared,
    watch: Callable[[Event], None],
    *,
    stopped: Callable[[], bool] = lambda: False,
    earlier: Earlier | None = None,
) -> tuple[Path, Statement]:
    """Run every unit and build the certificate from the journal.

    Args:
        run: what to run.
        watch: is called with each event after it is in the journal.
        stopped: whether to stop, asked all the time (see ``stop_signals``): the unit at hand and everything
            it started are ended, and the certificate is of a run that was interrupted.
        earlier: what is there of this run already: the rest is done.

    Returns:
        The run's folder and its certificate. The reports are not written yet.

    Raises:
        UsageError: when the folder cannot be made.
        InfrastructureError: when the journal cannot be written.
    """
    if earlier is not None:
        if not earlier.complete:
            _run_units(run, earlier.run_dir, watch, stopped, earlier)
        return earlier.run_dir, from_journal(earlier.run_dir)
    run_dir = make_run_dir(run.options.out, run.device)
    _run_units(run, run_dir, watch, stopped, None)
    return run_dir, from_journal(run_dir)


def _run_units(
    run: Prepared,
    run_dir: Path,
    watch: Callable[[Event], None],
    stopped: Callable[[], bool],
    earlier: Earlier | None,
) -> None:
    checks = run.own.checks
    with ExitStack() as stack:
        journal = stack.enter_context(Journal(run_dir / JOURNAL, new=earlier is None))
        if earlier is None:
            stack.enter_context(
                held(run_dir / JOURNAL, new=True)
            )  # ``resuming`` does it for a run that is resumed.

        writing = threading.Lock()

        def emit(event: Event) -> None:
            with writing:  # Units that run side by side write one after the other.
                journal.write(event)
                watch(event)

        if earlier is None:
            emit(run_started(run, run_dir.name))
        else:
            checks = earlier.left.checks
            watch(earlier.start)
            earlier.go_on(emit)
            shutil.rmtree(run_dir / WORK, ignore_errors=True)  # What it told is in the journal now.
        attempt = earlier.attempt if earlier is not None else 1
        units = {u.id: u for u in run.own.plan.units if any(cell.id in checks for cell in u.cells)}
        needs = {
            name: need(
                unit,
                run.spec,
                checks=checks,
                profile=run.options.profile,
                seed=run.options.seed,
                layers=run.options.layers,
            )
            for name, unit in units.items()
        }
        # A server that is there already is one, whoever asks it.
        jobs = run.options.jobs if run.options.endpoint is None else 1
        kind = run.spec.devices[run.device].kind
        preload = None
        if run.options.shared is not None and run.options.shared.preload is not None:
            preload = str(run.options.shared.preload)
        elif run.options.preload:
            preload = str(stack.enter_context(preloading(run_dir / WORK, _logs(run_dir, attempt))))
        run.executor.run(
            Job(needs, run.host, kind, jobs, run.options.environment(), localize=run.options.localize),
            lambda unit: _task(run, units[unit], checks, run_dir, attempt, preload),
            emit,
            stopped,
        )
        emit(RunFinished(time=now(), interrupted=stopped()))
    shutil.rmtree(run_dir / WORK, ignore_errors=True)


def from_journal(run_dir: Path) -> Statement:
    """The certificate of a run's folder: the journal's and nothing else's word.

    Raises:
        UsageError: when there is no journal or it is damaged.
    """
    return build(*read(run_dir / JOURNAL, progress=False))


def make_run_dir(out: Path, device: str) -> Path:
    """A new folder ``out/<device>/<time>-<random>``.

    Raises:
        UsageError: when it cannot be made.
    """
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
    folder = out.absolute() / safe_name(device) / f"{stamp}-{secrets.token_hex(3)}"
    try:
        folder.mkdir(parents=True)
        (folder / "logs").mkdir()
    except OSError as error:
        raise UsageError(
            f"cannot make the run's folder {folder}: {error.strerror or error}. Choose another with --out"
        ) from error
    return folder


def asked(run: Prepared) -> dict[str, Any]:
    """The options as they were given, in JSON's types, and what they were taken for on this host: what a run
    that is resumed is made of."""
    options = {
        name: str(value) if isinstance(value, Path) else list(value) if isinstance(value, tuple) else value
        for name, value in ((f.name, getattr(run.options, f.name)) for f in fields(RunOptions))
        if name not in OF_THE_MOMENT and (name, getattr(run.options, name)) != ("executor", LOCAL)
    }
    paths = {name: str(getattr(run.spec.paths, name).absolute()) for name in ("models", "hardware", "suites")}
    if run.options.waivers is not None:
        paths["waivers"] = str(run.options.waivers.path.absolute())
    if run.options.shard is not None:
        options["shard"] = [run.options.shard.index, run.options.shard.count]
    return {
        "options": {**options, "device": run.device, "engine_python": run.python},
        "paths": paths,
        "vllm": run.vllm,
    }


def options_from(told: Mapping[str, Any], given: RunOptions) -> RunOptions:
    """The inverse of ``asked``.

    Args:
        told: by ``asked``.
        given: has what is of the moment: where to write, the command.

    Raises:
        UsageError: it is no such thing.
    """
    known = {f.name for f in fields(RunOptions)}
    options: dict[str, Any] = dict(told.get("options", {}))
    if unknown := options.keys() - known:
        raise UsageError(f"the journal has options that this bi-harness does not know: {sorted(unknown)}")
    values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in options.items()}
    if values.get("shard") is not None:
        values["shard"] = Shard(*values["shard"])
    return replace(given, **values)


def run_started(run: Prepared, run_id: str) -> RunStarted:
    """The first event of a run."""
    options, selection = run.options, run.selection
    device = run.spec.devices[run.device]
    return RunStarted(
        time=now(),
        run_id=run_id,
        device={
            "id": run.device,
            "title": device.title,
            "kind": device.kind,
            "invariance": device.invariance.model_dump(),
            "host": _host(run.host),
            **({"nodes": list(run.nodes)} if run.nodes else {}),
        },
        scope=Scope(
            profile=options.profile,
            filters=options.filters(),
            weights=options.weights,
            models={
                model: weights_of(run.spec.models[model], options)
                for model in dict.fromkeys(c.model for u in selection.plan.units for c in u.cells)
            },
            layers=options.layers,
            seed=options.seed,
            endpoint=EndpointScope(url=options.endpoint, control=options.control_endpoint)
            if options.endpoint is not None
            else None,
        ),
        plan=_plan(selection),
        provenance=_provenance(run),
        power=run.power,
        waivers=tuple(Waiver(**entry.model_dump()) for entry in options.waivers.entries)
        if options.waivers is not None
        else (),
        asked=asked(run),
        shard=run.shard,
    )


def _plan(selection: Selection) -> tuple[PlannedChecks, ...]:
    return tuple(
        PlannedChecks(
            cell=planned.cell.id,
            unit=planned.unit,
            checks=selection.checks[planned.cell.id],
            rule=planned.rule if planned.status == "skip" else None,
            reason=planned.reason,
            source=planned.source,
        )
        for planned in selection.plan.cells
    )


def _provenance(run: Prepared) -> dict[str, Any]:
    found = harness_provenance(run.spec, run.options.command, run.options.environment())
    if (waivers := run.options.waivers) is not None:
        found["digests"] = {**found["digests"], WAIVERS: waivers.source.digest}
    return found


def weights_of(model: ModelSpec, options: RunOptions) -> str:
    """What weights run for a model, for a reader of the certificate."""
    if options.endpoint is not None:
        known = (
            "" if options.control_endpoint is not None else f" (its control's: {_weights(model, options)})"
        )
        return f"the endpoint's own, not verified{known}"
    return _weights(model, options)


def _weights(model: ModelSpec, options: RunOptions) -> str:
    if checkpoint_spec(model, options.weights, options.layers) is None:
        if model.path is not None:
            return model.path
        return f"{model.hf} at revision {model.revision or 'of the default branch'}"
    shrunk = f", {options.layers} of {model.layers} layers" if options.layers is not None else ""
    shape = f" in the shape of {model.hf}" if model.hf else ""
    return f"synthetic (seed {model.seed}){shape}{shrunk}"


def _host(host: HostFacts) -> dict[str, Any]:
    # By way of JSON's types: tuples become lists, as they will be when the journal is read back.
    data = asdict(host)
    return {k: list(v) if isinstance(v, tuple) else v for k, v in data.items()}


def unit_task(run: Prepared, cell: str, run_dir: Path) -> UnitTask:
    """The unit that serves a cell, with all its checks, and files below ``run_dir``.

    Raises:
        UsageError: the cell is not of the run.
    """
    for unit in run.selection.plan.units:
        if any(c.id == cell for c in unit.cells):
            return _task(run, unit, run.selection.checks, run_dir, 1, None)
    raise UsageError(f"{cell} is not of this run")


def _task(
    run: Prepared,
    unit: Unit,
    checks_of: Mapping[str, tuple[str, ...]],
    run_dir: Path,
    attempt: int,
    preload: str | None,
) -> UnitTask:
    options, spec = run.options, run.spec
    folder = unit_folder(run_dir, attempt, unit.id)
    suites = tuple(dict.fromkeys(cell.suite for cell in unit.cells))
    # A cell with nothing left to do stays: engines are as large as all cells of the unit need.
    checks = {cell: checks_of.get(cell.id, ()) for cell in unit.cells}
    # Where both arms do not fit, each takes turns with the other in every check.
    limits = [
        (spec.suites[cell.suite].check(name).starts, spec.suites[cell.suite].timeouts)
        for cell, names in checks.items()
        for name in names
    ]
    return UnitTask(
        unit=unit.id,
        context=Context(
            device=run.device,
            cells=tuple(SelectedCell(cell, names) for cell, names in checks.items()),
            profile=options.profile,
            weights=options.weights,
            layers=options.layers,
            seed=options.seed,
            engine_python=run.python,
            models=str(spec.paths.models.absolute()),
            hardware=str(spec.paths.hardware.absolute()),
            suites=str(spec.paths.suites.absolute()),
            spec_digests=dict(spec.digests),
            folder=str(folder),
            logs=str(_logs(run_dir, attempt)),
            run_dir=str(run_dir),
            journal=str(folder / JOURNAL),
            model_cache=str(model_cache(os.environ)),
            vllm=run.vllm or "",
            control=options.control and not options.environment().get(PLANT_VARIABLE),
            endpoint=options.endpoint,
            control_endpoint=options.control_endpoint,
            cores=options.cores,
            preload=preload,
            shared=str(options.shared.caches) if options.shared is not None else "",
        ),
        folder=folder,
        suites=tuple((spec.paths.suites / s).absolute() for s in suites),
        timeout_s=MARGIN_S + sum(starts * (limit.start_s + limit.check_s) for starts, limit in limits),
    )


def _logs(run_dir: Path, attempt: int) -> Path:
    return run_dir / "logs" if attempt == 1 else run_dir / "logs" / f"attempt-{attempt}"


class StopSignals:
    """Whether the run was told to stop: call it. ``again``: whether it was told so more than once."""

    def __init__(self) -> None:
        # Numbers, no ``threading.Event``: a second signal, while the first is noted, would wait for its lock.
        self._came = 0

    def __call__(self) -> bool:
        """Whether to stop."""
        return self._came > 0

    def again(self) -> bool:
        """Whether somebody is in a hurry."""
        return self._came > 1

    def note(self, signum: int, frame: FrameType | None) -> None:
        """A signal's handler."""
        self._came += 1


@contextmanager
def stop_signals() -> Iterator[StopSignals]:
    """Take Ctrl-C and SIGTERM (what a CI agent sends) as a wish that is asked for, never as an exception.

    An exception could come between an event that was read and its place in the journal, or while processes
    are being ended; and a second one, while the first is being dealt with.
    """
    wish = StopSignals()
    before = {number: signal.signal(number, wish.note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield wish
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
