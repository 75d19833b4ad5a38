"""``times.yaml``: how long checks took where they were measured."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from bi_harness.spec.load import load_data
from bi_harness.spec.types import Positive, Profile, Size, SpecModel, Text

FILE = "times.yaml"
"""Beside ``hardware.yaml``."""


class MeasuredCell(SpecModel):
    """The checks of one cell, as certificates have them.

    Attributes:
        cell: its id.
        profile: of the runs.
        layers: that models were cut to; ``None`` for their own.
        checks: seconds of wall time by check, engine starts included; the longest of the runs.
        runs: their ids.
    """

    cell: Text
    profile: Profile
    layers: Size | None = None
    checks: Annotated[dict[Text, Positive], Field(min_length=1, max_length=200)]
    runs: Annotated[tuple[Text, ...], Field(min_length=1)]


class TimesFile(SpecModel):
    """The whole file.

    Attributes:
        schema_: the version of its form (``schema``).
        assumed_check_s: what a check is taken to need where nobody has measured it; no measurement.
        measured: in the order of the cells' ids.
    """

    schema_: Literal["bi-harness/times/1"] = Field(default="bi-harness/times/1", alias="schema")
    assumed_check_s: Positive = 300.0
    measured: Annotated[tuple[MeasuredCell, ...], Field(max_length=100_000)] = ()


def load_times(hardware: Path) -> TimesFile:
    """The times beside ``hardware.yaml``; of a file that is not there, none are measured.

    Raises:
        SpecError: something is wrong in it; the message has one line for each problem, with file and line.
    """
    path = hardware.with_name(FILE)
    return load_data(path, TimesFile) if path.exists() else TimesFile()
