"""The digest by which a recorded self-test is known to be of the suite as it is now."""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterator, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Final

import bi_harness
from bi_harness.errors import SpecError
from bi_harness.reading import read_bounded
from bi_harness.runner.source_digest import ANY, python_digest, yaml_digest
from bi_harness.spec.load import EXPECTED, SELECTION, Spec
from bi_harness.spec.yamlsource import load_yaml

MAX_BYTES = 4 << 20
"""Size of a Python file, at most."""

ALWAYS: Final = ("workload", "compare", "certificate/facts.py", "runner/suite_session.py")
"""What decides in every suite, as paths below the package: what is sent, how it is compared, what a check
concludes."""

_LIBRARY: Final = (
    "engine/arms.py",
    "engine/sampling.py",
    "engine/offline.py",
    "engine/online.py",
    "engine/step_limits.py",
    "engine/worker.py",
)
_SERVER: Final = ("engine/arms.py", "engine/api.py", "engine/answers.py")
_OPERATORS: Final = ("engine/ops", "engine/ops_probe.py", "engine/ops_client.py")
_KERNELS: Final = ("runner/kernel_facts.py", "engine/kernel_choice.py", "engine/kernel_table.py")

BY_FIXTURE: Final[dict[str, tuple[str, ...]]] = {
    "engine": _LIBRARY,
    "kernels": _KERNELS,
    "kernel_choice": _KERNELS,
    "operators": (*_OPERATORS, "runner/op_checks.py", "runner/op_shapes.py", "certificate/ops.py"),
    "modules": ("engine/modules", *_OPERATORS, "runner/module_checks.py", "certificate/modules.py"),
    "starts": (*_LIBRARY, "runner/starts.py", "runner/cache_files.py", "certificate/startup.py"),
}
"""What else decides in a suite whose tests have one of these fixtures."""

WEIGHTS: Final = "workload/checkpoint*.py"
"""What makes weights. It does not count, because certificates have a digest of the weights themselves."""

WORDS: Final[dict[str, tuple[tuple[str, ...], ...]]] = {
    "suite.yaml": (("title",), ("checks", ANY, "summary"), ("paths",)),
    EXPECTED: (("expectations", ANY, "source"), ("exceptions", ANY, "source"), ("exceptions", ANY, "reason")),
    SELECTION: (("tables", ANY, "source"),),
}
"""By file name, the routes of values that only a reader or the pipeline uses."""


def power_digest(spec: Spec, suite: str) -> str:
    """``sha256:...`` of what decides which faults a suite catches.

    It covers the suite's Python and YAML files, ``ALWAYS``, and the files that belong to the suite's fixtures
    (``BY_FIXTURE``) and interface. A Python file counts as its syntax tree (``python_digest``), a YAML file
    as its values without ``WORDS``. Models and planted faults are not covered.

    Raises:
        SpecError: a file cannot be read or parsed.
    """
    package = Path(bi_harness.__file__).resolve().parent
    folder = spec.paths.suites / suite
    total = hashlib.sha256()
    for root, base in ((folder, folder), *((package / part, package) for part in _parts(spec, suite))):
        for path in _sources(root):
            name = path.relative_to(base).as_posix()
            if base is folder or not fnmatch(name, WEIGHTS):
                total.update(f"{name}\0{_digest(path)}\n".encode())
        total.update(b"\n")
    return f"sha256:{total.hexdigest()}"


def _parts(spec: Spec, suite: str) -> Sequence[str]:
    """What decides in the suite, besides its own files."""
    parts = [*ALWAYS]
    for fixture in sorted(_parameters(spec.paths.suites / suite) & BY_FIXTURE.keys()):
        parts += BY_FIXTURE[fixture]
    found = spec.suites.get(suite)
    if found and "server" in (found.interface, *(check.interface for check in found.checks)):
        parts += _SERVER
    return tuple(dict.fromkeys(parts))


def _parameters(folder: Path) -> set[str]:
    """The parameters of all functions in the suite: its fixtures, and others."""
    return {
        node.arg
        for path in _sources(folder)
        if path.suffix == ".py"
        for node in ast.walk(_parsed(path))
        if isinstance(node, ast.arg)
    }


def _sources(root: Path) -> Iterator[Path]:
    """``root`` itself if it is a file, else the Python and YAML files below it, sorted by path.

    Raises:
        SpecError: ``root`` does not exist.
    """
    if root.is_file():
        yield root
        return
    if not root.is_dir():
        raise SpecError(f"{root}: cannot be read: it does not exist")
    for path in sorted(root.rglob("*")):
        # Nothing imports a hidden file: editors keep backups and locks in them.
        hidden = any(part.startswith(".") for part in path.relative_to(root).parts)
        if path.suffix in (".py", ".yaml") and not hidden and not path.is_dir():
            yield path


def _digest(path: Path) -> str:
    if path.suffix == ".yaml":
        data = load_yaml(path).data
        if isinstance(data, dict):
            # Keys x-... hold what aliases share: it counts where it is used.
            data = {key: value for key, value in data.items() if not key.startswith("x-")}
        return yaml_digest(data, WORDS.get(path.name, ()))
    return python_digest(_parsed(path))


def _parsed(path: Path) -> ast.Module:
    """The syntax tree of a Python file.

    Raises:
        SpecError: it cannot be read or parsed.
    """
    try:
        source = read_bounded(path, MAX_BYTES)
    except OSError as error:
        raise SpecError(f"{path}: cannot be read: {error.strerror or error}") from error
    if len(source) > MAX_BYTES:
        raise SpecError(f"{path}: is larger than {MAX_BYTES >> 20} MiB")
    try:
        return ast.parse(source)
    except SyntaxError as error:
        raise SpecError(f"{path}:{error.lineno or 1}: is not valid Python: {error.msg}") from error
    except ValueError as error:  # a NUL, before Python 3.12
        raise SpecError(f"{path}: is not valid Python: {error}") from error
    except (RecursionError, MemoryError) as error:
        raise SpecError(f"{path}: is nested too deeply to be parsed") from error
