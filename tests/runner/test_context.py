"""A unit's file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bi_harness.errors import UsageError
from bi_harness.matrix.cells import Cell
from bi_harness.runner.context import Context, SelectedCell

texts = st.text(max_size=20)
cells = st.builds(
    SelectedCell,
    cell=st.builds(
        Cell,
        device=texts,
        model=texts,
        backend=texts,
        tp=st.integers(1, 8),
        dp=st.integers(1, 8),
        mode=st.sampled_from(["eager", "compile"]),
        suite=texts,
    ),
    checks=st.lists(texts, max_size=3).map(tuple),
)
TEXTS = "device profile weights engine_python models hardware suites folder logs run_dir journal model_cache"
contexts = st.builds(
    Context,
    **dict.fromkeys(TEXTS.split(), texts),
    cells=st.lists(cells, max_size=3).map(tuple),
    layers=st.none() | st.integers(1, 99),
    seed=st.integers(0, 2**63),
    spec_digests=st.dictionaries(texts, texts, max_size=3),
)


def plain() -> Context:
    return Context(
        device="cpu",
        cells=(SelectedCell(Cell("cpu", "m", "B", 1, 1, "eager", "core"), ("alone",)),),
        profile="smoke",
        weights="named",
        layers=None,
        seed=0,
        engine_python="python",
        models="m",
        hardware="h",
        suites="s",
        spec_digests={"models.yaml": "sha256:0"},
        folder="f",
        logs="l",
        run_dir="r",
        journal="j",
        model_cache="c",
    )


@settings(max_examples=60, deadline=None)
@given(contexts)
def test_what_is_written_is_read_back(tmp_path_factory: pytest.TempPathFactory, context: Context) -> None:
    path = tmp_path_factory.mktemp("context") / "unit.json"
    context.write(path)
    assert Context.read(path) == context


def changed(**changes: Any) -> str:
    path = Path("/dev/shm") / f"bi-harness-test-{id(changes)}.json"
    try:
        plain().write(path)
        return json.dumps({**json.loads(path.read_text()), **changes})
    finally:
        path.unlink()


BAD = {
    "empty": "",
    "not JSON": "{",
    "a list": "[]",
    "nothing": "null",
    "no keys": "{}",
    "an unknown key": changed(surprise=1),
    "cells of no kind": changed(cells=[1]),
    "a cell without checks": changed(cells=[{"cell": {}}]),
    "a cell with another key": changed(cells=[{"cell": {"x": 1}, "checks": []}]),
    "cells that are nothing": changed(cells=None),
}


@pytest.mark.parametrize("text", BAD.values(), ids=BAD.keys())
def test_a_bad_file_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "unit.json"
    path.write_text(text)
    with pytest.raises(UsageError, match=r"unit\.json is not a unit's file"):
        Context.read(path)


def test_a_file_that_is_not_there_or_not_text(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is not a unit's file"):
        Context.read(tmp_path / "nowhere.json")
    (tmp_path / "unit.json").write_bytes(b"\xff\xfe")
    with pytest.raises(UsageError, match="is not a unit's file"):
        Context.read(tmp_path / "unit.json")
