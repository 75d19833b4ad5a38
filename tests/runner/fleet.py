"""A stand-in run of several units, in shards or whole; on request with a clock that stands still."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.runner.standin import Standin

MODEL = """\
models:
  tiny:
    synthetic: true
    config: {model_type: q, num_hidden_layers: 4, hidden_size: 64, num_attention_heads: 4, vocab_size: 999}
    suites: [core]
    memory_gib: 0.02
    max_model_len: 2048
    dp: [1, 2]
    devices: [cpu]
"""
STILL = "TESTS_STANDING_CLOCK"
"""The variable under which times, durations and the run's id are the same in every run."""

_SITE = f'''\
import os

if os.environ.get("{STILL}"):
    from bi_harness.runner import journal

    TIME = "2026-01-14T09:15:00.000Z"
    write = journal.Journal.write

    def still(self, event):
        changes = {{"time": TIME}}
        if event.type == "run_started":
            changes["run_id"] = "20260114T091500Z-abcdef"
        if event.type == "unit_finished":
            changes["duration_s"] = 2.0
        if event.type == "check_finished":
            changes["result"] = event.result.model_copy(update={{"duration_s": 1.0}})
        write(self, event.model_copy(update=changes))

    journal.Journal.write = still
'''


def write_fleet(standin: Standin, **tests: str) -> Standin:
    """A model in two data parallel sizes: two units that run, and as many that a rule excludes."""
    standin.write(**tests)
    models = standin.root / "models.yaml"
    models.write_text(MODEL)
    hardware = standin.root / "hardware.yaml"
    hardware.write_text(
        hardware.read_text().replace("    memory_gib: 8\n", "    memory_gib: 8\n    dp: [1, 2]\n")
    )
    suite = standin.suite / "suite.yaml"
    suite.write_text(suite.read_text().replace("engine: shared\n", "engine: shared\ndata_parallel: true\n"))
    standin.environment()
    (standin.root / "site" / "sitecustomize.py").write_text(_SITE)
    return standin


def ran(standin: Standin, *arguments: str, out: str = "out", code: int = 0, **environ: str) -> Path:
    """The folder of a run that ends with this code."""
    folder = standin.root / out
    got, told, err = standin.finish("run", "--json", *arguments, **{"BI_HARNESS_OUT": str(folder), **environ})
    assert got == code, err
    return Path(json.loads(told)["run"])


def merge(standin: Standin, runs: Sequence[Path], *arguments: str, code: int = 0) -> Path:
    """The folder that runs were merged to."""
    out = standin.root / "merged"
    got, told, err = standin.finish("merge", *map(str, runs), "--out", str(out), "--json", *arguments)
    assert got == code, err
    return Path(json.loads(told)["run"])


def ours(run: Path) -> dict[str, Any]:
    """What a run's certificate says."""
    told: dict[str, Any] = json.loads((run / "certificate.json").read_text())["predicate"]["bi_harness"]
    return told


def files(run: Path, *without: str) -> dict[str, bytes]:
    """All files of a run's folder, by name, but for those below some."""
    return {
        name: path.read_bytes()
        for path in sorted(run.rglob("*"))
        if path.is_file() and not (name := path.relative_to(run).as_posix()).startswith(without or ("//",))
    }
