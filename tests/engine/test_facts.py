"""What an engine's environment says of itself, as far as it can be asked without an engine."""

from __future__ import annotations

import hashlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bi_harness.engine.facts import vllm_commit, wheels

RECORD = b"torch/x.so,sha256=abc,1\n"


@pytest.mark.parametrize(
    ("vllm", "commit"),
    [
        ({"__version__": "0.32.0"}, ""),
        ({"__version__": "0.32.0", "__commit__": "0123abcd"}, "g0123abcd"),
        ({"__version__": "0.32.0", "__commit__": "COMMIT_HASH_PLACEHOLDER"}, ""),
        ({"__version__": "0.32.0", "_version": SimpleNamespace(__commit_id__="g0123abc")}, "g0123abc"),
        ({"__version__": "0.32.0", "_version": SimpleNamespace(commit_id=None)}, ""),
        ({"__version__": "0.26.0.dev12+g0123abcd.d20260101"}, "g0123abcd"),
        ({"__version__": "0.26.0.dev12+cu130.g0123abcd"}, "g0123abcd"),
        ({"__version__": "0.26.0+cu130"}, ""),
    ],
)
def test_the_commit_of_a_vllm(vllm: dict[str, Any], commit: str) -> None:
    assert vllm_commit(SimpleNamespace(**vllm)) == commit


def test_the_wheels_that_bring_kernels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("torch", "nvidia_cublas", "Flash.Attn", "requests", "vllm"):
        info = tmp_path / f"{name}-1.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1\n")
        if name != "vllm":
            (info / "RECORD").write_text(f"{name}/x.so,sha256=abc,1\n")
    monkeypatch.setattr("sys.path", [str(tmp_path)])
    found = wheels()
    assert list(found) == ["flash-attn", "nvidia-cublas", "torch"], "no RECORD, no digest"
    assert found["torch"] == f"sha256:{hashlib.sha256(RECORD).hexdigest()}"
