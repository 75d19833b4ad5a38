"""Whether sharing a GPU changes a bit: ``python -m benchmarks.sharing --device h200 --model qwen3-1.7b ...``.

The same checks run twice on one GPU: *alone*, each engine by itself on it (one unit after the other, no
control, imported anew), and *shared*: all units at once, each with its control beside it, forked from a
process that has vLLM imported. For each check the digests of every token and logprob bit must be equal, those
of the requests alone and those of the batches, also where the check fails. Ends with 0 when all are, with 1
when not, or when something could not be compared.

``--alone RUN`` and ``--shared RUN`` take a run that is there in place of either; of a shared one with more
checks than the other, those that both have are compared. ``--only-alone`` leaves it at the first run.

With ``--again`` a third run, alone as the first, tells what two starts by themselves have in common: a
compiled engine may differ there already, where Inductor times its kernels and chooses others.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import typer

from bi_harness.certificate.statement import Statement
from bi_harness.report.write import write_reports
from bi_harness.runner.run import RunOptions, execute, from_journal, prepare
from bi_harness.spec.load import default_paths, load_spec

Bits = tuple[str, str]
"""Digests of a check's treatment: of the requests alone, and of the batches."""


@dataclass(frozen=True, slots=True)
class Compared:
    """One check, alone and shared.

    Attributes:
        check: its cell's id and its own.
        equal: whether all bits are; ``None`` where one of the runs has none.
        statuses: alone, and shared.
        values: logprobs that the digests are of.
    """

    check: str
    equal: bool | None
    statuses: tuple[str, str]
    values: int


def compared(alone: Statement, shared: Statement) -> tuple[Compared, ...]:
    """Every check of either run, in the order of the first."""
    first, second = _checks(alone), _checks(shared)
    found = []
    for name in dict.fromkeys((*first, *second)):
        bits = [_bits(checks.get(name)) for checks in (first, second)]
        found.append(
            Compared(
                name,
                None if None in bits else bits[0] == bits[1],
                (_status(first.get(name)), _status(second.get(name))),
                _values(first.get(name)),
            )
        )
    return tuple(found)


def verdict(found: tuple[Compared, ...]) -> bool:
    """Whether there is something to compare, and all of it is equal."""
    return bool(found) and all(one.equal is True for one in found)


def within(alone: Statement, shared: Statement) -> tuple[Compared, ...]:
    """Every check of the run alone, where the shared one has more."""
    named = _checks(alone)
    return tuple(one for one in compared(alone, shared) if one.check in named)


def _checks(statement: Statement) -> dict[str, Any]:
    return {f"{c.cell}::{c.check}": c for c in statement.predicate.bi_harness.checks if c.status != "skip"}


def _status(check: Any) -> str:
    return str(check.status) if check is not None else "not there"


def _bits(check: Any) -> Bits | None:
    if check is None or check.evidence is None:
        return None
    return (check.evidence.reference_digest, check.evidence.digest)


def _values(check: Any) -> int:
    return int(check.evidence.values) if check is not None and check.evidence is not None else 0


def run(options: RunOptions) -> tuple[Statement, float | None]:
    """One run: its certificate, and its wall seconds."""
    paths = default_paths()
    prepared = prepare(options, load_spec(paths.models, paths.hardware, paths.suites))
    began = time.perf_counter()
    folder, statement = execute(prepared, lambda event: None)
    took = time.perf_counter() - began
    write_reports(statement, folder)
    typer.echo(f"{folder}: {took:.0f} s", err=True)
    return statement, took


def _table(title: str, found: tuple[Compared, ...]) -> None:
    typer.echo(title)
    for one in found:
        word = {True: "equal", False: "DIFFER", None: "not compared"}[one.equal]
        typer.echo(f"  {one.check:90} {word:12} {one.values:>9,} values  {' / '.join(one.statuses)}")


def main() -> int:
    """Run both ways, compare, and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sharing", description=__doc__)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--model", action="append", required=True)
    parser.add_argument("--backend", action="append")
    parser.add_argument("--mode", action="append")
    parser.add_argument("--suite", default="batch_invariance")
    parser.add_argument("-k", dest="expression")
    parser.add_argument("--profile", default="smoke")
    parser.add_argument("--weights", default="synthetic")
    parser.add_argument("--layers", type=int)
    parser.add_argument("--jobs", type=int, default=8, help="units at once in the shared run")
    parser.add_argument("--engine-python")
    parser.add_argument("--again", action="store_true")
    parser.add_argument("--only-alone", action="store_true")
    parser.add_argument("--alone", type=Path, help="folder of a run")
    parser.add_argument("--shared", type=Path, help="folder of a run")
    parser.add_argument("--out", type=Path, required=True, help="folder for runs and sharing.json")
    given = parser.parse_args()
    if "," in os.environ.get("CUDA_VISIBLE_DEVICES", ""):
        parser.error("CUDA_VISIBLE_DEVICES names several GPUs: what is measured is the sharing of one")
    base: Mapping[str, Any] = {
        "device": given.device,
        "models": given.model,
        "suites": [given.suite],
        "backends": given.backend,
        "modes": given.mode,
        "expression": given.expression,
        "profile": given.profile,
        "weights": given.weights,
        "layers": given.layers,
        "engine_python": given.engine_python,
    }
    if given.alone is not None:
        alone, alone_s = from_journal(given.alone), None
    else:
        alone, alone_s = run(RunOptions(**base, out=given.out / "alone", control=False))
    if given.only_alone:
        return 0
    if given.shared is not None:
        shared, shared_s = from_journal(given.shared), None
    else:
        shared, shared_s = run(RunOptions(**base, out=given.out / "shared", jobs=given.jobs, preload=True))
    found = within(alone, shared)
    figures: dict[str, Any] = {
        "alone": alone.predicate.bi_harness.run_id,
        "shared": shared.predicate.bi_harness.run_id,
        "alone_s": alone_s,
        "shared_s": shared_s,
        "preloaded": sum(bool(arm.preloaded) for arm in shared.predicate.bi_harness.effective),
        "checks": [asdict(one) for one in found],
    }
    _table("alone / shared", found)
    if given.again:
        again, _ = run(RunOptions(**base, out=given.out / "again", control=False))
        twice = compared(alone, again)
        figures["again"] = [asdict(one) for one in twice]
        _table("alone / alone again", twice)
    given.out.mkdir(parents=True, exist_ok=True)
    (given.out / "sharing.json").write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    equal = sum(one.equal is True for one in found)
    typer.echo(f"{equal} of {len(found)} checks have the same bits")
    return 0 if verdict(found) else 1


if __name__ == "__main__":
    sys.exit(main())
