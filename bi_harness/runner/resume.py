"""``run --resume RUN``: whether what would run now is what ran."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import fields, replace
from functools import cache
from pathlib import Path
from typing import Annotated, Any, get_type_hints

from pydantic import Field, TypeAdapter, ValidationError

from bi_harness.certificate.problems import first_problem, shortened
from bi_harness.errors import UsageError
from bi_harness.matrix.shards import MOST
from bi_harness.runner.earlier import Earlier
from bi_harness.runner.journal import JOURNAL
from bi_harness.runner.run import (
    OF_THE_MOMENT,
    Prepared,
    RunOptions,
    options_from,
    prepare,
    run_started,
)
from bi_harness.runner.same_run import differences
from bi_harness.spec.load import load_spec
from bi_harness.spec.waivers import load_waivers


def prepare_again(
    earlier: Earlier,
    given: RunOptions,
    explicit: Collection[str],
    what: str = "resume",
    **files: Path | None,
) -> Prepared:
    """The run once more: its own options and files, and over them what is given now, which must come to the
    same.

    Args:
        earlier: the run's folder.
        given: the options of the command line at hand.
        explicit: the names of those fields of it that were really given.
        what: is to be done with it, for messages.
        files: ``models``, ``hardware``, ``suites`` and ``waivers``, where they are given.

    Raises:
        UsageError: it is another run; the message names all that differs.
        HarnessError: as ``runner.run.prepare``.
    """
    asked = earlier.start.asked
    if asked is None:
        raise UsageError("this run was made by a bi-harness that could not resume runs: start a new one")
    _refuse_mistyped(asked, earlier.run_dir)
    options = replace(options_from(asked, given), **{name: getattr(given, name) for name in explicit})
    if "jobs" not in explicit:
        options = replace(options, jobs=None)
    paths = {name: Path(path) for name, path in asked["paths"].items()}
    paths |= {name: path for name, path in files.items() if path is not None}
    if "waivers" in paths:
        options = replace(options, waivers=load_waivers(paths["waivers"]))
    prepared = prepare(options, load_spec(paths["models"], paths["hardware"], paths["suites"]))
    if found := differences(earlier.start, run_started(prepared, earlier.start.run_id)):
        listed = "\n".join(f"  {line}" for line in found)
        raise UsageError(
            f"cannot {what} {earlier.run_dir}: its results would be of something else.\n{listed}\n"
            "What to do: make it as it was, or start a new run"
        )
    return prepared


def _refuse_mistyped(asked: Mapping[str, Any], run_dir: Path) -> None:
    """Refuse options that ``runner.run.asked`` does not write.

    Raises:
        UsageError: an option has another type, or a path is missing.
    """
    for name, value in asked.get("options", {}).items():
        option = _option_types().get(name)
        try:
            if option is None:
                raise ValueError("a run does not record this option")
            option.validate_json(json.dumps(value), strict=True)
        except ValueError as error:
            why = first_problem(error) if isinstance(error, ValidationError) else str(error)
            raise UsageError(
                f"{run_dir / JOURNAL}: invalid option in run_started: {shortened(name, 60)}: {why}\n"
                "hint: start a new run"
            ) from error
    paths = asked.get("paths", {})
    if missing := [name for name in ("models", "hardware", "suites") if name not in paths]:
        raise UsageError(
            f"{run_dir / JOURNAL}: missing path in run_started: {', '.join(missing)}\nhint: start a new run"
        )
    if damaged := [name for name, path in paths.items() if "\0" in path]:
        raise UsageError(f"{run_dir / JOURNAL}: invalid path in run_started: {', '.join(damaged)[:200]}")


@cache
def _option_types() -> dict[str, TypeAdapter[Any]]:
    """The options that a journal has, with their types in JSON."""
    types = get_type_hints(RunOptions)
    written = {f.name for f in fields(RunOptions)} - {*OF_THE_MOMENT, "shard"}
    shard = Annotated[int, Field(ge=1, le=MOST)]
    return {
        **{name: TypeAdapter(types[name]) for name in written},
        "shard": TypeAdapter(tuple[shard, shard] | None),
    }
