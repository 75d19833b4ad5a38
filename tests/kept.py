"""The kept runs: the folders below ``reports/`` that git tracks.

A user's own runs lie in the same folder (``make certify`` writes there), so no test may list it. Every test
that uses real runs takes them from here.
"""

from __future__ import annotations

import subprocess
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
REPORTS = ROOT / "reports"

VERDICTS = {
    "cpu/20261121T110032Z-796804": "CERTIFIED",
    "cpu/20261121T130302Z-e5144d": "CERTIFIED",
    "cpu/20261121T173029Z-937b9b": "CERTIFIED",
    "cpu/20261121T173347Z-364118": "CERTIFIED",
    "cpu/20261121T174134Z-321bcb": "CERTIFIED",
    "cpu/20261201T025054Z-5d3ff2": "CERTIFIED",
    "h200/0.25.1/20261121T090241Z-212dcc": "NOT_CERTIFIED",
    "h200/0.25.1/20261121T090556Z-b9ea69": "NOT_CERTIFIED",
    "h200/0.25.1/20261121T090857Z-dcb970": "CERTIFIED",
    "h200/0.25.1/20261121T183911Z-efa00d": "NOT_CERTIFIED",
    "h200/0.25.1/20261121T191053Z-52f87b": "NOT_CERTIFIED",
    "h200/0.25.1/20261121T191053Z-77202a": "NOT_CERTIFIED",
    "h200/0.25.1/20261121T191053Z-7c32c2": "NOT_CERTIFIED",
    "h200/0.25.1/20261121T191053Z-a03ef6": "NOT_CERTIFIED",
    "h200/0.25.1/20261128T174741Z-b4e19e": "NOT_CERTIFIED",
    "h200/0.25.1/20261128T235041Z-5ea792": "NOT_CERTIFIED",
    "h200/0.25.1/20261129T024601Z-375e67": "NOT_CERTIFIED",
    "h200/0.25.1/20261129T024601Z-ada97c": "NOT_CERTIFIED",
    "h200/0.26.0/20261128T203525Z-ac29d9": "NOT_CERTIFIED",
    "h200/0.26.0/20261128T235519Z-a59fb5": "NOT_CERTIFIED",
    "h200/0.33.0/20261201T003016Z-61c7fa": "NOT_CERTIFIED",
    "h200/0.33.0/20261201T003627Z-591ce6": "NOT_CERTIFIED",
    "h200/0.33.0/20261201T003627Z-716657": "NOT_CERTIFIED",
    "h200/0.33.0/20261201T003627Z-c9826c": "NOT_CERTIFIED",
    "h200x2/20261121T123726Z-36d0a0": "CERTIFIED",
    "h200x2/20261121T124559Z-61c2de": "NOT_CERTIFIED",
}
"""The verdict of each kept run. ``tests/reports`` holds this table against git's list."""


def tracked_runs(root: Path) -> list[str] | None:
    """The runs below ``root/reports`` that git tracks, as paths from there; ``None`` without git's answer.

    There is no answer where git is missing or where ``root`` is not the top of a checkout (a release's source
    archive, also one that was unpacked inside another checkout).
    """

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", *arguments], cwd=root, capture_output=True, text=True, check=True, timeout=60
        ).stdout

    try:
        if Path(git("rev-parse", "--show-toplevel").rstrip("\n")).resolve() != root.resolve():
            return None
        files = git("ls-files", "-z", "--", "reports").split("\0")
    except (OSError, subprocess.SubprocessError):
        return None
    return sorted(
        str(Path(file).parent.relative_to("reports"))
        for file in files
        if Path(file).name == "certificate.json"
    )


@cache
def kept_runs() -> tuple[str, ...]:
    """The kept runs, as paths below ``reports/``, in the order of their names.

    Without git these are the runs of ``VERDICTS`` whose folders exist: none in a source archive, which has no
    ``reports/``. Tests that are parametrized over an empty list are skipped by pytest.
    """
    tracked = tracked_runs(ROOT)
    if tracked is not None:
        return tuple(tracked)
    return tuple(sorted(run for run in VERDICTS if (REPORTS / run / "certificate.json").is_file()))


def kept_folders(below: str = "") -> list[Path]:
    """The folders of the kept runs, or of those below one folder of ``reports/``."""
    return [REPORTS / run for run in kept_runs() if run.startswith(f"{below}/" if below else "")]


def kept_run(run: str) -> Path:
    """The folder of one kept run. Without it, the test module that asks is skipped with the reason.

    Raises:
        LookupError: git tracks kept runs, and this is not one of them.
    """
    if run not in kept_runs():
        if tracked_runs(ROOT) is not None:
            raise LookupError(f"reports/{run} is not a kept run")
        pytest.skip(f"reports/{run} is not part of this source archive", allow_module_level=True)
    return REPORTS / run
