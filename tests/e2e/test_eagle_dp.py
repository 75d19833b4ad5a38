"""Speculation, tensor and data parallel on real engines: what is certified, and ranks that die or hang."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import uuid
from pathlib import Path

import psutil
import pytest

from bi_harness.exits import ExitCode
from tests.e2e.real import ROOT, Harness, Ran, of_run
from tests.runner.standin import below, wait_for

pytestmark = [pytest.mark.engine, pytest.mark.long]


@pytest.fixture(scope="module")
def eagle(harness: Harness) -> Ran:
    """What ``--suite eagle_dp`` runs, less what needs more time than CI has."""
    wanted = "tp1-dp2 and (parallel or eagle) or tp1-dp1 and parallel"
    return harness.run("--suite", "eagle_dp", "-k", f"({wanted}) and not eagle_batches")


@pytest.fixture(scope="module")
def rest(harness: Harness) -> Ran:
    """What the other leaves out."""
    wanted = "eagle_accepted or eagle_rejected or eagle_batches or ngram or tp2"
    return harness.run("--suite", "eagle_dp", "-k", wanted)


def named(ran: Ran) -> set[tuple[str, str]]:
    return {(c["cell"].split("/")[3], c["check"]) for c in ran.checks()}


def test_speculation_gives_the_bits_of_plain_decoding(eagle: Ran) -> None:
    assert eagle.code == ExitCode.CERTIFIED, eagle.stderr
    assert named(eagle) == {("tp1-dp1", "parallel"), ("tp1-dp2", "parallel"), ("tp1-dp2", "eagle")}
    assert {c["status"] for c in eagle.checks()} == {"pass"}
    assert eagle.left == ()


@pytest.mark.long
def test_so_does_the_rest(rest: Ran) -> None:
    assert rest.code == ExitCode.CERTIFIED, rest.stderr
    assert named(rest) >= {
        *(("tp1-dp1", name) for name in ("eagle_batches", "eagle_accepted", "eagle_rejected", "ngram")),
        ("tp1-dp2", "eagle_batches"),
        ("tp2-dp1", "parallel"),
    }
    assert {c["status"] for c in rest.checks()} == {"pass"}
    assert rest.left == ()


@pytest.mark.parametrize("which", ["eagle", pytest.param("rest", marks=pytest.mark.long)])
def test_some_drafts_were_accepted_and_some_were_not(which: str, request: pytest.FixtureRequest) -> None:
    for check in request.getfixturevalue(which).checks():
        reached = {n["name"]: n["reached"] for n in check["evidence"]["needed"]}
        if check["check"] == "parallel":
            continue
        accepted, rejected = reached["accepted_tokens"], reached["rejected_tokens"]
        if check["check"] == "eagle":
            assert 0.3 < accepted / (accepted + rejected) < 0.95
        elif check["check"] == "eagle_accepted":
            assert (accepted > 0, rejected) == (True, 0)
        elif check["check"] == "eagle_rejected":
            assert (accepted, rejected > 0) == (0, True)
        else:
            assert min(accepted, rejected) > 0


def test_requests_reached_both_ranks_and_have_the_same_bits_there(eagle: Ran) -> None:
    spread = [
        n["reached"]
        for check in eagle.checks()
        if "tp1-dp2" in check["cell"]
        for n in check["evidence"]["needed"]
        if n["name"] == "spread_bursts"
    ]
    assert len(spread) == 2
    assert min(spread) > 0
    (across,) = eagle.ours["axes"]
    assert (across["name"], across["check"]) == ("dp_digest_equal", "parallel")
    assert across["equal"]
    assert across["required"]


@pytest.mark.parametrize("which", ["eagle", pytest.param("rest", marks=pytest.mark.long)])
def test_what_ran_is_what_was_asked_for(which: str, request: pytest.FixtureRequest) -> None:
    for arm in request.getfixturevalue(which).ours["effective"]:
        config = arm["config"]
        tp, dp = (int(part[2:]) for part in arm["unit"].split("/")[3].split("-"))
        assert (config["tensor_parallel_size"], config["data_parallel_size"]) == (tp, dp)
        assert config["workers"] == tp * dp
        assert config["enforce_eager"] is True
        tokens = {"eagle": 3, "eagle_accepted": 1, "eagle_rejected": 5, "ngram": 3}
        assert config.get("speculation", {}).get("tokens") == tokens.get(arm["engine"])


def second_rank() -> list[psutil.Process]:
    return [
        p for p in psutil.process_iter(["cmdline"]) if "EngineCore_DP1" in " ".join(p.info["cmdline"] or ())
    ]


def ended(process: subprocess.Popen[str], mark: str, out: Path) -> Ran:
    """The run, once it is over."""
    _, err = process.communicate(timeout=180)
    assert process.returncode == ExitCode.INCONCLUSIVE, err
    return Ran(process.returncode, out, err, 0.0, of_run(mark, out))


@pytest.mark.long
def test_a_rank_that_dies_is_named_and_leaves_nothing_behind(harness: Harness) -> None:
    mark = uuid.uuid4().hex
    out = harness.root / mark
    process = harness.start(
        *("run", "--suite", "eagle_dp", "-k", "dp2 and eagle_batches"), mark=mark, out=out
    )
    # Once its steps are logged, it serves.
    wait_for(
        lambda: any(log.stat().st_size for log in below(out, "steps-dp1-*.jsonl")),
        120,
        "steps of the second rank",
    )
    for rank in second_rank():
        os.kill(rank.pid, signal.SIGKILL)
    ran = ended(process, mark, out)
    (check,) = ran.checks()
    assert check["status"] == "error"
    assert "EngineCore_DP1" in check["reason"]
    assert (ran.folder / check["log"]).stat().st_size > 0
    assert ran.left == ()


@pytest.mark.long
def test_a_rank_that_hangs_at_its_start_is_named_in_time_and_leaves_nothing_behind(
    harness: Harness,
) -> None:
    mark = uuid.uuid4().hex
    out = harness.root / mark
    suites = harness.root / "impatient"
    shutil.copytree(ROOT / "suites", suites)
    settings = suites / "eagle_dp" / "suite.yaml"
    settings.write_text(settings.read_text().replace("start_s: 900", "start_s: 45"))
    process = harness.start(
        *("run", "--suite", "eagle_dp", "-k", "dp2 and parallel"),
        *("--suites-dir", str(suites)),
        mark=mark,
        out=out,
    )
    wait_for(lambda: bool(second_rank()), 60, "the second rank")
    for rank in second_rank():
        os.kill(rank.pid, signal.SIGSTOP)
    ran = ended(process, mark, out)
    (check,) = ran.checks()
    assert check["status"] == "error"
    assert "was not ready after 45 s (of 2 data parallel ranks, 1 did not come up)" in check["reason"]
    assert (ran.folder / check["log"]).stat().st_size > 0
    assert ran.left == ()
