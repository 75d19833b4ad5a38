"""``bi-harness key new``."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bi_harness.certificate.sign import load_public_key
from bi_harness.cli import main as cli
from bi_harness.exits import ExitCode


def test_it_makes_a_pair_and_prints_its_id(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "k.pem"
    assert cli.main(["key", "new", "--out", str(path), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told == {
        "key": load_public_key(tmp_path / "k.pem.pub").keyid,
        "private": str(path),
        "public": f"{path}.pub",
    }
    assert path.stat().st_mode & 0o777 == 0o600
    before = path.read_bytes()
    assert cli.main(["key", "new", "--out", str(path)]) == ExitCode.USAGE
    assert "is there already" in capsys.readouterr().err
    assert path.read_bytes() == before


def test_it_needs_a_place(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["key", "new"]) == ExitCode.USAGE
    assert cli.main(["key", "new", "--out", "/nowhere/k.pem"]) == ExitCode.USAGE
    assert "Traceback" not in capsys.readouterr().err
