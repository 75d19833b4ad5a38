"""What travels to a node: YAML, suites, and the variables that engines read. No shared disk is needed."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from bi_harness.errors import UsageError
from bi_harness.invariance.faults.registry import PLANT_VARIABLE
from bi_harness.runner.provenance import is_telling

Files = dict[str, bytes]
"""Contents by name; folders are parted by ``/``."""

MAX_BYTES = 64 * 1024 * 1024
"""Of all files of a parcel; the shipped suites are 0.2 MB."""

MODELS, HARDWARE, SUITES = "spec/models.yaml", "spec/hardware.yaml", "spec/suites"


def pack(models: Path, hardware: Path, suites: Path) -> Files:
    """The files that a unit reads.

    Raises:
        UsageError: one cannot be read, or there are too many.
    """
    found: Files = {}
    size = 0
    try:
        sources = {MODELS: models, HARDWARE: hardware}
        for path in sorted(suites.rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts:
                sources[f"{SUITES}/{path.relative_to(suites).as_posix()}"] = path
        for name, path in sources.items():
            size += path.stat().st_size
            if size > MAX_BYTES:
                raise UsageError(
                    f"{suites} and the YAML are more than {MAX_BYTES >> 20} MiB: too large to send"
                )
            found[name] = path.read_bytes()
    except OSError as error:
        raise UsageError(f"cannot send {error.filename} to the nodes: {error.strerror}") from error
    return found


def unpack(files: Mapping[str, bytes], root: Path) -> None:
    """Write the files below a folder.

    Raises:
        UsageError: a name leads out of it.
        OSError: they cannot be written.
    """
    for name, data in files.items():
        path = root / inside(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


def inside(name: str) -> PurePosixPath:
    """A name as a path that stays below where it is put.

    Raises:
        UsageError: it would not.
    """
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or not path.parts or "\0" in name:
        raise UsageError(f"{name!r} is no name of a file below a folder")
    return path


def telling(environ: Mapping[str, str]) -> dict[str, str]:
    """The variables that travel: those that the certificate tells (engines read them), and no others.

    Where things are on a host (bi-harness's own variables, visible GPUs) is each host's own.
    """
    return {
        name: value
        for name, value in environ.items()
        if is_telling(name) and (name == PLANT_VARIABLE or not _of_the_host(name))
    }


def unit_environ(own: Mapping[str, str], sent: Mapping[str, str]) -> dict[str, str]:
    """A unit's variables: the node's, with those that engines read as they are where the run was started.

    Left out is what Ray sets in its workers: a unit is the same process as without it.

    Args:
        own: of the process on the node.
        sent: by ``telling``.
    """
    kept = {
        name: value
        for name, value in own.items()
        if (not is_telling(name) or _of_the_host(name))
        and name != PLANT_VARIABLE
        and not name.startswith("RAY_")
        and not (name == "PYTHONBREAKPOINT" and value.startswith("ray."))
    }
    return {**kept, **sent}


def _of_the_host(name: str) -> bool:
    return name.startswith("BI_HARNESS_") or name == "CUDA_VISIBLE_DEVICES"


def relative(path: str | os.PathLike[str], run_dir: str | os.PathLike[str]) -> str:
    """A path in a run's folder as the same on every host."""
    return Path(path).relative_to(run_dir).as_posix()
