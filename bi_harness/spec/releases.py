"""``releases.yaml``: the vLLM releases that this version of bi-harness was tried with, and the results."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from packaging.version import InvalidVersion, Version
from pydantic import Field

from bi_harness.spec.load import default_paths, load_data
from bi_harness.spec.types import Day, Flag, Id, Number, Profile, Release, Size, SpecModel, Text

FILE = "releases.yaml"

Standing = Literal["tried", "untried", "newer"]
"""``tried``: a run of this release is on record. ``newer``: none is, and the release is newer than all that
are. ``untried``: none is, and a newer release was tried (or none was, on any device)."""

Names = Annotated[tuple[Text, ...], Field(min_length=1, max_length=1000)]


class TriedScope(SpecModel):
    """What a run covered: the axes of the cells in which a check ran.

    Attributes:
        profile: the run profile.
        suites, models, backends, sizes, modes: of these cells; ``sizes`` as ``tp1-dp1``.
        layers: number of layers that models were cut to; ``None`` for their own.
        expression: the ``-k`` expression; ``None`` where every check of the cells was selected.
    """

    profile: Profile
    suites: Names
    models: Names
    backends: Names
    sizes: Names
    modes: Names
    layers: Size | None = None
    expression: Text | None = None


class StatusCounts(SpecModel):
    """Number of checks by status."""

    passed: Number = 0
    failed: Number = 0
    inconclusive: Number = 0
    error: Number = 0
    waived: Number = 0
    skip: Number = 0


class TriedRun(SpecModel):
    """One run, as its certificate records it.

    Attributes:
        vllm: the release of vLLM.
        torch: the version of torch it ran with, local part included (``2.13.0+cpu``).
        device: id in ``hardware.yaml``.
        hardware: the name of the GPU with the number of them, or of the CPU with its number of cores.
        scope: what the run covered.
        verdict: of the certificate, within ``scope``.
        interrupted: whether the run was stopped before its end.
        checks: number of checks by status.
        date: UTC day on which the run started.
        harness: version of bi-harness.
        commit: its git commit; ``None`` where the certificate does not say.
        dirty: whether bi-harness had uncommitted changes.
        run: the run's id.
    """

    vllm: Release
    torch: Text
    device: Id
    hardware: Text
    scope: TriedScope
    verdict: Literal["CERTIFIED", "NOT_CERTIFIED", "INCONCLUSIVE"]
    interrupted: Flag = False
    checks: StatusCounts
    date: Day
    harness: Text
    commit: Text | None = None
    dirty: Flag = False
    run: Text


class ReleasesFile(SpecModel):
    """The whole file.

    Attributes:
        schema_: version of the file's form (``schema``).
        runs: one entry per run, ordered by vLLM release, device, date and run id.
    """

    schema_: Literal["bi-harness/releases/1"] = Field(default="bi-harness/releases/1", alias="schema")
    runs: Annotated[tuple[TriedRun, ...], Field(max_length=10_000)] = ()


@dataclass(frozen=True, slots=True)
class ReleaseStanding:
    """How a vLLM release on a device compares with the runs on record.

    Attributes:
        vllm: the release in question.
        device: the device in question.
        standing: see ``Standing``.
        runs: the runs of this release on this device.
        newest: the newest release that was tried: on this device, or on any where this device has no run;
            ``None`` where no run is on record.
        on_device: whether a run on this device is on record.
    """

    vllm: str
    device: str
    standing: Standing
    runs: tuple[TriedRun, ...]
    newest: str | None
    on_device: bool

    @property
    def warning(self) -> str | None:
        """One sentence for a release newer than any tried; ``None`` otherwise."""
        if self.standing != "newer":
            return None
        where = f" on {self.device}" if self.on_device else ""
        return (
            f"vLLM {self.vllm} was not tried with this version of bi-harness{where}; "
            f"newest tried: {self.newest}"
        )


def releases_path() -> Path:
    """The file that ships with bi-harness: at the top of the checkout, or in the installed package.

    It describes this version of bi-harness, so ``--hardware-file`` does not change it.
    """
    return default_paths(environ={}).hardware.with_name(FILE)


def load_releases(path: Path | None = None) -> ReleasesFile:
    """The runs on record.

    Args:
        path: the file; the shipped one by default. A missing file has no runs.

    Raises:
        SpecError: the file is invalid; the message has one line per problem, with file and line.
    """
    path = releases_path() if path is None else path
    return load_data(path, ReleasesFile) if path.exists() else ReleasesFile()


def newest_release(runs: Iterable[TriedRun]) -> str | None:
    """The newest vLLM release of these runs; ``None`` for no runs."""
    return max((run.vllm for run in runs), key=Version, default=None)


def release_standing(vllm: str, device: str, runs: Sequence[TriedRun]) -> ReleaseStanding:
    """Compare a vLLM release with the runs on record.

    Releases are compared by PEP 440 without their local part: ``0.32.0+cpu`` is ``0.32.0``, and ``0.33.0rc1``
    and ``0.33.0.dev7`` are newer than ``0.32.0``. A version that is not PEP 440 (``dev``) counts as newer.
    """
    here = tuple(run for run in runs if run.device == device)
    compared = here or tuple(runs)
    newest, version = newest_release(compared), _public(vllm)
    matching = tuple(run for run in here if _public(run.vllm) == version)
    standing: Standing = "untried"
    if matching:
        standing = "tried"
    elif newest is not None and (version is None or version > Version(newest)):
        standing = "newer"
    return ReleaseStanding(vllm, device, standing, matching, newest, bool(here))


def _public(version: str) -> Version | None:
    """The version without its local part; ``None`` for one that is not PEP 440."""
    try:
        return Version(Version(version).public)
    except InvalidVersion:
        return None
