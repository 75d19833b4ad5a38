"""Every suite of this checkout: what its suite.yaml names and what its modules hold are the same."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
import yaml

SUITES = Path(__file__).resolve().parents[2] / "suites"
ALL = sorted(path.parent for path in SUITES.glob("*/suite.yaml"))


def functions(suite: Path) -> dict[str, ast.FunctionDef | ast.AsyncFunctionDef]:
    """``file::function`` of each test."""
    found = {}
    for module in sorted(suite.rglob("test_*.py")):
        for node in ast.walk(ast.parse(module.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test"):
                found[f"{module.relative_to(suite)}::{node.name}"] = node
    return found


def test_there_are_suites() -> None:
    assert ALL


@pytest.mark.parametrize("suite", ALL, ids=lambda path: path.name)
def test_names_and_functions_agree(suite: Path) -> None:
    named = [check["test"] for check in yaml.safe_load((suite / "suite.yaml").read_text())["checks"]]
    assert len(set(named)) == len(named)
    assert set(named) == set(functions(suite))


@pytest.mark.parametrize("suite", ALL, ids=lambda path: path.name)
def test_each_check_takes_a_cell_and_may_not_be_marked_away(suite: Path) -> None:
    for name, function in functions(suite).items():
        arguments = {argument.arg for argument in function.args.args}
        assert "check" in arguments, name
        assert arguments & {"cell", "engine", "control", "workload"}, f"{name} is not about a cell"
        for decorator in function.decorator_list:
            text = ast.unparse(decorator)
            assert not any(word in text for word in ("skip", "xfail", "flaky", "parametrize")), name
