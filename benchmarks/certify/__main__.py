"""``python -m benchmarks.certify``: vLLM's own determinism tests against ``bi-harness run``, on this GPU.

The same checkpoint, made before, the same attention backends, compiled (vLLM's tests know nothing else), each
side with compile caches of its own that are empty at its start. vLLM's side is
``tests/v1/determinism/test_batch_invariance.py`` of the release that is installed; ours are the checks that
look at no less (``coverage.py``), each with its control. One side runs after the other, ours first, so that
what a host reads from its disk for the first time counts against us; or, on a host with two GPUs, both at
once (``--at-once``). Raw figures go to ``--out`` as JSON after each side.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import typer
from junitparser import JUnitXml

from benchmarks.certify import vllm_tests
from benchmarks.certify.command import Place, side_by_side, timed, usable_cores
from benchmarks.certify.coverage import COUNTERPARTS, checks_for
from benchmarks.certify.timeline import Shares, first_line, seconds, shares
from benchmarks.certify.workload import LOAD, PROFILE, with_load
from bi_harness.device.detect import detect
from bi_harness.engine.config import checkpoint_folder, checkpoint_spec
from bi_harness.engine.make import make_checkpoint
from bi_harness.runner.caches import model_cache
from bi_harness.spec.load import default_paths, load_spec

# Imported before pytest: without it, vLLM's tests end in a circular import.
RUN_TESTS = "import vllm.config, sys, pytest; sys.exit(pytest.main(sys.argv[1:]))"
ENGINE = re.compile(r"Initializing a V1 LLM engine")


@dataclass(frozen=True, slots=True)
class Side:
    """One side's figures. ``busy``: the share of samples in which a GPU ran a kernel; ``ended``: whether it
    came to its end by itself, rather than by the limit of time; ``cores``: that it could use."""

    wall_s: float
    checks: int
    passed: int
    failed: int
    other: int
    engine_starts: int
    busy: float | None
    exit_code: int
    ended: bool = True
    cores: int = 0
    cases: dict[str, str] = field(default_factory=dict)
    shares: Shares | None = None

    @property
    def checks_a_minute(self) -> float:
        """Checks, or tests, with a verdict."""
        return 60 * (self.passed + self.failed) / self.wall_s


def environment(folder: Path, python_path: str) -> dict[str, str]:
    """This process's environment, with empty caches for all that vLLM compiles."""
    return {
        **os.environ,
        "VLLM_CACHE_ROOT": str(folder / "vllm"),
        "TORCHINDUCTOR_CACHE_DIR": str(folder / "inductor"),
        "TRITON_CACHE_DIR": str(folder / "triton"),
        "PYTHONPATH": os.pathsep.join(filter(None, (python_path, os.environ.get("PYTHONPATH", "")))),
    }


def theirs(
    tests: Path,
    checkpoint: Path,
    backends: Sequence[str],
    python: str,
    work: Path,
    timeout_s: float,
    place: Place,
) -> Side:
    """Run vLLM's tests of these backends."""
    report, log = work / "vllm.xml", work / "vllm.log"
    command = [
        *(python, "-c", RUN_TESTS, str(tests / "test_batch_invariance.py"), "-k", " or ".join(backends)),
        *("-s", "-p", "no:cacheprovider", f"--junitxml={report}", "--rootdir", str(tests)),
    ]
    env = {**environment(work / "vllm-caches", str(tests)), "VLLM_TEST_MODEL": str(checkpoint)}
    ran = timed(command, env, log, timeout_s, place)
    cases = {}
    for suite in JUnitXml.fromfile(str(report)) if report.exists() else ():
        for case in suite:
            kinds = [type(result).__name__.lower() for result in case.result]
            cases[case.name] = kinds[0] if kinds else "passed"
    outcomes = list(cases.values())
    return Side(
        wall_s=ran.wall_s,
        checks=len(cases),
        passed=outcomes.count("passed"),
        failed=outcomes.count("failure"),
        other=len(cases) - outcomes.count("passed") - outcomes.count("failure"),
        engine_starts=len(ENGINE.findall(log.read_text(encoding="utf-8", errors="replace"))),
        busy=ran.busy,
        exit_code=ran.exit_code,
        ended=ran.ended,
        cores=len(place.cores),
        cases=cases,
    )


def ours(arguments: Sequence[str], python: str, work: Path, timeout_s: float, place: Place) -> Side:
    """Run the checks, and account for the time by their journal."""
    out, log = work / "reports", work / "bi-harness.log"
    command = [
        *(sys.executable, "-m", "bi_harness.cli", "run", *arguments),
        *("--engine-python", python, "--out", str(out)),
    ]
    began = time.time()
    ran = timed(command, {**os.environ}, log, timeout_s, place)
    runs = sorted(out.glob("*/*/events.jsonl"))
    if len(runs) != 1:
        raise SystemExit(
            f"bi-harness left {len(runs)} runs (exit code {ran.exit_code}); its output is in {log}"
        )
    events = [json.loads(line) for line in runs[0].read_text(encoding="utf-8").splitlines()]
    results = {
        f"{e['result']['cell']}::{e['result']['check']}": e["result"]["status"]
        for e in events
        if e["type"] == "check_finished"
    }
    statuses = list(results.values())
    ready = [e for e in events if e["type"] == "engine_ready"]
    return Side(
        wall_s=ran.wall_s,
        checks=len(statuses),
        passed=statuses.count("pass"),
        failed=statuses.count("fail"),
        other=len(statuses) - statuses.count("pass") - statuses.count("fail"),
        engine_starts=len(ready),
        busy=ran.busy,
        exit_code=ran.exit_code,
        ended=ran.ended,
        cores=len(place.cores),
        cases=results,
        shares=shares(events, began, began + ran.wall_s, first_lines(ready, runs[0].parent / "logs")),
    )


def first_lines(ready: Sequence[Mapping[str, Any]], logs: Path) -> dict[float, float]:
    """By the time at which an engine was ready, when vLLM wrote the first line of its log."""
    found = {}
    for event in ready:
        at, start_s = seconds(event["time"]), float(event["arm"]["start_s"])
        unit = event["arm"]["unit"].replace("/", "_")
        for path in logs.glob(f"{unit}*-{event['arm']['arm']}.log"):
            line = first_line(path.read_text(encoding="utf-8", errors="replace"), at)
            if line is not None and at - start_s - 1 <= line <= at:
                found[at] = line
    return found


def make_model(model: str, layers: int | None, python: str) -> Path:
    """The checkpoint that both sides run, where ``bi-harness run --weights synthetic`` looks for it.

    Raises:
        UsageError: see ``make_checkpoint``.
    """
    paths = default_paths()
    entry = load_spec(paths.models, paths.hardware, paths.suites).models[model]
    spec = checkpoint_spec(entry, "synthetic", layers)
    assert spec is not None  # synthetic weights always have one
    folder = Path(checkpoint_folder(str(model_cache(os.environ)), spec))
    make_checkpoint(entry, layers, folder, python)
    return folder


def told_ratio(found: Mapping[str, Side]) -> str:
    """How many times faster our side is; an empty text where that is not known."""
    if len(found) < 2 or not found["bi-harness"].ended:
        return ""
    ratio = found["vllm"].wall_s / found["bi-harness"].wall_s
    if found["vllm"].ended:
        return f"ratio: {ratio:.2f} times faster"
    return f"ratio: at least {ratio:.2f} times faster: vLLM's side had not ended by then"


def main() -> None:
    """Measure both sides and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.certify", description=__doc__)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--model", default="qwen3-1.7b", help="id of models.yaml")
    parser.add_argument("--backend", action="append", default=[], help="attention backend; may be repeated")
    parser.add_argument(
        "--profile", help="of our side; by default a load no smaller than vLLM's, see workload.py"
    )
    parser.add_argument("--mode", default="compile", help="of our side; vLLM's tests are compiled")
    parser.add_argument("--layers", type=int, help="of the checkpoint that both sides run; all by default")
    parser.add_argument("--jobs", default="auto")
    parser.add_argument("--engine-python", default=sys.executable)
    parser.add_argument("--tests", type=Path, help="folder with vLLM's tests, where there is no network")
    parser.add_argument("--only", choices=["vllm", "bi-harness"], help="one side, which gives no ratio")
    parser.add_argument(
        "--at-once", action="store_true", help="both at the same time, each on a GPU and half of the cores"
    )
    parser.add_argument("--timeout", type=float, default=3600, help="seconds for each side")
    parser.add_argument("--out", type=Path, help="JSON with the raw figures")
    parser.add_argument("--work", type=Path, help="keep both sides' logs and reports in this new folder")
    parser.add_argument("rest", nargs="*", help="more flags for `bi-harness run`, after --")
    arguments = parser.parse_args()
    backends = arguments.backend or ["FLASH_ATTN"]
    python = arguments.engine_python

    release = subprocess.check_output(
        [python, "-c", "import vllm.version as v; print(v.__version__)"], text=True
    )
    release = release.split()[-1].partition("+")[0]
    with ExitStack() as stack:
        if arguments.work is not None:
            arguments.work.mkdir(parents=True)
        work = arguments.work or Path(
            stack.enter_context(tempfile.TemporaryDirectory(prefix="bi-harness-bench-"))
        )
        work = work.absolute()
        found: dict[str, Side] = {}

        def write() -> None:
            if arguments.out is None:
                return
            told = {
                "vllm_release": release,
                "backends": backends,
                "layers": arguments.layers,
                "load": arguments.profile or LOAD,
                **{side: asdict(figures) for side, figures in found.items()},
            }
            arguments.out.write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")

        checkpoint = make_model(arguments.model, arguments.layers, python)

        def run_ours(place: Place) -> None:
            chosen = checks_for(tuple(c.test for c in COUNTERPARTS))
            load = ["--profile", arguments.profile or PROFILE]
            if arguments.profile is None:
                load += ["--suites-dir", str(with_load(default_paths().suites, work / "suites"))]
            if arguments.layers is not None:
                load += ["--layers", str(arguments.layers)]
            flags = [
                *("--device", arguments.device, "--model", arguments.model, "--mode", arguments.mode),
                *("--suite", "batch_invariance", "--jobs", arguments.jobs, "--preload", *load),
                *("--weights", "synthetic", "-k", f"tp1 and ({' or '.join(chosen)})"),
                *(part for backend in backends for part in ("--backend", backend)),
                *arguments.rest,
            ]
            found["bi-harness"] = ours(flags, python, work, arguments.timeout, place)
            write()

        def run_theirs(place: Place) -> None:
            tests = vllm_tests.fetch(release, arguments.tests or work / "tests")
            found["vllm"] = theirs(tests, checkpoint, backends, python, work, arguments.timeout, place)
            write()

        if arguments.at_once:
            places = side_by_side(detect(), usable_cores())
            with ThreadPoolExecutor(2) as pool:
                began = [pool.submit(run_theirs, places[0]), pool.submit(run_ours, places[1])]
                for one in began:
                    one.result()
        else:
            everywhere = Place(usable_cores())
            if arguments.only != "vllm":
                run_ours(everywhere)
            if arguments.only != "bi-harness":
                run_theirs(everywhere)
    for name, side in found.items():
        busy = "not known" if side.busy is None else f"{side.busy:.0%}"
        typer.echo(
            f"{name}: {side.wall_s:.0f} s, {side.checks} checks ({side.passed} passed, {side.failed} failed, "
            f"{side.other} other), {side.checks_a_minute:.1f} a minute, {side.engine_starts} engine starts, "
            f"GPU busy {busy}, exit code {side.exit_code}"
            f"{'' if side.ended else ', ended by the limit of time'}"
        )
        if side.shares is not None:
            for kind, value in asdict(side.shares).items():
                typer.echo(f"  {kind:<14} {value:7.1f}  {value / side.shares.wall_s:6.1%}")
    if ratio := told_ratio(found):
        typer.echo(ratio)


if __name__ == "__main__":
    main()
