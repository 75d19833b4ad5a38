"""Real runs in shards, merged: the certificate of the whole run."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bi_harness.certificate.essence import essence
from bi_harness.certificate.statement import Statement
from bi_harness.exits import ExitCode
from tests.certificate.runs import looked_at, said
from tests.e2e.real import ROOT, Harness

pytestmark = pytest.mark.engine


def merged_of(out: Path, runs: list[Path]) -> Path:
    command = [sys.executable, "-m", "bi_harness.cli", "merge", *map(str, runs), "--out", str(out), "--json"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == ExitCode.CERTIFIED, done.stderr
    return Path(json.loads(done.stdout)["run"])


def told(run: Path) -> Statement:
    return Statement.model_validate_json((run / "certificate.json").read_text())


def ours(run: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run / "certificate.json").read_text())["predicate"]["bi_harness"]
    return found


@pytest.mark.long
def test_a_real_shard_and_an_empty_one(harness: Harness) -> None:
    """The cheap half: one unit that runs, so that one shard of two has nothing to do."""
    spec = harness.spec("shards")
    flags = [*spec, "--mode", "eager", "--model", "qwen3-tiny-fp32"]
    shards = [harness.run(*flags, "--shard", f"{index}/2") for index in (1, 2)]
    assert [ran.code for ran in shards] == [ExitCode.CERTIFIED] * 2, "each did what it was for"
    assert [ran.ours["verdict"] for ran in shards] == ["INCONCLUSIVE"] * 2
    assert [len(ran.checks()) for ran in shards] == [1, 0]
    merged = merged_of(harness.root / "merged-one", [ran.folder for ran in shards])
    assert ours(merged)["verdict"] == "CERTIFIED"
    assert len(ours(merged)["effective"]) == 2
    assert "shard" not in ours(merged)
    assert looked_at(merged).genuine, said(looked_at(merged))
    assert all(ran.left == () for ran in shards)


@pytest.mark.long
def test_shards_of_the_smoke_matrix_are_its_whole(harness: Harness) -> None:
    """Both modes, and data parallel sizes whose digests are compared across the shards."""
    flags = ["--profile", "smoke", "--suite", "batch_invariance", "--suite", "eagle_dp"]
    flags += ["-k", "bs1_vs_bsN or parallel"]
    shards = [harness.run(*flags, "--shard", f"{index}/2") for index in (1, 2)]
    assert [ran.code for ran in shards] == [ExitCode.CERTIFIED] * 2
    assert all(len(ran.checks()) >= 2 for ran in shards)
    merged = merged_of(harness.root / "merged-two", [ran.folder for ran in shards])
    whole = harness.run(*flags)
    assert whole.code == ExitCode.CERTIFIED
    assert essence(told(merged)) == essence(told(whole.folder))
    assert [a for a in ours(merged)["axes"] if a["name"] == "dp_digest_equal" and a["equal"]]
    assert looked_at(merged).genuine, said(looked_at(merged))
