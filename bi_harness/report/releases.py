"""Certificates → ``releases.yaml`` and the page ``docs/releases.md``.

Pure: the same certificates give the same bytes, in whatever order they come.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from typing import Final

import yaml
from packaging.version import Version
from pydantic import ValidationError

from bi_harness.certificate.diff import device_of, vllm_of
from bi_harness.certificate.problems import first_problem
from bi_harness.certificate.statement import Statement, is_dirty, planted_faults
from bi_harness.errors import UsageError
from bi_harness.report.cellid import parse_cell_id
from bi_harness.report.facts import VERDICT_WORDS
from bi_harness.report.markdown import escape
from bi_harness.report.text import clean
from bi_harness.spec.releases import ReleasesFile, TriedRun

MAX_CELL: Final = 1_000
"""Characters of a table's cell on the page."""

STATUSES: Final = ("passed", "failed", "inconclusive", "error", "waived", "skip")


def unusable_because(statement: Statement) -> str | None:
    """Why a genuine certificate says nothing about a vLLM release; ``None`` for one that does."""
    result = statement.predicate.bi_harness
    if result.scope.endpoint is not None:
        return "it certifies a running server, whose vLLM is not verified"
    if result.shard is not None:
        return f"it is shard {result.shard.index} of {result.shard.count}: merge the shards first"
    if faults := planted_faults(result.effective):
        return f"a fault was planted: {', '.join(faults)}"
    if all(check.status == "skip" for check in result.checks):
        return "no check ran"
    return None


def tried_run(statement: Statement) -> TriedRun:
    """The entry of one certificate.

    Raises:
        UsageError: the certificate lacks a value that the entry needs, or has one that is not valid there.
    """
    result = statement.predicate.bi_harness
    ran = [parse_cell_id(check.cell) for check in result.checks if check.status != "skip"]
    harness = result.provenance.get("harness")
    harness = harness if isinstance(harness, Mapping) else {}
    commit = harness.get("git_commit")
    totals = result.totals
    try:
        return TriedRun.model_validate(
            {
                "vllm": vllm_of(statement),
                "torch": _version(result.provenance.get("torch")),
                "device": device_of(statement),
                "hardware": _hardware(result.device.get("host")),
                "scope": {
                    "profile": result.scope.profile,
                    "suites": _names(cell.suite for cell in ran),
                    "models": _names(cell.model for cell in ran),
                    "backends": _names(cell.backend for cell in ran),
                    "sizes": _names(cell.parallel for cell in ran),
                    "modes": _names(cell.mode for cell in ran),
                    "layers": result.scope.layers,
                    "expression": result.scope.filters.get("k") or None,
                },
                "verdict": result.verdict,
                "interrupted": result.interrupted,
                "checks": {name: getattr(totals, name) for name in STATUSES},
                "date": result.started[:10],
                "harness": _version(harness),
                "commit": commit[:12] if isinstance(commit, str) and commit else None,
                "dirty": is_dirty(result.provenance),
                "run": result.run_id,
            }
        )
    except ValidationError as error:
        raise UsageError(
            f"run {clean(result.run_id)}: the certificate has no valid {clean(first_problem(error))}"
        ) from error


def releases_of(statements: Iterable[Statement]) -> ReleasesFile:
    """The file's content: one entry per run, in the file's order.

    Raises:
        UsageError: see ``tried_run``; or two certificates of one run differ.
    """
    runs: dict[tuple[str, str], TriedRun] = {}
    for statement in statements:
        run = tried_run(statement)
        if runs.setdefault((run.device, run.run), run) != run:
            raise UsageError(f"run {clean(run.run)}: two certificates with different content")
    return ReleasesFile(runs=tuple(sorted(runs.values(), key=_order)))


def _order(run: TriedRun) -> tuple[Version, str, str, str]:
    return Version(run.vllm), run.device, run.date, run.run


def _names(values: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(values))


def _version(value: object) -> object:
    """Of ``{"version": ...}``, or of the version alone as older certificates have it."""
    return value.get("version") if isinstance(value, Mapping) else value


def _hardware(host: object) -> str:
    """``2 × NVIDIA H200`` or ``AMD EPYC, 2 cores``; empty where the host's facts are missing."""
    if not isinstance(host, Mapping):
        return ""
    gpus = host.get("gpus")
    names = Counter(
        str(gpu.get("name")) for gpu in (gpus if isinstance(gpus, list) else ()) if isinstance(gpu, Mapping)
    )
    if names:
        return ", ".join(name if count == 1 else f"{count} × {name}" for name, count in names.items())
    cores = host.get("logical_cores")
    return f"{host.get('cpu_model')}, {cores} cores" if host.get("cpu_model") else ""


_HEAD: Final = """\
# The vLLM releases that this version of bi-harness was tried with, and the results.
#
# Written by `make releases` (`bi-harness releases RUN...`) from the certificates of the runs in git, each of
# them verified; do not edit by hand. One entry per run: a later run does not replace an earlier one.
"""


def render_releases(releases: ReleasesFile) -> str:
    """The text of ``releases.yaml``."""
    data = releases.model_dump(mode="json", by_alias=True, exclude_none=True)
    for run in data["runs"]:
        run["checks"] = {name: count for name, count in run["checks"].items() if count}
        for flag in ("interrupted", "dirty"):
            if not run[flag]:
                del run[flag]
    body: str = yaml.safe_dump(data, sort_keys=False, width=100, allow_unicode=True)
    return _HEAD + body


# --- for readers ----------------------------------------------------------------------------------------


def counted(run: TriedRun) -> str:
    """``13 passed, 1 failed, 14 skipped``: the statuses that occur."""
    words = {"error": "in error", "skip": "skipped"}
    counts = ((words.get(name, name), getattr(run.checks, name)) for name in STATUSES)
    return ", ".join(f"{count} {word}" for word, count in counts if count)


def covered(run: TriedRun) -> str:
    """What a run covered, in one line."""
    scope = run.scope
    parts = [
        f"{', '.join(scope.suites)} ({scope.profile})",
        _some(scope.models),
        ", ".join(scope.backends),
        ", ".join(scope.sizes),
        ", ".join(scope.modes),
    ]
    if scope.layers is not None:
        parts.append(f"{scope.layers} layers")
    if scope.expression is not None:
        parts.append(f"-k '{scope.expression}'")
    return "; ".join(parts)


def _some(names: Sequence[str], most: int = 4) -> str:
    more = len(names) - most
    return ", ".join(names) if more <= 1 else f"{', '.join(names[:most])} and {more} more"


def verdict_of(run: TriedRun) -> str:
    """The verdict in words, with a note where the run was stopped."""
    return VERDICT_WORDS[run.verdict] + (", stopped before its end" if run.interrupted else "")


def summary(runs: Sequence[TriedRun]) -> str:
    """``5 runs, the last on 2026-11-21: 5 CERTIFIED``."""
    count = Counter(VERDICT_WORDS[run.verdict] for run in runs)
    verdicts = ", ".join(f"{number} {verdict}" for verdict, number in sorted(count.items()))
    what = "1 run" if len(runs) == 1 else f"{len(runs)} runs"
    return f"{what}, the last on {max(run.date for run in runs)}: {verdicts}"


def by_release(releases: ReleasesFile) -> list[tuple[str, str, list[TriedRun]]]:
    """``(vLLM release, device, runs)``, the newest release first."""

    def key(run: TriedRun) -> tuple[Version, str]:
        return Version(run.vllm), run.device

    ordered = sorted(releases.runs, key=lambda run: (run.device, _order(run)))
    ordered.sort(key=lambda run: Version(run.vllm), reverse=True)
    return [
        (runs[0].vllm, device, runs) for (_, device), group in groupby(ordered, key) if (runs := [*group])
    ]


_PAGE: Final = """\
# vLLM releases

The vLLM releases that this version of bi-harness was tried with, on which device, and the results.
`make releases` writes this page and [`releases.yaml`](../releases.yaml) from the certificates of the runs in
[`reports/`](../reports/README.md), and verifies each certificate first. Every run has its own row: a later
run does not replace an earlier one.

A verdict holds for what its row lists. It is a statement about vLLM on that device, not about bi-harness:
*NOT CERTIFIED* means that bi-harness ran with this release and a check failed.

To see whether the vLLM on your host is one of them:

```
bi-harness doctor                                # the vLLM next to bi-harness
bi-harness doctor --engine-python PATH           # the vLLM of another environment
bi-harness releases                              # the table below, --json for scripts
```

`bi-harness run` with a release newer than all that were tried on the device prints one warning on stderr and
continues. The warning does not change the verdict or the certificate:

```
warning: vLLM 0.99.0 was not tried with this version of bi-harness on cpu; newest tried: {newest}
```

To add a release, run it, keep the run in git and write the data again:

```
bi-harness run --device cpu --model qwen3-tiny --suite batch_invariance --engine-python PATH
git add -f reports/cpu/RUN
make releases
```
"""


def render_page(releases: ReleasesFile) -> str:
    """The text of ``docs/releases.md``."""
    newest = max(
        (run.vllm for run in releases.runs if run.device == "cpu"),
        key=Version,
        default="(none on this device)",
    )
    parts = [_PAGE.format(newest=newest)]
    for vllm, device, runs in by_release(releases):
        parts.append(f"## vLLM {_cell(vllm)} on {_cell(device)}\n\n{summary(runs)}.\n")
        rows = [
            "| date | torch | hardware | covered | result | run |",
            "| --- | --- | --- | --- | --- | --- |",
        ]
        rows += [
            f"| {run.date} | {_cell(run.torch)} | {_cell(run.hardware)} | {_cell(covered(run))} "
            f"| **{verdict_of(run)}**: {counted(run)} | {_cell(run.run)}, bi-harness {_cell(_harness(run))} |"
            for run in runs
        ]
        parts.append("\n".join(rows) + "\n")
    if not releases.runs:
        parts.append("No run is on record.\n")
    return "\n".join(parts)


def _harness(run: TriedRun) -> str:
    commit = f" at {run.commit}" if run.commit else ""
    return f"{run.harness}{commit}{' with uncommitted changes' if run.dirty else ''}"


def _cell(value: str) -> str:
    return escape(value, MAX_CELL)
