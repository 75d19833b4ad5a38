"""``buildkite-agent annotate``: found, called, and never waited for without end."""

from __future__ import annotations

import os
import time
from pathlib import Path

import psutil
import pytest

from bi_harness.buildkite.agent import annotate, job
from tests.buildkite.standin import Agent


@pytest.fixture
def agent(tmp_path: Path) -> Agent:
    return Agent.install(tmp_path / "agent")


def test_a_job_is_one_where_buildkite_says_so(agent: Agent) -> None:
    assert job({"PATH": str(agent.bin)}) is None
    assert job({"PATH": str(agent.bin), "BUILDKITE": "false"}) is None
    here = job({"PATH": str(agent.bin), "BUILDKITE": "true"})
    assert here is not None
    assert here.agent == str(agent.bin / "buildkite-agent")
    elsewhere = job({"PATH": "/nowhere", "BUILDKITE": "true", "BUILDKITE_BIN_PATH": str(agent.bin)})
    assert elsewhere is not None
    assert elsewhere.agent == here.agent
    without = job({"PATH": "/nowhere", "BUILDKITE": "true"})
    assert without is not None
    assert without.agent is None


@pytest.mark.parametrize(
    ("index", "count", "expected"),
    [
        ("0", "3", (1, 3)),
        ("2", "3", (3, 3)),
        ("3", "3", None),
        ("-1", "3", None),
        ("x", "3", None),
        ("0", "", None),
    ],
)
def test_which_shard_it_is(index: str, count: str, expected: tuple[int, int] | None) -> None:
    env = {"BUILDKITE": "true", "BUILDKITE_PARALLEL_JOB": index, "BUILDKITE_PARALLEL_JOB_COUNT": count}
    found = job(env)
    assert found is not None
    assert found.shard == expected


def test_the_body_goes_by_stdin(agent: Agent) -> None:
    text = "## ✅ `x` $HOME\n" * 10_000 + "\udcff"
    assert annotate(str(agent.bin / "buildkite-agent"), text, context="c d", style="success") == ""
    [call] = agent.calls()
    assert call["argv"] == ["annotate", "--context", "c d", "--style", "success"]
    assert call["stdin"] == text.replace("\udcff", "?")


def test_a_refusal_is_told(agent: Agent, tmp_path: Path) -> None:
    path = str(agent.bin / "buildkite-agent")
    agent.behave(code=3, says="401 Unauthorized")
    assert annotate(path, "x", context="c", style="info") == (
        "buildkite-agent annotate ended with 3: fatal: 401 Unauthorized"
    )
    assert "cannot be started" in annotate(str(tmp_path / "none"), "x", context="c", style="info")
    (tmp_path / "bad").write_text("no program")
    (tmp_path / "bad").chmod(0o755)
    assert "cannot be started" in annotate(str(tmp_path / "bad"), "x", context="c", style="info")


def test_one_that_hangs_is_ended_with_all_that_it_started(agent: Agent) -> None:
    agent.behave(hangs=True)
    began = time.monotonic()
    found = annotate(str(agent.bin / "buildkite-agent"), "x", context="c", style="info", timeout_s=2)
    assert time.monotonic() - began < 30
    assert found == "buildkite-agent annotate took more than 2 s"
    left = [
        p
        for p in psutil.process_iter(["cmdline"])
        if str(agent.bin) in " ".join(p.info["cmdline"] or ()) and p.status() != psutil.STATUS_ZOMBIE
    ]
    assert left == [], os.getpid()
