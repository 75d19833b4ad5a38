"""Speculation and data parallel on real engines: what is certified, and a rank that dies."""

from __future__ import annotations

import os
import signal
import uuid

import psutil
import pytest

from bi_harness.exits import ExitCode
from tests.e2e.real import Harness, Ran, of_run
from tests.runner.standin import wait_for

pytestmark = pytest.mark.engine


@pytest.fixture(scope="module")
def eagle(harness: Harness) -> Ran:
    """The suite on both data parallel sizes, eager."""
    return harness.run("--suite", "eagle_dp", "--mode", "eager")


def test_speculation_gives_the_bits_of_plain_decoding(eagle: Ran) -> None:
    assert eagle.code == ExitCode.CERTIFIED, eagle.stderr
    assert {c["check"] for c in eagle.checks()} == {
        "eagle",
        "eagle_batches",
        "eagle_accepted",
        "eagle_rejected",
        "ngram",
    }
    assert {c["status"] for c in eagle.checks()} == {"pass"}
    assert eagle.left == ()


def test_some_drafts_were_accepted_and_some_were_not(eagle: Ran) -> None:
    for check in eagle.checks():
        reached = {n["name"]: n["reached"] for n in check["evidence"]["needed"]}
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
    assert len(spread) == 5
    assert min(spread) > 0
    axes = eagle.ours["axes"]
    assert [axis["name"] for axis in axes] == ["dp_digest_equal"] * 5
    assert all(axis["equal"] and axis["required"] for axis in axes)


def test_a_rank_that_dies_is_named_and_leaves_nothing_behind(harness: Harness) -> None:
    mark = uuid.uuid4().hex
    out = harness.root / mark
    process = harness.start(
        *("run", "--suite", "eagle_dp", "--mode", "eager", "-k", "dp2 and eagle_batches"), mark=mark, out=out
    )

    def ranks() -> list[psutil.Process]:
        return [
            p
            for p in psutil.process_iter(["cmdline"])
            if "EngineCore_DP1" in " ".join(p.info["cmdline"] or ())
        ]

    # Once its steps are logged, it serves.
    wait_for(lambda: any(out.rglob("steps-dp1-*.jsonl")), 120, "steps of the second rank")
    for rank in ranks():
        os.kill(rank.pid, signal.SIGKILL)
    _, err = process.communicate(timeout=120)
    assert process.returncode == ExitCode.INCONCLUSIVE, err
    ran = Ran(process.returncode, out, err, 0.0, of_run(mark, out))
    (check,) = ran.checks()
    assert check["status"] == "error"
    assert "EngineCore_DP1" in check["reason"]
    assert (ran.folder / check["log"]).stat().st_size > 0
    assert ran.left == ()
