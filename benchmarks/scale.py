"""How the host's side scales: ``python -m benchmarks.scale [--checks N ...] [--json]``.

For each number of checks, in a process of its own: a spec with as many models as it takes (copies of a
real one, on the shipped devices and suites) is loaded and planned; a journal is written in which each planned
check has the events and the evidence of a kept run on a GPU; and it is read, made a certificate, written as
every report, and verified. Prints seconds (wall and CPU), microseconds of CPU for each check, sizes, and the
peak of memory. CPU time is what compares where others use the cores too.
"""

from __future__ import annotations

import argparse
import io
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import yaml
from rich.console import Console

from bi_harness.certificate.build import build
from bi_harness.certificate.events import (
    CheckFinished,
    CheckProgress,
    CheckStarted,
    EngineReady,
    Event,
    PlannedChecks,
    RunFinished,
    RunStarted,
    UnitFinished,
    UnitStarted,
)
from bi_harness.certificate.records import CheckResult
from bi_harness.certificate.statement import Statement
from bi_harness.cli.examined import examined
from bi_harness.matrix.collector import no_collection
from bi_harness.matrix.expand import expand
from bi_harness.matrix.select import Selection, select
from bi_harness.report.console import print_result
from bi_harness.report.write import WRITERS, replace_file
from bi_harness.runner.journal import JOURNAL, Journal, read
from bi_harness.spec.load import Spec, load_spec

ROOT = Path(__file__).resolve().parents[1]
TEMPLATE = ROOT / "reports" / "h200" / "0.25.1" / "20261121T090556Z-b9ea69"
"""A run whose unit has fourteen checks, one of which failed."""

MODEL, DEVICE = "qwen3-1.7b", "h200"
SIZES = (1_000, 3_000, 10_000)

LIMIT_S, LIMIT_MB = 10.0, 1_024
"""For 10,000 checks, all stages together."""

T = TypeVar("T")


class Clock:
    """Seconds of each stage, in order; those of a name that comes again are added."""

    def __init__(self) -> None:
        self.stages: dict[str, dict[str, float]] = {}

    def __call__(self, name: str, stage: Callable[[], T]) -> T:
        wall, cpu = time.perf_counter(), time.process_time()
        result = stage()
        before = self.stages.get(name, {"wall_s": 0.0, "cpu_s": 0.0})
        self.stages[name] = {
            "wall_s": before["wall_s"] + time.perf_counter() - wall,
            "cpu_s": before["cpu_s"] + time.process_time() - cpu,
            "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        }
        return result


def models_file(count: int) -> str:
    """The shipped ``models.yaml`` with so many copies of one of its models behind it."""
    text = (ROOT / "models.yaml").read_text(encoding="utf-8")
    entry = yaml.safe_load(text)["models"][MODEL]
    shape = entry.pop("config")
    lines = []
    for i in range(count):
        # As a person would write it: an entry a model, with what all share written once.
        config = "*scaled" if i else f"&scaled {json.dumps(shape)}"
        body = json.dumps({**entry, "title": f"Model {i}"})[1:-1]
        lines.append(f"  scaled-{i}: {{config: {config}, {body}}}")
    return text.rstrip() + "\n" + "\n".join(lines) + "\n"


def plan(spec: Spec) -> Selection:
    """What ``run --profile nightly`` would do on a full host of the device."""
    expanded = expand(
        spec, DEVICE, vllm_version="0.25.1", profile="nightly", weights="synthetic", layers=None, gpus=8
    )
    return select(expanded, spec, None)


def journal_events(selection: Selection, checks: int) -> Iterator[Event]:
    """A run of the first ``checks`` checks of a plan: what a kept run tells, for each unit once more."""
    kept, _ = read(TEMPLATE / JOURNAL)
    start = next(event for event in kept if isinstance(event, RunStarted))
    ready = [event for event in kept if isinstance(event, EngineReady)]
    results = [event.result for event in kept if isinstance(event, CheckFinished)]
    progress = [event for event in kept if isinstance(event, CheckProgress)]
    per_check = len(progress) // len(results)
    planned: list[PlannedChecks] = []
    left = checks
    for cell in selection.plan.cells:
        names = selection.checks[cell.cell.id]
        if cell.status == "run" and left > 0:
            planned.append(PlannedChecks(cell=cell.cell.id, unit=cell.unit, checks=names[:left]))
            left -= len(planned[-1].checks)
        elif cell.status == "skip":
            planned.append(
                PlannedChecks(
                    cell=cell.cell.id,
                    unit=cell.unit,
                    checks=names,
                    rule=cell.rule,
                    reason=cell.reason,
                    source=cell.source,
                )
            )
    if left:
        raise SystemExit(f"the plan has {checks - left} checks, and {checks} are asked for")
    yield start.model_copy(update={"plan": tuple(planned)})
    units: dict[str, list[PlannedChecks]] = {}
    for one in planned:
        if one.rule is None:
            units.setdefault(one.unit, []).append(one)
    number = 0
    for unit, cells in units.items():
        yield UnitStarted(time=start.time, unit=unit)
        for event in ready:
            arm = event.arm.model_copy(update={"unit": unit})
            yield event.model_copy(update={"arm": arm})
        for one in cells:
            for check in one.checks:
                where = {"cell": one.cell, "check": check}
                yield CheckStarted(time=start.time, **where)
                for step in progress[:per_check]:
                    yield step.model_copy(update=where)
                result: CheckResult = results[number % len(results)].model_copy(update=where)
                yield CheckFinished(time=start.time, result=result)
                number += 1
        yield UnitFinished(time=start.time, unit=unit, outcome="completed", duration_s=60.0)
    yield RunFinished(time=start.time, interrupted=False)


def measure(checks: int) -> dict[str, Any]:
    """All stages, for so many checks, in this process."""
    clock = Clock()
    figures: dict[str, Any] = {"checks": checks}
    with tempfile.TemporaryDirectory() as root:
        folder = Path(root)
        models = folder / "models.yaml"
        models.write_text(models_file(-(-checks // 100)), encoding="utf-8")
        spec = clock("load", lambda: load_spec(models, ROOT / "hardware.yaml", ROOT / "suites"))
        selection = clock("plan", lambda: plan(spec))
        figures["events"] = _written(folder, selection, checks, clock)
        statement = _read_and_built(folder, clock)
        sizes = {JOURNAL: (folder / JOURNAL).stat().st_size}
        for name, writer in WRITERS.items():
            content = clock(name, no_collection()(lambda writer=writer: writer(statement)))  # type: ignore[misc]
            replace_file(folder / name, content)
            sizes[name] = len(content)
        clock("console", lambda: print_result(statement, Console(file=io.StringIO(), width=120)))
        genuine = clock("verify", lambda: examined(folder, ()).genuine)
        if not genuine:
            raise SystemExit("verify does not find the run genuine: the figures would be of something else")
    figures["verdict"] = statement.predicate.bi_harness.verdict
    figures["stages"] = clock.stages
    figures["bytes"] = sizes
    return figures


def _written(folder: Path, selection: Selection, checks: int, clock: Clock) -> int:
    written = 0
    made = journal_events(selection, checks)
    with Journal(folder / JOURNAL, new=True) as journal:
        # In batches: making the events is no part of writing them, and neither is keeping them all.
        while batch := list(islice(made, 2_000)):
            clock("journal, written", lambda batch=batch: [journal.write(event) for event in batch])  # type: ignore[misc]
            written += len(batch)
    return written


def _read_and_built(folder: Path, clock: Clock) -> Statement:
    told = clock("journal, read", lambda: read(folder / JOURNAL, progress=False))
    return clock("certificate", lambda: build(*told))


HOST = (
    "load",
    "plan",
    "journal, written",
    "journal, read",
    "certificate",
    "certificate.json",
    "certificate.html",
)
"""What the limit of time is for; the other stages are told."""


def main() -> int:
    """Measure each size in a process of its own, and print; 1 where a limit is not kept."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--checks", type=int, nargs="+", default=list(SIZES))
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--here", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.here:
        sys.stdout.write(json.dumps(measure(arguments.here)))
        return 0
    found = []
    for checks in arguments.checks:
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.scale", "--here", str(checks)],
            stdout=subprocess.PIPE,
            check=True,
            cwd=ROOT,
        )
        found.append(json.loads(done.stdout))
    if arguments.json:
        sys.stdout.write(json.dumps(found, indent=2) + "\n")
    else:
        for one in found:
            _print(one)
    return 0 if all(_within(one) for one in found) else 1


def _within(one: dict[str, Any]) -> bool:
    peak = max(one["stages"][name]["peak_mb"] for name in HOST)
    return sum(one["stages"][name]["cpu_s"] for name in HOST) <= LIMIT_S and peak <= LIMIT_MB


def _print(one: dict[str, Any]) -> None:
    checks = one["checks"]
    lines = [f"{checks:,} checks, {one['events']:,} events ({one['verdict']})"]
    for name, stage in one["stages"].items():
        lines.append(
            f"  {name:18} {stage['wall_s']:7.2f} s wall {stage['cpu_s']:7.2f} s CPU "
            f"{1e6 * stage['cpu_s'] / checks:9.1f} µs a check   peak {stage['peak_mb']:6.0f} MB"
        )
    total = sum(one["stages"][name]["cpu_s"] for name in HOST)
    every = sum(stage["cpu_s"] for stage in one["stages"].values())
    lines.append(
        f"  plan to page {total:.2f} s CPU, {1e6 * total / checks:.0f} µs a check; all {every:.2f} s"
    )
    lines += [f"  {name:18} {size / 1e6:8.1f} MB" for name, size in one["bytes"].items()]
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    sys.exit(main())
