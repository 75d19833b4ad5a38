"""``run --resume RUN``: whether what would run now is what ran."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

from bi_harness.errors import UsageError
from bi_harness.runner.earlier import Earlier
from bi_harness.runner.run import Prepared, RunOptions, options_from, prepare, run_started
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
    told = earlier.start.asked
    if told is None:
        raise UsageError("this run was made by a bi-harness that could not resume runs: start a new one")
    options = replace(options_from(told, given), **{name: getattr(given, name) for name in explicit})
    if "jobs" not in explicit:
        options = replace(options, jobs=None)
    paths = {name: Path(path) for name, path in told["paths"].items()}
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
