"""A year of nights × 2,000 cells: ``python -m benchmarks.dashboard [--nights N] [--cells N] [--full]``.

Certificates are made by the project's own builder, from results of the runs kept in ``reports/``: devices
that change vLLM and torch, regressions that come and go, errors, nights that are missing. Printed are
seconds, wall and CPU (which is what compares where others use the cores too):

- ``nightly``: what a night costs once there is a history: its certificates verified, the year's site written;
- ``verify``: what each check of a new certificate costs, and with ``--full`` the whole year from its files;
- ``first paint`` and ``grid``: in a headless Chromium, from disk, where there is one.

The history of the nights before is made of the same certificates without writing and verifying each;
``--full`` does that, too, and needs some 10 GB of disk and many minutes.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import io
import json
import os
import random
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

from benchmarks.scale import ROOT
from bi_harness.certificate.build import build
from bi_harness.certificate.events import (
    CheckFinished,
    EngineReady,
    Event,
    PlannedChecks,
    RunFinished,
    RunStarted,
    UnitFinished,
)
from bi_harness.certificate.records import CheckResult
from bi_harness.certificate.statement import Statement
from bi_harness.certificate.verify import Examined
from bi_harness.cli import main as cli
from bi_harness.matrix.collector import no_collection
from bi_harness.report.dashboard import history
from bi_harness.report.dashboard.rows import Row, row_of
from bi_harness.report.dashboard.site import MARKER
from bi_harness.runner.journal import JOURNAL, read

KEPT = ROOT / "reports" / "h200" / "0.25.1"
PASSING, FAILING = KEPT / "20261121T090556Z-b9ea69", KEPT / "20261121T090241Z-212dcc"

LIMIT_BUILD_S, LIMIT_PAINT_S = 20.0, 1.0

AS_OF = date(2026, 11, 21)
DEVICES = ("a100", "b200", "cpu", "h100", "h200", "l4")
MODELS = (
    *("qwen3-1.7b", "qwen3-8b", "qwen3-30b-a3b", "llama-3.1-8b-instruct", "llama-3.3-70b-instruct"),
    *(
        "gpt-oss-20b",
        "gpt-oss-120b",
        "deepseek-v3.1",
        "kimi-k2",
        "glm-4.5",
        "minimax-m2",
        "phi-4",
        "gemma-3-12b",
    ),
    *("mistral-small-3.2", "granite-4.0-h-small"),
)
BACKENDS = ("FLASH_ATTN", "TRITON_ATTN", "FLASHINFER", "FLEX_ATTENTION")
SIZES = ("tp1-dp1", "tp2-dp1", "tp1-dp2", "tp4-dp1")
SUITES = {
    "batch_invariance": ("bs1_vs_bsN", "needle", "permutation", "staggered", "sampling", "prefix_cache"),
    "eagle_dp": ("parallel", "eagle", "eagle_batches"),
    "online": ("completions", "streaming", "chat"),
    "compile_startup": ("startup",),
    "nvfp4": ("selection", "bs1_vs_bsN"),
}
RELEASES = (
    (0, "0.24.2", "2.10.0"),
    (70, "0.25.1", "2.11.0"),
    (190, "0.26.0", "2.11.0"),
    (300, "0.27.0", "2.12.1"),
)

T = TypeVar("T")


@dataclass(frozen=True)
class Seeds:
    """Results and events of kept runs."""

    start: RunStarted
    passing: CheckResult
    failing: CheckResult
    ready: tuple[EngineReady, ...]


def seeds() -> Seeds:
    """From ``reports/``."""
    good, _ = read(PASSING / JOURNAL)
    bad, _ = read(FAILING / JOURNAL)
    results = [event.result for event in good if isinstance(event, CheckFinished)]
    return Seeds(
        start=next(event for event in good if isinstance(event, RunStarted)),
        passing=next(result for result in results if result.status == "pass"),
        failing=next(
            event.result
            for event in bad
            if isinstance(event, CheckFinished) and event.result.status == "fail"
        ),
        ready=tuple(event for event in [*bad, *good] if isinstance(event, EngineReady)),
    )


def matrix(cells: int) -> dict[str, list[str]]:
    """So many cells, spread over the devices: their ids, by device."""
    found: dict[str, list[str]] = {device: [] for device in DEVICES}
    every = [
        f"{model}/{backend}/{size}/{mode}/{suite}"
        for model in MODELS
        for suite in SUITES
        for size in SIZES
        for backend in BACKENDS
        for mode in ("eager", "compile")
    ]
    for i in range(cells):
        device = DEVICES[i % len(DEVICES)]
        found[device].append(f"{device}/{every[i // len(DEVICES) * 7 % len(every)]}")
    return found


class Story:
    """What goes wrong, and when: the same for the same seed."""

    def __init__(self, nights: int, seed: int = 7) -> None:
        self._random = random.Random(seed)
        self.nights = nights
        chosen = self._random
        self.down = {(device, n) for device in DEVICES for n in range(nights) if chosen.random() < 0.012}
        self.down |= {("b200", n) for n in range(max(0, nights - 45), max(0, nights - 38))}
        self.down |= {("l4", n) for n in range(max(0, nights - 6), nights)}
        self.spells = [
            ("h200", "TRITON_ATTN", "eager", 0.55, 0.62),
            ("a100", "FLEX_ATTENTION", "compile", 0.2, 0.34),
            ("h100", "FLASHINFER", "compile", 0.82, 2.0),
            ("b200", "FLASH_ATTN", "eager", 0.93, 2.0),
            ("cpu", "TRITON_ATTN", "eager", 0.4, 0.43),
        ]

    def kind(self, cell: str, night: int) -> str:
        """What becomes of a cell in a night."""
        device, _, backend, size, mode, suite = cell.split("/")
        chance = random.Random(f"{cell} {night}").random()
        always = random.Random(cell).random()
        if size == "tp4-dp1" and device in ("cpu", "l4"):
            return "skip"
        if always < 0.004:
            return "fail"
        at = night / self.nights
        for one, of, in_mode, first, last in self.spells:
            if (
                (device, backend, mode) == (one, of, in_mode)
                and first <= at < last
                and suite == "batch_invariance"
            ):
                return "fail"
        if chance < 0.0015:
            return "error"
        return "inconclusive" if chance < 0.0022 or (always > 0.995 and at > 0.7) else "pass"


def events(
    seed: Seeds, story: Story, device: str, cells: list[str], night: int, day: date
) -> Iterator[Event]:
    """One device's night."""
    began = datetime(day.year, day.month, day.day, 1, 30, tzinfo=UTC)
    stamp = began.isoformat().replace("+00:00", "Z")
    shift = DEVICES.index(device)
    _, vllm, torch = max(release for release in RELEASES if release[0] <= max(0, night - shift))
    provenance = {**seed.start.provenance, "vllm": {"version": vllm}, "torch": {"version": f"{torch}+cu130"}}
    plan, results = [], []
    for cell in cells:
        suite = cell.rpartition("/")[2]
        kind = story.kind(cell, night)
        rule = "not-enough-gpus" if kind == "skip" else None
        plan.append(
            PlannedChecks(
                cell=cell,
                unit=cell,
                checks=SUITES[suite],
                rule=rule,
                reason="It takes 4 GPUs." if rule else "",
            )
        )
        if not rule:
            results += [
                _result(seed, cell, check, kind if i % 2 == 0 else "pass")
                for i, check in enumerate(SUITES[suite])
            ]
    yield seed.start.model_copy(
        update={
            "time": stamp,
            "run_id": f"{began:%Y%m%dT%H%M%SZ}-{device}",
            "device": {**seed.start.device, "id": device},
            "scope": seed.start.scope.model_copy(
                update={"profile": "nightly", "filters": {}, "weights": "named", "models": {}}
            ),
            "provenance": provenance,
            "plan": tuple(plan),
        }
    )
    wobble = random.Random(f"{device} {night}")
    for ready in seed.ready:
        start = ready.arm.start_s * (0.9 + 0.2 * wobble.random()) * (1.35 if vllm == "0.26.0" else 1.0)
        arm = ready.arm.model_copy(update={"start_s": start, "unit": cells[0]})
        told = {**ready.provenance, "vllm": provenance["vllm"], "torch": provenance["torch"]}
        yield ready.model_copy(update={"time": stamp, "arm": arm, "provenance": told})
    for result in results:
        yield CheckFinished(time=stamp, result=result)
    for one in plan:
        yield UnitFinished(time=stamp, unit=one.unit, outcome="completed", duration_s=60.0)
    length = timedelta(minutes=95 + 4 * shift + 25 * wobble.random() + (30 if vllm == "0.26.0" else 0))
    yield RunFinished(time=(began + length).isoformat().replace("+00:00", "Z"), interrupted=False)


def _result(seed: Seeds, cell: str, check: str, kind: str) -> CheckResult:
    where: dict[str, Any] = {"cell": cell, "check": check}
    if kind == "fail":
        return seed.failing.model_copy(update=where)
    if kind == "error":
        reason = "The engine did not answer for 600 s and was ended."
        return CheckResult(**where, status="error", reason=reason, log="logs/unit-1/engine.log")
    if kind == "inconclusive":
        reason = "The control did not diverge: the workload cannot tell."
        return seed.passing.model_copy(
            update={**where, "status": "inconclusive", "reason": reason, "control": None}
        )
    return seed.passing.model_copy(update=where)


def statements(nights: int, cells: int, which: Callable[[int], bool]) -> Iterator[tuple[str, Statement]]:
    """The certificates of those nights, with the folder of each."""
    seed, story, by_device = seeds(), Story(nights), matrix(cells)
    for night in range(nights):
        day = AS_OF - timedelta(days=nights - 1 - night)
        for device in DEVICES if which(night) else ():
            if (device, night) not in story.down:
                told = list(events(seed, story, device, by_device[device], night, day))
                yield f"{device}/{told[0].run_id}", build(told, "0" * 64)  # type: ignore[union-attr]


def as_row(name: str, statement: Statement) -> Row:
    """As though it had been verified: for the nights before, whose verification is not what is measured."""
    digest = hashlib.sha256(name.encode()).hexdigest()
    examined = Examined(name, statement, digest, (), (), (), journal=False)
    return row_of(examined, digest, name)


def clocked(stage: Callable[[], T]) -> tuple[T, dict[str, float]]:
    """A stage and its seconds, those of its processes with them."""
    wall, cpu = time.perf_counter(), _cpu()
    result = stage()
    return result, {"wall_s": time.perf_counter() - wall, "cpu_s": _cpu() - cpu}


def _cpu() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def build_site(reports: Path, site: Path, *flags: str) -> None:
    """By the command."""
    command = [
        "dashboard",
        "build",
        str(reports),
        "--out",
        str(site),
        "--as-of",
        AS_OF.isoformat(),
        "--json",
        *flags,
    ]
    with contextlib.redirect_stdout(io.StringIO()):
        code = cli.main(command)
    if code != 0:
        raise SystemExit(f"dashboard build ended with {code}")


def make_year(folder: Path, nights: int, cells: int) -> tuple[Path, Path]:
    """A site whose history has all nights but the last, and that night's certificates; site and reports."""
    site, reports = folder / "site", folder / "reports"
    with no_collection():
        rows = [as_row(*one) for one in statements(nights, cells, lambda night: night < nights - 1)]
        site.mkdir(parents=True)
        (site / MARKER).write_text("")
        (site / history.NAME).write_bytes(history.render(history.joined(history.table_of(rows)), ()))
    write_nights(reports, nights, cells, lambda night: night == nights - 1)
    return site, reports


def write_nights(reports: Path, nights: int, cells: int, which: Callable[[int], bool]) -> int:
    """Those nights' certificates as files; returns how many checks they have."""
    checks = 0
    for name, statement in statements(nights, cells, which):
        (reports / name).mkdir(parents=True)
        (reports / name / "certificate.json").write_text(statement.to_json(), encoding="utf-8")
        checks += len(statement.predicate.bi_harness.checks)
    return checks


def measure(folder: Path, nights: int, cells: int, *, full: bool) -> dict[str, Any]:
    """All figures."""
    found: dict[str, Any] = {"nights": nights, "cells": cells, "load": os.getloadavg()[0]}
    (site, reports), found["made"] = clocked(lambda: make_year(folder, nights, cells))
    _, found["nightly"] = clocked(lambda: build_site(reports, site, "--keep"))
    _, found["again"] = clocked(lambda: build_site(reports, site, "--keep"))
    found["bytes"] = {
        "site": sum(path.stat().st_size for path in site.rglob("*") if path.is_file()),
        "index": (site / "index.html").stat().st_size,
        "history": (site / history.NAME).stat().st_size,
    }
    found["peak_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    if full:
        whole = folder / "whole"
        checks = write_nights(whole, nights, cells, lambda night: True)
        _, told = clocked(lambda: build_site(whole, folder / "site-full", "--rebuild"))
        found["full"] = {**told, "checks": checks, "cpu_us_a_check": 1e6 * told["cpu_s"] / checks}
    found["paint"] = paint(site)
    return found


def paint(site: Path) -> dict[str, Any]:
    """First paint and the grid of the page, opened from disk: the slowest of five, in seconds."""
    from benchmarks.trust.browser import executable, why_none

    if why := why_none():
        return {"why_not": why}
    from playwright.sync_api import sync_playwright

    seen = []
    with sync_playwright() as playwright:
        flags = ["--no-sandbox"] if os.geteuid() == 0 else []
        browser = playwright.chromium.launch(executable_path=executable(), args=flags)
        for _ in range(5):
            page = browser.new_page(viewport={"width": 1440, "height": 900})
            page.goto((site / "index.html").as_uri(), wait_until="load")
            page.wait_for_timeout(100)
            seen.append(page.evaluate(_PAINT))
            page.close()
        browser.close()
    return {name: round(max(one[name] for one in seen), 3) for name in seen[0]}


_PAINT = """() => ({
  first_paint_s: (performance.getEntriesByName('first-paint')[0]?.startTime ?? 1e6) / 1000,
  contentful_s: (performance.getEntriesByName('first-contentful-paint')[0]?.startTime ?? 1e6) / 1000,
  grid_s: (performance.getEntriesByName('grid-shown')[0]?.startTime ?? 1e6) / 1000,
  rows: document.querySelectorAll('#view .g-row').length,
})"""


def main() -> int:
    """Measure and print; 1 where a limit is not kept."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--nights", type=int, default=365)
    parser.add_argument("--cells", type=int, default=2_000)
    parser.add_argument("--full", action="store_true", help="also verify the whole year from files")
    parser.add_argument("--keep", type=Path, help="leave the site here")
    parser.add_argument("--json", action="store_true", help="print JSON")
    arguments = parser.parse_args()
    if arguments.keep:
        arguments.keep.mkdir(parents=True)
        found = measure(arguments.keep, arguments.nights, arguments.cells, full=arguments.full)
    else:
        with tempfile.TemporaryDirectory() as folder:
            found = measure(Path(folder), arguments.nights, arguments.cells, full=arguments.full)
    if arguments.json:
        sys.stdout.write(json.dumps(found, indent=2) + "\n")
    else:
        for name, value in found.items():
            told = (
                {k: round(v, 2) for k, v in value.items() if not isinstance(v, str)}
                if isinstance(value, dict)
                else value
            )
            sys.stdout.write(f"{name:10} {told}\n")
    slow = found["nightly"]["wall_s"] > LIMIT_BUILD_S
    late = any(found["paint"].get(name, 0.0) > LIMIT_PAINT_S for name in ("first_paint_s", "grid_s"))
    return 1 if slow or late else 0


if __name__ == "__main__":
    sys.exit(main())
