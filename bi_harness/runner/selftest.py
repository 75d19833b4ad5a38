"""``bi-harness selftest``: the suite against each planted fault, and against none.

Each run is one of ``bi-harness run``, on a real CPU engine in a process of its own, with the fault planted in
the treatment. It has no control: a fault is caught when a check fails, and a clean run that fails is a false
alarm, whatever stock vLLM does.
"""

from __future__ import annotations

import os
import queue
import secrets
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path

from bi_harness.certificate.events import Event
from bi_harness.certificate.power import (
    FaultResult,
    SelfTest,
    failed,
    first_difference,
    localization_score,
    score,
    without_answer,
)
from bi_harness.certificate.statement import Statement, planted_faults
from bi_harness.errors import UsageError
from bi_harness.exits import ExitCode
from bi_harness.invariance.faults.registry import FAULTS, PLANT_VARIABLE, Fault
from bi_harness.runner.caches import SharedStart
from bi_harness.runner.hold import WORK
from bi_harness.runner.journal import now
from bi_harness.runner.power_digest import power_digest
from bi_harness.runner.preload import preloading
from bi_harness.runner.run import RunOptions, execute, prepare
from bi_harness.spec.load import Spec
from bi_harness.spec.types import Mode

DEVICE = "cpu"


@dataclass(frozen=True, slots=True)
class Clean:
    """How a suite runs without a fault.

    Attributes:
        model: it runs on.
        modes: that runs take in turn.
        runs: how many a full selftest makes.
    """

    model: str
    modes: tuple[Mode, ...]
    runs: int


CLEAN = {
    "batch_invariance": Clean("qwen3-tiny", ("eager", "compile"), 20),
    # Its smoke profile does not compile on a CPU, and a run starts twelve engines.
    "eagle_dp": Clean("llama-eagle-tiny", ("eager",), 5),
    "nvfp4": Clean("qwen3-nvfp4-tiny", ("eager", "compile"), 4),
    "compile_startup": Clean("qwen3-tiny", ("compile",), 5),
    # Two servers a run, and compiled ones take twice as long to start.
    "online": Clean("qwen3-tiny", ("eager",), 3),
    "ops": Clean("qwen3-tiny", ("eager",), 5),
    "module_invariance": Clean("qwen3-tiny", ("eager",), 5),
}
"""The suites that have planted faults."""

Watching = Callable[[str], AbstractContextManager[Callable[[Event], None]]]
"""Called with a run's heading; gives what takes its events."""


@dataclass(frozen=True, slots=True)
class SelfTestOptions:
    """What was asked for.

    Attributes:
        suite: that is tried.
        faults: to try, in the order of the registry.
        clean: runs without a fault, each with another seed, in the suite's modes in turn.
        mode: that the faults are tried in.
        seed: of the workload; that of the first clean run.
        out: a folder for the runs is made under ``out/selftest``.
        engine_python: the interpreter that has vLLM; ``None`` for this one.
        jobs: runs side by side, each on its share of the CPU's cores.
        localize: whether each fault that is caught is traced to a module, on another engine.
    """

    suite: str
    faults: tuple[Fault, ...]
    clean: int
    mode: Mode
    seed: int
    out: Path
    engine_python: str | None
    jobs: int = 1
    localize: bool = False


@dataclass(frozen=True, slots=True)
class _Run:
    """One run of a suite: its place on disk, its heading, what is planted, and where."""

    name: str
    heading: str
    model: str
    suite: str
    mode: Mode
    seed: int
    fault: str | None = None
    only: str | None = None


def chosen(suite: str, names: Sequence[str] | None) -> tuple[Fault, ...]:
    """The suite's faults of that name; all of them without names.

    Raises:
        UsageError: there is no such suite, or no fault of a name in it.
    """
    if suite not in CLEAN:
        raise UsageError(f'"{suite}" has no planted faults. There are some for: {", ".join(CLEAN)}')
    faults = {fault.id: fault for fault in FAULTS.values() if fault.suite == suite}
    for name in names or ():
        if name not in faults:
            raise UsageError(f'there is no fault "{name}". There are: {", ".join(faults)} ({suite})')
    return tuple(fault for fault in faults.values() if not names or fault.id in names)


def selftest(
    options: SelfTestOptions, spec: Spec, watching: Watching, *, stopped: Callable[[], bool]
) -> tuple[Path, SelfTest]:
    """Run the suite with each fault, then without any.

    Returns:
        The folder of the runs, and what they say. A run that was not made because of ``stopped`` is missing.

    Raises:
        UsageError: no engine, or nothing to do.
        NothingToRun: the suite has no check for the model.
    """
    if not options.faults and not options.clean:
        raise UsageError("selftest with no fault and no clean run has nothing to do")
    if given := os.environ.get(PLANT_VARIABLE):
        raise UsageError(f"{PLANT_VARIABLE}={given} is set: selftest plants faults itself; unset it")
    folder = (
        options.out.absolute() / "selftest" / f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{secrets.token_hex(3)}"
    )
    shares = core_shares(sorted(os.sched_getaffinity(0)), options.jobs)
    free: queue.SimpleQueue[tuple[int, ...]] = queue.SimpleQueue()
    for share in shares:
        free.put(share)

    def one(run: _Run, shared: SharedStart) -> tuple[_Run, Statement] | None:
        if stopped():
            return None
        cores = free.get()
        try:
            return run, _execute(run, options, spec, folder, watching, stopped, cores, shared)
        finally:
            free.put(cores)

    started = now()
    faults: list[FaultResult] = []
    unsound: list[str] = []
    clean = alarms = 0
    vllm = ""
    # Forked engines of several processes were never compared with others, bit by bit.
    fork = not spec.suites[options.suite].data_parallel
    with _shared_start(folder, fork=fork) as shared, ThreadPoolExecutor(options.jobs) as pool:
        futures = [pool.submit(one, run, shared) for run in _runs(options)]
        try:
            made = [outcome for future in futures if (outcome := future.result()) is not None]
        except BaseException:
            # A run that could not even begin: the others could not either.
            pool.shutdown(cancel_futures=True)
            raise
    for run, statement in made:
        vllm = vllm or _vllm(statement)
        why = without_answer(statement, run.fault)
        if run.fault is not None:
            faults.append(_fault_result(FAULTS[run.fault], statement, why))
        elif failed(statement) and not planted_faults(statement.predicate.bi_harness.effective):
            clean, alarms = clean + 1, alarms + 1
        elif why:
            unsound.append(f"{run.name}: {why}")
        else:
            clean += 1
    return folder, SelfTest(
        suite=options.suite,
        suite_digest=power_digest(spec, options.suite),
        device=DEVICE,
        mode=options.mode,
        profile="smoke",
        vllm=vllm,
        started=started,
        finished=now(),
        faults=tuple(faults),
        score=score(faults),
        localization=localization_score(faults),
        clean_runs=clean,
        false_alarms=alarms,
        unsound=tuple(unsound),
    )


def complete(result: SelfTest) -> str:
    """Why the result may not stand for the suite's power; empty when it may."""
    known = {fault.id for fault in FAULTS.values() if fault.suite == result.suite}
    if missing := known - {fault.id for fault in result.faults}:
        return f"{len(missing)} of {len(known)} faults were not tried"
    if errors := [fault for fault in result.faults if fault.error]:
        return f"{errors[0].id} gave no answer: {errors[0].error}"
    if result.unsound:
        return f"a clean run gave no answer: {result.unsound[0]}"
    if result.clean_runs < (needed := CLEAN[result.suite].runs):
        return f"{result.clean_runs} clean runs, and {needed} are needed"
    return ""


def exit_code(result: SelfTest, *, interrupted: bool) -> ExitCode:
    """What the command ends with."""
    if result.false_alarms or any(not f.caught and not f.error for f in result.faults):
        return ExitCode.NOT_CERTIFIED
    if interrupted:
        return ExitCode.INTERRUPTED
    if result.unsound or any(f.error for f in result.faults):
        return ExitCode.INCONCLUSIVE
    return ExitCode.CERTIFIED


def core_shares(cores: Sequence[int], jobs: int) -> list[tuple[int, ...]]:
    """The cores of each of ``jobs`` runs side by side: equal shares, the first ones larger by what is left.

    Returns:
        One empty share, for all cores, where there is one job.

    Raises:
        UsageError: there are fewer cores than jobs.
    """
    if jobs < 1 or jobs > len(cores):
        raise UsageError(f"--jobs {jobs}: give 1 to {len(cores)}, the number of cores")
    if jobs == 1:
        return [()]
    size, more = divmod(len(cores), jobs)
    starts = [i * size + min(i, more) for i in range(jobs + 1)]
    return [tuple(cores[a:b]) for a, b in pairwise(starts)]


def _runs(options: SelfTestOptions) -> Iterator[_Run]:
    for number, fault in enumerate(options.faults, start=1):
        heading = f"fault {number}/{len(options.faults)} {fault.id}: {fault.title}"
        where = (fault.model, fault.suite, options.mode, options.seed)
        yield _Run(fault.id, heading, *where, fault.id, fault.only)
    clean = CLEAN[options.suite]
    for number in range(options.clean):
        name = f"clean-{number + 1:02}"
        heading = f"clean run {number + 1}/{options.clean}"
        mode = clean.modes[number % len(clean.modes)]
        yield _Run(name, heading, clean.model, options.suite, mode, options.seed + number)


@contextmanager
def _shared_start(folder: Path, *, fork: bool) -> Iterator[SharedStart]:
    """What the engines of all runs share until the end of the block.

    Args:
        folder: of the self-test.
        fork: whether engines are forked from a process that has vLLM imported.
    """
    work = folder / WORK
    try:
        with preloading(work, folder / "logs") if fork else nullcontext() as socket:
            yield SharedStart(work / "shared", socket)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _execute(
    run: _Run,
    options: SelfTestOptions,
    spec: Spec,
    folder: Path,
    watching: Watching,
    stopped: Callable[[], bool],
    cores: tuple[int, ...],
    shared: SharedStart,
) -> Statement:
    prepared = prepare(
        RunOptions(
            device=DEVICE,
            out=folder / run.name,
            models=(run.model,),
            suites=(run.suite,),
            expression=run.only,
            modes=(run.mode,),
            seed=run.seed,
            engine_python=options.engine_python,
            fault=run.fault,
            control=False,
            cores=cores,
            localize=options.localize and run.fault is not None,
            shared=shared,
        ),
        spec,
    )
    with watching(run.heading) as watch:
        return execute(prepared, watch, stopped=stopped)[1]


def _fault_result(fault: Fault, statement: Statement, why: str) -> FaultResult:
    checks = failed(statement)
    first = first_difference(statement.predicate.bi_harness.checks)
    # Of a fault that was not there, or not it alone, nothing was caught.
    engines = statement.predicate.bi_harness.effective
    planted = all(arm.config.get("planted_fault") == fault.id for arm in engines)
    caught = bool(checks and engines) and planted
    return FaultResult.model_validate(
        {
            "id": fault.id,
            "class": fault.title,
            "source": fault.source,
            "model": fault.model,
            "caught": caught,
            "checks": tuple(check.check for check in checks),
            "first_request": first[0] if first and caught else None,
            "first_step": first[1] if first and caught else None,
            "module": fault.module,
            "localized": _localized(statement),
            # Once it is caught, checks that could not run beside it change nothing.
            "error": "" if caught else why,
        }
    )


def _localized(statement: Statement) -> str | None:
    """The module that was named; empty where the rerun named none, ``None`` where there was none."""
    told = statement.predicate.bi_harness.localized
    return told[0].module if told else None


def _vllm(statement: Statement) -> str:
    return next((str(arm.config["vllm"]) for arm in statement.predicate.bi_harness.effective), "")
