"""What the harness imports is what it declares."""

from __future__ import annotations

import ast
import sys
import tomllib
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[2]

MODULES = {"nvidia-ml-py": "pynvml", "pyyaml": "yaml"}
"""Distributions whose module goes by another name."""

AHEAD = {"pandas"}
"""Declared for what is being written; drop from both what stays unused."""

BROUGHT = {"pydantic_core"}
"""Part of a declared one in all but name."""

ENGINE = {
    "torch",
    "vllm",
    "transformers",
    "tokenizers",
    "safetensors",
    "compressed_tensors",
    "triton",
    "ray",
    "huggingface_hub",
}
"""Come with the engine; imported only where one is."""

ENGINE_SIDE = ("engine", "invariance", "localize", "workload", "runner", "pytest_plugin")
"""Layers that may import the engine's."""


def declared() -> set[str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    names = [Requirement(line).name for line in project["dependencies"]]
    return {MODULES.get(name, name.replace("-", "_")) for name in names}


def imported() -> dict[str, set[str]]:
    """Third-party top-level modules, with the files that import them."""
    found: dict[str, set[str]] = {}
    for path in sorted((ROOT / "bi_harness").rglob("*.py")):
        if "_data" in path.parts:
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names: list[str] = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                names = [node.module or ""]
            for name in (n.partition(".")[0] for n in names):
                if name not in sys.stdlib_module_names and name != "bi_harness":
                    found.setdefault(name, set()).add(str(path.relative_to(ROOT / "bi_harness")))
    return found


def test_every_import_is_declared() -> None:
    undeclared = {
        name: files for name, files in imported().items() if name not in declared() | ENGINE | BROUGHT
    }
    assert undeclared == {}


def test_the_engine_is_imported_on_its_own_side_alone() -> None:
    wrong = {
        f"{file}: {name}"
        for name, files in imported().items()
        if name in ENGINE
        for file in files
        if not file.startswith(ENGINE_SIDE)
    }
    assert wrong == set()


def test_every_dependency_is_used() -> None:
    tests = "\n".join(p.read_text() for folder in ("tests", "suites") for p in (ROOT / folder).rglob("*.py"))
    unused = {name for name in declared() - AHEAD - imported().keys() if f"import {name}" not in tests}
    assert unused == set()
