"""``python -m benchmarks.certify``: vLLM's own determinism tests against ``bi-harness run``, on this GPU.

The same checkpoint, made before, the same attention backends, compiled (vLLM's tests know nothing else), each
side with compile caches of its own that are empty at its start. vLLM's side is
``tests/v1/determinism/test_batch_invariance.py`` of the release that is installed; ours are the checks that
look at no less (``coverage.py``), each with its control. vLLM and bi-harness are imported once before, so
that neither side reads from a cold disk, and bi-harness is compiled to bytecode, as vLLM is where pip has
installed it. Then one side runs after the other, ours first; or, on a host with two GPUs, both at once
(``--at-once``). Raw figures go to ``--out`` as JSON after each side.
"""

from __future__ import annotations

import argparse
import compileall
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path

import typer

import bi_harness
from benchmarks.certify import vllm_tests
from benchmarks.certify.command import Place, side_by_side, usable_cores
from benchmarks.certify.coverage import COUNTERPARTS, checks_for
from benchmarks.certify.sides import Side, ours, theirs, told_ratio
from benchmarks.certify.workload import LOAD, PROFILE, with_load
from bi_harness.device.detect import detect
from bi_harness.engine.config import checkpoint_folder, checkpoint_spec
from bi_harness.engine.make import make_checkpoint
from bi_harness.runner.caches import model_cache
from bi_harness.spec.load import default_paths, load_spec

IMPORTS = "import torch._inductor.compile_fx, vllm.entrypoints.llm, vllm.v1.engine.core"
OUR_IMPORTS = (
    "import bi_harness.cli.run, bi_harness.runner.resume, bi_harness.report.write, bi_harness.pytest_plugin"
)


def main() -> None:
    """Measure both sides and print."""
    arguments = parsed()
    with ExitStack() as stack:
        if arguments.work is not None:
            arguments.work.mkdir(parents=True)
        work = arguments.work or Path(
            stack.enter_context(tempfile.TemporaryDirectory(prefix="bi-harness-bench-"))
        )
        benchmark = prepared(arguments, work.absolute())
        if arguments.at_once:
            places = side_by_side(detect(), usable_cores())
            with ThreadPoolExecutor(2) as pool:
                began = [pool.submit(benchmark.theirs, places[0]), pool.submit(benchmark.ours, places[1])]
                for one in began:
                    one.result()
        else:
            everywhere = Place(usable_cores())
            if arguments.only != "vllm":
                benchmark.ours(everywhere)
            if arguments.only != "bi-harness":
                benchmark.theirs(everywhere)
    tell(benchmark.found)


def parsed() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.certify", description=__doc__)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--model", default="qwen3-1.7b", help="id of models.yaml")
    parser.add_argument("--backend", action="append", default=[], help="attention backend; may be repeated")
    parser.add_argument(
        "--profile", help="of our side; by default a load no smaller than vLLM's, see workload.py"
    )
    parser.add_argument("--mode", default="default", help="of our side; vLLM's tests take vLLM's default")
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
    arguments.backend = arguments.backend or ["FLASH_ATTN"]
    return arguments


@dataclass(frozen=True, slots=True)
class Benchmark:
    """What is ready to be measured.

    Attributes:
        arguments: the command line.
        work: a folder.
        release: of the vLLM that is installed.
        checkpoint: that both sides run.
        found: figures, by side.
    """

    arguments: argparse.Namespace
    work: Path
    release: str
    checkpoint: Path
    found: dict[str, Side] = field(default_factory=dict)

    def ours(self, place: Place) -> None:
        """Measure ``bi-harness run``."""
        given = self.arguments
        chosen = checks_for(tuple(c.test for c in COUNTERPARTS))
        load = ["--profile", given.profile or PROFILE]
        if given.profile is None:
            load += ["--suites-dir", str(with_load(default_paths().suites, self.work / "suites"))]
        if given.layers is not None:
            load += ["--layers", str(given.layers)]
        flags = [
            *("--device", given.device, "--model", given.model, "--mode", given.mode),
            *("--suite", "batch_invariance", "--jobs", given.jobs, "--preload", *load),
            *("--weights", "synthetic", "-k", f"tp1 and ({' or '.join(chosen)})"),
            *(part for backend in given.backend for part in ("--backend", backend)),
            *given.rest,
        ]
        self._keep("bi-harness", ours(flags, given.engine_python, self.work, given.timeout, place))

    def theirs(self, place: Place) -> None:
        """Measure vLLM's tests."""
        given = self.arguments
        tests = vllm_tests.fetch(self.release, given.tests or self.work / "tests")
        side = theirs(
            tests, self.checkpoint, given.backend, given.engine_python, self.work, given.timeout, place
        )
        self._keep("vllm", side)

    def _keep(self, name: str, side: Side) -> None:
        self.found[name] = side
        if self.arguments.out is None:
            return
        told = {
            "vllm_release": self.release,
            "backends": self.arguments.backend,
            "layers": self.arguments.layers,
            "load": self.arguments.profile or LOAD,
            **{name: asdict(figures) for name, figures in self.found.items()},
        }
        self.arguments.out.write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")


def prepared(arguments: argparse.Namespace, work: Path) -> Benchmark:
    """Make the checkpoint, import both sides once meanwhile, and have bytecode of a checkout's bi-harness.

    Raises:
        UsageError: see ``make_checkpoint``.
        subprocess.CalledProcessError: there is no vLLM, or something else cannot be imported.
    """
    python = arguments.engine_python
    with subprocess.Popen([python, "-c", IMPORTS], stdout=subprocess.DEVNULL) as imports:
        release = subprocess.check_output(
            [python, "-c", "import vllm.version as v; print(v.__version__)"], text=True
        )
        checkpoint = make_model(arguments.model, arguments.layers, python)
        compileall.compile_dir(str(Path(bi_harness.__file__).parent), quiet=2)
        subprocess.run([sys.executable, "-c", OUR_IMPORTS], check=True)
    if imports.returncode:
        raise subprocess.CalledProcessError(imports.returncode, imports.args)
    return Benchmark(arguments, work, release.split()[-1].partition("+")[0], checkpoint)


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


def tell(found: Mapping[str, Side]) -> None:
    """Print the figures."""
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
