"""``python -m benchmarks.trust [SECTION...] [--json]``: the figures that certificates' trust rests on.

Ends with 0 when every figure is what it must be, 1 when one is not, 4 for a section that there is not.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import multiprocessing
import os
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from concurrent.futures import Executor, ProcessPoolExecutor, as_completed
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from benchmarks.trust.figures import MUTATIONS, Figure, all_of, none_of

SECTIONS = ("tamper", "structure", "kills", "fuzz", "hostile")
"""In the order in which they are shown. One that is missing is an error, never left out without a word."""

LONGEST = ("kills", "fuzz", "structure", "tamper", "hostile")
"""In the order in which they are started."""


def of_tamper(measured: Mapping[str, Any]) -> list[Figure]:
    """Bytes that were changed in a run's files, and those of them that ``verify`` finds."""
    figures = [all_of("changed bytes that verify finds", measured["found"], measured["flips"], 1_000)]
    for name, row in measured["files"].items():
        figures.append(all_of(f"  {name}", row["found"], row["flips"]))
    return figures


KILLS = 200


def of_kills(measured: Mapping[str, Any]) -> list[Figure]:
    """Runs that were killed at random moments, and resumed."""
    kills = int(measured["kills"])
    real, standin = int(measured["real_kills"]), int(measured["standin_kills"])
    figures = [
        Figure("random kills of runs", f"{kills:,}", f"{KILLS} or more", kills >= KILLS),
        Figure(
            "  of runs with a real vLLM, and with a stand-in",
            f"{real:,} and {standin:,}",
            "all of them",
            real + standin == kills,
        ),
        Figure("runs that were resumed", f"{measured['resumed']:,}", "1 or more", measured["resumed"] > 0),
    ]
    for name in (
        "lost_results",
        "changed_results",
        "false_certificates",
        "other_certificates",
        "refused_resumes",
        "orphan_processes",
        "shared_memory_left",
    ):
        figures.append(none_of(f"  {name.replace('_', ' ')}", int(measured[name]), kills))
    # Its own word counts too: it may know of more than is listed here.
    return [
        *figures,
        Figure("  all is well, as it says itself", str(measured["ok"]), "True", measured["ok"] is True),
    ]


READERS = {"tamper": of_tamper, "kills": of_kills}
"""Of sections whose dict is their own."""


def figures_of(section: str, measured: Mapping[str, Any]) -> list[Figure]:
    """A section's figures.

    Raises:
        ValueError: it has none: nothing was measured.
    """
    if section in READERS:
        found = READERS[section](measured)
    else:
        found = [
            Figure(str(f["name"]), str(f["value"]), str(f["bound"]), f["ok"] is True)
            for f in measured["figures"]
        ]
    if not found:
        raise ValueError(f"the section {section} measured nothing")
    return found


def _two_processes() -> Executor:
    return ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn"))


def run(section: str, **options: object) -> tuple[list[Figure], dict[str, Any]]:
    """Measure one section; whatever goes wrong in it is a figure that is not what it must be.

    Args:
        section: its name.
        options: for its ``measure``.
    """
    started = time.monotonic()
    measured: dict[str, Any] = {}
    try:
        module = importlib.import_module(f"benchmarks.trust.{section}")
        measured = dict(module.measure(**options))
        figures = figures_of(section, measured)
    except Exception as error:
        traceback.print_exc(file=sys.stderr)
        figures = [Figure("it was measured", f"{type(error).__name__}: {error}"[:200], "measured", False)]
    return figures, {**measured, "seconds": round(time.monotonic() - started, 1)}


Measured = tuple[list[Figure], dict[str, Any]]
"""As ``run`` returns it."""


def side_by_side(
    sections: Mapping[str, Mapping[str, object]], lanes: Callable[[], Executor] = _two_processes
) -> dict[str, Measured]:
    """Measure sections, two at a time: killing runs is mostly waiting, and the others compute.

    Args:
        sections: the options of each.
        lanes: makes what runs them. One section alone runs in this process.

    Returns:
        In the order of ``sections``.
    """
    if len(sections) == 1:
        ((name, options),) = sections.items()
        sys.stderr.write(f"{name} ...\n")
        return {name: run(name, **options)}
    found: dict[str, Measured] = {}
    with lanes() as pool:
        # The longest first.
        ordered = sorted(sections, key=lambda name: LONGEST.index(name))
        futures = {pool.submit(run, name, **sections[name]): name for name in ordered}
        for future in as_completed(futures):
            name = futures[future]
            try:
                found[name] = future.result()
            except Exception as error:  # its process ended under it
                why = f"{type(error).__name__}: {error}"[:200]
                found[name] = [Figure("it was measured", why, "measured", False)], {}
            sys.stderr.write(f"{name}: {found[name][1].get('seconds', 0):,.0f} s\n")
    return {name: found[name] for name in sections}


def table(results: Mapping[str, list[Figure]]) -> Table:
    """The figures for a reader."""
    shown = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold", safe_box=True)
    for name in ("section", "figure", "found", "must be", ""):
        shown.add_column(name, overflow="fold")
    for section, figures in results.items():
        for i, one in enumerate(figures):
            mark = Text("ok", style="green") if one.ok else Text("NOT OK", style="bold red")
            shown.add_row(Text("" if i else section), Text(one.name), Text(one.value), Text(one.bound), mark)
    return shown


def _options(section: str, chosen: argparse.Namespace) -> dict[str, object]:
    if section == "structure":
        return {"mutations": chosen.mutations}
    if section == "kills" and chosen.engine_python:
        return {"engine_python": chosen.engine_python}
    return {}


def main(arguments: list[str] | None = None) -> int:
    """Measure and print; returns the exit code."""
    parser = argparse.ArgumentParser(prog="benchmarks.trust", description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "sections", nargs="*", metavar="SECTION", help=f"of {', '.join(SECTIONS)}; all by default"
    )
    parser.add_argument("--json", action="store_true", help="print data on stdout")
    parser.add_argument(
        "--engine-python",
        default=os.environ.get("BI_HARNESS_ENGINE_PYTHON"),
        help="interpreter that has vLLM, for kills; without one a stand-in takes the engine's place",
    )
    parser.add_argument(
        "--mutations",
        type=int,
        default=MUTATIONS,
        help=f"of journals and of certificates, each, for structure; a release needs {MUTATIONS:,} (default)",
    )
    chosen = parser.parse_args(arguments)
    unknown = [name for name in chosen.sections if name not in SECTIONS]
    if unknown:
        sys.stderr.write(f"error: there is no section {unknown[0]!r}; there are {', '.join(SECTIONS)}\n")
        return 4
    options = {name: _options(name, chosen) for name in chosen.sections or SECTIONS}
    measured = side_by_side(options)
    results = {name: figures for name, (figures, _) in measured.items()}
    details = {name: told for name, (_, told) in measured.items()}
    console = Console(stderr=chosen.json)
    console.print(table(results))
    for name, told in details.items():
        for key in ("defects", "harm", "missed", "notes"):
            for line in told.get(key) or ():
                console.print(Text(f"{name}: {line}"), style="red")
    bad = sum(not one.ok for figures in results.values() for one in figures)
    total = sum(map(len, results.values()))
    console.print(Text(f"{total - bad} of {total} figures are what they must be."))
    if chosen.json:
        json.dump({"ok": not bad, "sections": details}, sys.stdout, indent=2, default=str)
        sys.stdout.write("\n")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
