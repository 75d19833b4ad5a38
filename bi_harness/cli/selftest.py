"""``bi-harness selftest``: what the suite catches, against planted faults and against none."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bi_harness.cli.options import AsJson, HardwareFile, ModelsFile, ModeName, SuitesDir
from bi_harness.cli.run import EnginePython, Out, Seed

if TYPE_CHECKING:
    from bi_harness.certificate.events import Event

Suite = Annotated[
    str | None,
    typer.Option("--suite", "-s", help="Suite to try; batch_invariance by default, with --check all suites."),
]
Faults = Annotated[list[str] | None, typer.Option("--fault", help="Only this fault (repeatable).")]
Clean = Annotated[
    int | None,
    typer.Option("--clean", min=0, help="Runs without a fault; as many as --record needs by default."),
]
FaultMode = Annotated[
    ModeName | None, typer.Option("--mode", help="Mode that the faults are tried in; the suite's first.")
]
Jobs = Annotated[
    int, typer.Option("--jobs", "-j", min=1, help="Runs side by side, each on its share of the cores.")
]
Record = Annotated[
    bool, typer.Option("--record", help="Keep the result with the suite; certificates then tell of it.")
]
Check = Annotated[
    bool,
    typer.Option(
        "--check", help="Run nothing; report which recorded self-tests are stale, incomplete or missing."
    ),
]

Localize = Annotated[
    bool,
    typer.Option(
        "--localize/--no-localize", help="Trace each fault that is caught to its module, on another engine."
    ),
]


def selftest(
    suite: Suite = None,
    fault: Faults = None,
    clean: Clean = None,
    mode: FaultMode = None,
    seed: Seed = 0,
    engine_python: EnginePython = None,
    out: Out = Path("reports"),
    jobs: Jobs = 1,
    localize: Localize = True,
    record: Record = False,
    check: Check = False,
    models_file: ModelsFile = None,
    hardware_file: HardwareFile = None,
    suites_dir: SuitesDir = None,
    as_json: AsJson = False,
) -> None:
    """Run the suite against each planted fault, and without one, on real CPU engines.

    Ends with 0 when every fault was caught and no clean run failed, 1 when not, 2 when interrupted,
    4 for a wrong flag or without an engine, 6 when a run gave no answer. With --check: 0 when the recorded
    self-test of every suite is complete and current, else 1.
    """
    from rich.console import Console

    from bi_harness.cli.output import warn, write_json
    from bi_harness.errors import UsageError
    from bi_harness.exits import ExitCode
    from bi_harness.report.selftest_view import print_power_check, print_selftest
    from bi_harness.report.write import replace_file
    from bi_harness.runner.known_power import record as keep
    from bi_harness.runner.power_check import check_power
    from bi_harness.runner.progress import watching
    from bi_harness.runner.run import stop_signals
    from bi_harness.runner.selftest import CLEAN, SelfTestOptions, chosen, complete, exit_code
    from bi_harness.runner.selftest import selftest as run_selftest
    from bi_harness.spec.load import default_paths, load_spec

    screen = Console(stderr=True)

    def say(text: str, style: str = "") -> None:
        screen.print(text, style=style, markup=False, highlight=False, emoji=False, soft_wrap=True)

    @contextmanager
    def headed(heading: str) -> Iterator[Callable[[Event], None]]:
        say(heading, style="bold")
        if jobs > 1:  # the lines of several runs would be mixed
            yield lambda event: None
            return
        with watching(screen) as watch:
            yield watch

    paths = default_paths(models_file, hardware_file, suites_dir)
    spec = load_spec(paths.models, paths.hardware, paths.suites)
    if check:
        if record or fault or clean is not None or mode is not None:
            raise UsageError("--check runs nothing. Leave out --fault, --clean, --mode and --record")
        checks = check_power(spec, None if suite is None else [suite])
        if as_json:
            write_json([found.model_dump(mode="json") for found in checks])
        print_power_check(checks, screen if as_json else Console())
        bad = any(found.problems for found in checks)
        raise typer.Exit(ExitCode.NOT_CERTIFIED if bad else ExitCode.CERTIFIED)
    suite = suite or "batch_invariance"
    faults = chosen(suite, fault)
    options = SelfTestOptions(
        suite=suite,
        faults=faults,
        clean=CLEAN[suite].runs if clean is None else clean,
        mode=CLEAN[suite].modes[0] if mode is None else mode.value,
        seed=seed,
        out=out,
        engine_python=engine_python,
        jobs=jobs,
        localize=localize,
    )
    with stop_signals() as stopped:
        folder, result = run_selftest(options, spec, headed, stopped=stopped)
        interrupted = stopped()
    path = replace_file(folder / "selftest.json", result.to_json())
    if as_json:
        write_json(result.model_dump(mode="json", by_alias=True))
    print_selftest(result, screen if as_json else Console())
    say(f"selftest.json: {path}")
    if record:
        if why := complete(result):
            warn(f"not recorded: {why}")
        else:
            say(f"recorded in {keep(spec, result)}")
    raise typer.Exit(exit_code(result, interrupted=interrupted))
