"""Runs of the real thing: ``bi-harness run`` on a real vLLM on this CPU."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import re
import subprocess
import sys
import time
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import yaml

from tests.runner.standin import MARK, marked

ROOT = Path(__file__).resolve().parents[2]
SMALL = {"prompts": 8, "steps": 8, "top_k": 5, "longest_prompt": 600, "batch_sizes": [3, 8]}
REPORTS = ("certificate.json", "certificate.html", "certificate.md", "junit.xml", "cells.parquet")


def engine_python() -> str | None:
    """The interpreter that has vLLM: the one that is named, else this one."""
    named = os.environ.get("BI_HARNESS_ENGINE_PYTHON")
    return named or (sys.executable if importlib.util.find_spec("vllm") else None)


@dataclass(frozen=True)
class Ran:
    """A run that has ended."""

    code: int
    out: Path
    stderr: str
    seconds: float
    left: tuple[str, ...]

    @property
    def folder(self) -> Path:
        (folder,) = self.out.glob("cpu/*")
        return folder

    @property
    def predicate(self) -> dict[str, Any]:
        told: dict[str, Any] = json.loads((self.folder / "certificate.json").read_text())["predicate"]
        return told

    @property
    def ours(self) -> dict[str, Any]:
        ours: dict[str, Any] = self.predicate["bi_harness"]
        return ours

    def checks(self, **wanted: str) -> list[dict[str, Any]]:
        """The checks that ran, of one model, mode or check where that is given."""
        return [
            c
            for c in self.ours["checks"]
            if c["status"] != "skip" and set(wanted.values()) <= {*c["cell"].split("/"), c["check"]}
        ]

    def digests(self) -> dict[str, str]:
        """sha256 of each report."""
        return {n: hashlib.sha256((self.folder / n).read_bytes()).hexdigest() for n in REPORTS}


class Harness:
    """``bi-harness`` with a cache of its own, so that nothing but this session's runs is in it."""

    def __init__(self, root: Path, python: str) -> None:
        self.root, self.python = root, python

    def start(self, *arguments: str, mark: str, out: Path, **environ: str) -> subprocess.Popen[str]:
        clean = {k: v for k, v in os.environ.items() if not k.startswith(("BI_HARNESS_", "VLLM_", "PYTEST_"))}
        return subprocess.Popen(
            [sys.executable, "-m", "bi_harness.cli", *arguments],
            env={
                **clean,
                MARK: mark,
                "BI_HARNESS_ENGINE_PYTHON": self.python,
                "BI_HARNESS_CACHE": str(self.root / "cache"),
                "BI_HARNESS_OUT": str(out),
                "BI_HARNESS_DEVICE": "cpu",
                # An engine more for each failing unit, where that is not the point.
                "BI_HARNESS_LOCALIZE": "0",
                **environ,
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            stdin=subprocess.DEVNULL,
            text=True,
            cwd=ROOT,
        )

    def run(self, *arguments: str, timeout_s: float = 900, **environ: str) -> Ran:
        """One whole ``bi-harness run``."""
        mark, began = uuid.uuid4().hex, time.monotonic()
        out = self.root / mark
        process = self.start("run", *arguments, mark=mark, out=out, **environ)
        _, err = process.communicate(timeout=timeout_s)
        left = of_run(mark, out)
        print(
            f"\nbi-harness run {' '.join(arguments)}: {process.returncode}, {time.monotonic() - began:.0f} s"
        )
        print(err)
        return Ran(process.returncode, out, err, time.monotonic() - began, left)

    def spec(
        self, name: str, *, invariance: str | None = None, checks: int = 1, **timeouts: int
    ) -> list[str]:
        """A copy of the YAML with a small workload; the arguments that name it.

        Args:
            invariance: of the device ``cpu``, in YAML's short form; the shipped one by default.
            checks: how many checks the suite has, each the same.
            timeouts: over those of ``suite.yaml``.
        """
        folder = self.root / f"spec-{name}"
        suite = folder / "suites" / "batch_invariance"
        suite.mkdir(parents=True)
        (folder / "models.yaml").write_text((ROOT / "models.yaml").read_text())
        text = (ROOT / "hardware.yaml").read_text()
        if invariance is not None:
            # As text: YAML 1.1 of PyYAML would read the keys on and off as true and false.
            before, _, rest = text.partition("  cpu:\n")
            block = re.compile(r"(?m)^    invariance:\n(?:      .*\n)+")
            assert block.search(rest)
            text = f"{before}  cpu:\n{block.sub(f'    invariance: {invariance}{chr(10)}', rest, count=1)}"
        (folder / "hardware.yaml").write_text(text)
        real = ROOT / "suites" / "batch_invariance"
        settings = yaml.safe_load((real / "suite.yaml").read_text())
        settings["profiles"] = {"smoke": SMALL}
        settings["timeouts"] |= timeouts
        check = next(c for c in settings["checks"] if c["id"] == "bs1_vs_bsN")
        settings["checks"] = [check]
        text = (real / "test_bs1_vs_bsN.py").read_text()
        for number in range(2, checks + 1):
            again = {"id": f"again_{number}", "test": f"test_again_{number}.py::test_again_{number}"}
            settings["checks"].append({**check, **again})
            again_text = text.replace("test_bs1_vs_bsN(", f"test_again_{number}(")
            (suite / f"test_again_{number}.py").write_text(again_text)
        (suite / "suite.yaml").write_text(yaml.safe_dump(settings))
        (suite / "test_bs1_vs_bsN.py").write_text(text)
        paths = {"models-file": "models.yaml", "hardware-file": "hardware.yaml", "suites-dir": "suites"}
        return [word for flag, path in paths.items() for word in (f"--{flag}", str(folder / path))]


def of_run(mark: str, out: Path) -> tuple[str, ...]:
    """The live processes of a run: by its mark in their environment, or its folder on their command line."""
    found = {p.pid: f"{p.pid} {p.name()}" for p in marked(mark)}
    for process in psutil.process_iter():
        try:
            if process.status() != psutil.STATUS_ZOMBIE and str(out) in " ".join(process.cmdline()):
                found[process.pid] = f"{process.pid} {process.cmdline()}"
        except psutil.Error:
            continue
    return tuple(found.values())
