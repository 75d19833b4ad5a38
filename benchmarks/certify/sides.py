"""The two sides: vLLM's own tests of some attention backends, and ``bi-harness run`` on the same."""

from __future__ import annotations

import json
import os
import re
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from junitparser import JUnitXml

from benchmarks.certify.command import Place, Ran, timed
from benchmarks.certify.timeline import Shares, first_line, seconds, shares

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
    starts = len(ENGINE.findall(log.read_text(encoding="utf-8", errors="replace")))
    return counted(ran, place, cases, passed="passed", failed="failure", engine_starts=starts)


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
    ready = [e for e in events if e["type"] == "engine_ready"]
    side = counted(ran, place, results, passed="pass", failed="fail", engine_starts=len(ready))
    lines = first_lines(ready, runs[0].parent / "logs")
    return replace(side, shares=shares(events, began, began + ran.wall_s, lines))


def counted(
    ran: Ran, place: Place, cases: dict[str, str], *, passed: str, failed: str, engine_starts: int
) -> Side:
    """A side's figures.

    Args:
        ran: its command.
        place: where that could run.
        cases: what became of each of its checks.
        passed, failed: what that is called there.
        engine_starts: how many.
    """
    outcomes = list(cases.values())
    return Side(
        wall_s=ran.wall_s,
        checks=len(outcomes),
        passed=outcomes.count(passed),
        failed=outcomes.count(failed),
        other=len(outcomes) - outcomes.count(passed) - outcomes.count(failed),
        engine_starts=engine_starts,
        busy=ran.busy,
        exit_code=ran.exit_code,
        ended=ran.ended,
        cores=len(place.cores),
        cases=cases,
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


def told_ratio(found: Mapping[str, Side]) -> str:
    """How many times faster our side is; an empty text where that is not known."""
    if len(found) < 2 or not found["bi-harness"].ended:
        return ""
    ratio = found["vllm"].wall_s / found["bi-harness"].wall_s
    if found["vllm"].ended:
        return f"ratio: {ratio:.2f} times faster"
    return f"ratio: at least {ratio:.2f} times faster: vLLM's side had not ended by then"
