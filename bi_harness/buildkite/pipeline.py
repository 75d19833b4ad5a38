"""The pipeline that certifies a fleet: for each device its shards and their merge, then the gate. Pure.

No step has ``soft_fail``: a build is green only where every shard ran to its end, every device is certified
and the policy is met. A step that may fail and be looked at later is a second way to a green build.

A job is run again by Buildkite where it says of itself that nothing was found out (``RETRIED``), and never
after a verdict: a second run that happens to agree does not undo the first one's difference. For the same
reason a shard cannot be run again by hand; whoever wants to know starts a new build, whose certificate stands
beside the old one. Merge and gate compute the same from the same files: anybody may run them again.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from typing import Any, Final

import jsonschema
import yaml
from buildkite_sdk.pipeline import Pipeline
from buildkite_sdk.schema import CommandStepArgs

from bi_harness import __version__
from bi_harness.buildkite.text import command, key, quoted, verbatim
from bi_harness.buildkite.times import SET_UP_MINUTES, Sharding, expected, sharding
from bi_harness.matrix.select import Selection
from bi_harness.report.text import plural
from bi_harness.spec.hardware import DeviceSpec
from bi_harness.spec.times import TimesFile

SHARDS: Final = "bi-harness-shards"
"""Folder of what shards write, in the agent's checkout; a run is in ``<device>/<run id>`` below."""

REPORTS: Final = "bi-harness-reports"
"""Folder of the merged certificates: one of its own, so that the gate sees this build's alone."""

GATE_MD: Final = "bi-harness-gate.md"
GATE_JUNIT: Final = "bi-harness-gate.xml"

RETRIED: Final = (-1, 255, 75)
"""Exit codes after which a job runs again: its agent was lost (-1) or stopped (255), or it says that its
surroundings failed (75). Never 1."""

RETRIES: Final = 2

RERUN_REASON: Final = (
    "A check is not run again until it passes. Start a new build: its certificate stands beside this one."
)


@dataclass(frozen=True, slots=True)
class Options:
    """What steps are made of, besides the plan.

    Attributes:
        harness: how a step calls bi-harness, in words.
        run: flags of every ``run``, besides its device, its suites and where it writes.
        profile: of every run.
        layers: that models are cut to.
        set_up: lines of shell before all else, in every step.
        policy: of the gate; ``None`` for no gate.
        queue: of the steps that need no device.
        shard_s: what a shard should take at most.
        most_shards: of one device.
    """

    profile: str
    harness: tuple[str, ...] = ("bi-harness",)
    run: tuple[str, ...] = ()
    layers: int | None = None
    set_up: tuple[str, ...] = ()
    policy: str | None = None
    queue: str = "default"
    shard_s: float = 7200.0
    most_shards: int = 32


@dataclass(frozen=True, slots=True)
class DevicePlan:
    """What would run on one device.

    Attributes:
        device: which.
        selection: its plan and checks.
        suites: those that are asked for; empty for all.
        parts: the units of each of so many shards; see ``sharding``.
    """

    device: DeviceSpec
    selection: Selection
    suites: tuple[str, ...] = ()
    parts: Callable[[int], Sequence[Sequence[str]]] | None = None


@dataclass(frozen=True, slots=True)
class DeviceSteps:
    """One device of the pipeline, in figures.

    Attributes:
        device: its id.
        units, checks: how many there are.
        measured, assumed: checks whose time was measured, and the others.
        sharding: how units are spread.
    """

    device: str
    units: int
    checks: int
    measured: int
    assumed: int
    sharding: Sharding


@dataclass(frozen=True, slots=True)
class Built:
    """A pipeline.

    Attributes:
        data: as Buildkite takes it.
        devices: those that have steps.
        notes: what a reader should know, a line each.
    """

    data: dict[str, Any]
    devices: tuple[DeviceSteps, ...]
    notes: tuple[str, ...] = field(default=())


def build(
    plans: Sequence[DevicePlan],
    options: Options,
    times: TimesFile,
    notes: Sequence[str] = (),
    *,
    limited: bool = False,
) -> Built:
    """The pipeline of these devices.

    Args:
        plans: one for each device, with or without something to run.
        options: see there.
        times: how long checks took.
        notes: that come first.
        limited: whether only a part runs because of what has changed. Such a build has no gate: its policy
            asks for more than there will be certificates of.

    Raises:
        ValueError: a text cannot be written in a pipeline.
    """
    running = [plan for plan in plans if plan.selection.running]
    figures = tuple(_figures(plan, options, times) for plan in running)
    said = [*notes, *map(_note, figures)]
    said += [
        f"no step for {plan.device.id}: {_why_nothing(plan)}" for plan in plans if not plan.selection.running
    ]
    steps: list[Any] = []
    for plan, figure in zip(running, figures, strict=True):
        steps.append(_group(plan, figure.sharding, options))
    if not running:
        steps.append(_nothing(options))
    elif options.policy is None:
        said.append("no gate: no --policy is given")
    elif limited:
        said.append("no gate: only what a change touches runs, and the policy asks for all")
    else:
        steps.append(_gate([plan.device.id for plan in running], options.policy, options))
    return Built(_checked({"steps": steps}), figures, tuple(said))


def _figures(plan: DevicePlan, options: Options, times: TimesFile) -> DeviceSteps:
    units = plan.selection.plan.units
    each = [
        expected(unit, plan.selection.checks, times, profile=options.profile, layers=options.layers)
        for unit in units
    ]
    return DeviceSteps(
        device=plan.device.id,
        units=len(units),
        checks=plan.selection.running,
        measured=sum(one.measured for one in each),
        assumed=sum(one.assumed for one in each),
        sharding=sharding(
            {unit.id: one.seconds for unit, one in zip(units, each, strict=True)},
            shard_s=options.shard_s,
            most=options.most_shards,
            parts=plan.parts,
        ),
    )


def _note(one: DeviceSteps) -> str:
    many = one.sharding
    return (
        f"{one.device}: {plural(one.units, 'unit')} with {plural(one.checks, 'check')} "
        f"({one.measured:,} of a measured time, {one.assumed:,} of an assumed one) in "
        f"{plural(many.shards, 'shard')} of at most "
        f"{many.expected_s / 60:,.0f} minutes; ended after {many.timeout_minutes:,}"
    )


def _why_nothing(plan: DevicePlan) -> str:
    cells = plan.selection.plan.cells
    if not cells:
        return "nothing that is asked for is for it"
    rules = ", ".join(dict.fromkeys(str(planned.rule) for planned in cells))
    return f"all {len(cells):,} cells are excluded (rules: {rules})"


def _group(plan: DevicePlan, many: Sharding, options: Options) -> dict[str, Any]:
    device = plan.device
    return {
        "group": f"{device.id} ({options.profile})",
        "key": key(device.id, "group"),
        "steps": [_shards(plan, many, options), _merge(device.id, options)],
    }


def _shards(plan: DevicePlan, many: Sharding, options: Options) -> CommandStepArgs:
    device = plan.device
    argv = [*options.harness, "run", "--device", device.id, "--profile", options.profile, *options.run]
    for suite in plan.suites:
        argv += ["--suite", suite]
    argv += ["--out", SHARDS]
    if many.shards == 1:
        argv += ["--shard", "1/1"]
    step: CommandStepArgs = {
        "label": f"{device.id}: shard %n of %t" if many.shards > 1 else f"{device.id}: run",
        "key": key(device.id),
        "agents": {name: verbatim(value) for name, value in {"queue": device.queue, **device.agents}.items()},
        "commands": [*_fresh(SHARDS), *_set_up(options), command(argv)],
        "artifact_paths": [f"{SHARDS}/**/*"],
        "timeout_in_minutes": many.timeout_minutes,
        "retry": {"automatic": _automatic(), "manual": {"allowed": False, "reason": RERUN_REASON}},
    }
    if many.shards > 1:
        # Which one a job is, `run` reads from BUILDKITE_PARALLEL_JOB and BUILDKITE_PARALLEL_JOB_COUNT.
        step["parallelism"] = many.shards
    if device.hosts is not None:
        step["concurrency"] = device.hosts
        step["concurrency_group"] = f"bi-harness/{device.id}"
        step["concurrency_method"] = "eager"  # No shard waits for another one's turn.
    return step


def _merge(device: str, options: Options) -> CommandStepArgs:
    got = command(
        ["buildkite-agent", "artifact", "download", f"{SHARDS}/{device}/**/*", ".", "--step", key(device)]
    )
    return {
        "label": f"{device}: certificate",
        "key": key(device, "merge"),
        # A shard that failed is in the certificate, and one that left nothing is missed there by name.
        "depends_on": [{"step": key(device), "allow_failure": True}],
        "agents": {"queue": verbatim(options.queue)},
        "commands": [
            *_fresh(SHARDS, REPORTS),
            *_set_up(options),
            f"{got} || exit 75",
            # The shell makes the list of runs: its * is not quoted, and a device's id has nothing to quote.
            f"{command([*options.harness, 'merge'])} {SHARDS}/{device}/*/ --out {REPORTS}",
        ],
        "artifact_paths": [f"{REPORTS}/**/*"],
        "timeout_in_minutes": SET_UP_MINUTES,
        "retry": {"automatic": _automatic()},
    }


def _gate(devices: Sequence[str], policy: str, options: Options) -> CommandStepArgs:
    lines = []
    for device in devices:
        got = command(
            [
                "buildkite-agent",
                "artifact",
                "download",
                f"{REPORTS}/{device}/**/*",
                ".",
                "--step",
                key(device, "merge"),
            ]
        )
        # What did not come is missing in what the gate sees, and so is not met.
        lines.append(f"{got} || echo {quoted(f'{device}: no certificate came')} >&2")
    return {
        "label": "gate",
        "key": key("gate"),
        "depends_on": [{"step": key(device, "merge"), "allow_failure": True} for device in devices],
        "agents": {"queue": verbatim(options.queue)},
        "commands": [
            *_fresh(REPORTS, GATE_MD, GATE_JUNIT),
            f"mkdir -p {quoted(REPORTS)}",
            *_set_up(options),
            *lines,
            command(
                [
                    *options.harness,
                    "gate",
                    "--policy",
                    policy,
                    REPORTS,
                    "--md",
                    GATE_MD,
                    "--junit",
                    GATE_JUNIT,
                ]
            ),
        ],
        "artifact_paths": [GATE_MD, GATE_JUNIT],
        "timeout_in_minutes": SET_UP_MINUTES,
        "retry": {"automatic": _automatic()},
    }


def _nothing(options: Options) -> CommandStepArgs:
    """A pipeline without steps is refused by Buildkite."""
    return {
        "label": "nothing to certify",
        "key": key("nothing"),
        "agents": {"queue": verbatim(options.queue)},
        "commands": [command(["echo", "No file of this change touches what a suite depends on."])],
        "timeout_in_minutes": SET_UP_MINUTES,
        "retry": {"automatic": _automatic()},
    }


def _automatic() -> list[Any]:
    return [{"exit_status": status, "limit": RETRIES} for status in RETRIED]


def _fresh(*paths: str) -> list[str]:
    # An agent may keep what an earlier build left in its checkout.
    return [f"rm -rf -- {' '.join(map(quoted, paths))}"]


def _set_up(options: Options) -> list[str]:
    return [verbatim(line) for line in options.set_up]


@cache
def schema() -> Mapping[str, Any]:
    """Buildkite's own schema of pipelines, which its SDK brings along."""
    found: Mapping[str, Any] = json.loads(
        resources.files("buildkite_sdk").joinpath("schema.json").read_text("utf-8")
    )
    return found


def _checked(data: dict[str, Any]) -> dict[str, Any]:
    """The pipeline by way of Buildkite's SDK, which must not lose anything of it, and by its schema."""
    made = Pipeline.from_dict(data).to_dict()  # type: ignore[arg-type]
    assert made == data, "the SDK of Buildkite does not know a key of a step"
    jsonschema.validate(made, schema(), cls=jsonschema.Draft7Validator)
    return data


def as_yaml(built: Built) -> str:
    """The pipeline for ``buildkite-agent pipeline upload``, with its notes as comments."""
    said = [f"Written by bi-harness {__version__} pipeline.", *built.notes]
    # Buildkite drops comments; older agents replaced variables in them, too.
    head = "".join(f"# {_line(note)}\n" for note in said)
    # In ASCII: as it is, a U+0085 would be read back as the end of a line.
    body: str = yaml.safe_dump(built.data, sort_keys=False, width=1000)
    return head + body


def _line(text: str) -> str:
    return "".join(char if char.isprintable() else " " for char in text).replace("$", "$$")


def as_json(built: Built) -> str:
    """The same as JSON, which the agent takes as well. Notes have no place in it."""
    return json.dumps(built.data, indent=2) + "\n"
