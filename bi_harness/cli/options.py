"""The flags that commands share. Each has a ``BI_HARNESS_*`` variable; a repeatable one splits at blanks."""

from __future__ import annotations

import os
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Annotated, TypeVar

import typer

from bi_harness.errors import UsageError

Value = TypeVar("Value")


def key_given(ctx: typer.Context, param: typer.CallbackParam, value: Value) -> Value:
    """The value of an option that names keys, as it is: its callback.

    An empty one is never taken for no key: a secret that was not there would switch a check off.

    Raises:
        UsageError: the option or its variable is there, and is empty or blank.
    """
    source = ctx.get_parameter_source(param.name or "")
    if source is not None and source.name == "COMMANDLINE":
        # An empty text is Path("."), and no folder is a key.
        if any(str(path).strip() in ("", ".") for path in (value if isinstance(value, list) else [value])):
            raise UsageError(f"{param.opts[0]} is empty: give the file of a key, or leave the option out")
        return value
    names = [param.envvar] if isinstance(param.envvar, str) else list(param.envvar or ())
    for name in names:
        # What is empty or blank never comes here as a value.
        refuse_blank(name)
    return value


def refuse_blank(variable: str) -> None:
    """Refuse a variable for a key that is set and holds nothing.

    Raises:
        UsageError: it is empty or blank.
    """
    text = os.environ.get(variable)
    if text is not None and not text.strip():
        raise UsageError(f"the variable {variable} is set and empty: give a key, or unset it")


class ProfileName(StrEnum):
    """``--profile``."""

    smoke = "smoke"
    nightly = "nightly"
    release = "release"


class WeightsName(StrEnum):
    """``--weights``."""

    named = "named"
    synthetic = "synthetic"


class ModeName(StrEnum):
    """``--mode``."""

    default = "default"
    compile = "compile"
    eager = "eager"


class ExecutorName(StrEnum):
    """``--executor``."""

    local = "local"
    ray = "ray"


Device = Annotated[
    str, typer.Option("--device", "-d", envvar="BI_HARNESS_DEVICE", help="Device of hardware.yaml, or auto.")
]
Models = Annotated[
    list[str] | None,
    typer.Option("--model", "-m", envvar="BI_HARNESS_MODEL", help="Only this model (repeatable)."),
]
Suites = Annotated[
    list[str] | None,
    typer.Option("--suite", "-s", envvar="BI_HARNESS_SUITE", help="Only this suite (repeatable)."),
]
Backends = Annotated[
    list[str] | None,
    typer.Option("--backend", envvar="BI_HARNESS_BACKEND", help="Only this attention backend (repeatable)."),
]
Modes = Annotated[
    list[ModeName] | None,
    typer.Option("--mode", envvar="BI_HARNESS_MODE", help="Only this mode (repeatable)."),
]
Expression = Annotated[
    str | None,
    typer.Option("-k", envvar="BI_HARNESS_K", help="Only checks that match, as in pytest, on CELL::CHECK."),
]
Profile = Annotated[
    ProfileName, typer.Option("--profile", "-p", envvar="BI_HARNESS_PROFILE", help="How much to run.")
]
Weights = Annotated[
    WeightsName,
    typer.Option("--weights", envvar="BI_HARNESS_WEIGHTS", help="Checkpoints, or weights made on the spot."),
]
Layers = Annotated[
    int | None,
    typer.Option(
        "--layers", min=1, max=10_000, envvar="BI_HARNESS_LAYERS", help="Cut synthetic models to N layers."
    ),
]
VllmVersion = Annotated[
    str | None,
    typer.Option(
        "--vllm-version",
        envvar="BI_HARNESS_VLLM_VERSION",
        help="Release that rules are decided for; by default the one installed.",
    ),
]
Gpus = Annotated[
    int | None,
    typer.Option(
        "--gpus", min=0, envvar="BI_HARNESS_GPUS", help="GPUs of the host; the device's usual number."
    ),
]
ModelsFile = Annotated[
    Path | None, typer.Option("--models-file", envvar="BI_HARNESS_MODELS", help="models.yaml to use.")
]
HardwareFile = Annotated[
    Path | None, typer.Option("--hardware-file", envvar="BI_HARNESS_HARDWARE", help="hardware.yaml to use.")
]
SuitesDir = Annotated[
    Path | None, typer.Option("--suites-dir", envvar="BI_HARNESS_SUITES", help="Folder of suites to use.")
]
Jobs = Annotated[
    str,
    typer.Option(
        "--jobs",
        "-j",
        envvar="BI_HARNESS_JOBS",
        metavar="N|auto",
        help="Units at once; auto for as many as the GPUs' memory and the cores take (on a CPU one).",
    ),
]
Shard = Annotated[
    str | None,
    typer.Option(
        "--shard",
        envvar="BI_HARNESS_SHARD",
        metavar="I/N",
        help="Only this part of the plan, 1/3 to 3/3; by default a Buildkite step's own parallel job.",
    ),
]
Executor = Annotated[
    ExecutorName,
    typer.Option(
        "--executor",
        envvar="BI_HARNESS_EXECUTOR",
        help="Where units run: this host, or the nodes of a Ray cluster (RAY_ADDRESS; bi-harness[ray]).",
    ),
]
SignKey = Annotated[
    Path | None,
    typer.Option(
        "--sign-key",
        envvar="BI_HARNESS_SIGN_KEY",
        callback=key_given,
        help="Private key (of `bi-harness key new`) to sign the certificate with.",
    ),
]
WaiversFile = Annotated[
    Path | None,
    typer.Option(
        "--waivers",
        envvar="BI_HARNESS_WAIVERS",
        help="Failures that are let be until a day; waivers.yaml beside models.yaml, where there is one.",
    ),
]
AsJson = Annotated[
    bool, typer.Option("--json", envvar="BI_HARNESS_JSON", help="Data as JSON on stdout, the rest on stderr.")
]


def given(ctx: typer.Context, fields: Mapping[str, str]) -> set[str]:
    """Those fields whose parameter was given, on the command line or by a variable.

    Args:
        fields: by parameter.
    """
    sources = {name: ctx.get_parameter_source(name) for name in fields}
    return {
        field
        for name, field in fields.items()
        if (source := sources[name]) is not None and not source.name.startswith("DEFAULT")
    }
