"""The verdict of a shard: never that of the device, whatever its checks say. Pure."""

from __future__ import annotations

from bi_harness.certificate.events import ShardStarted
from bi_harness.certificate.records import Verdict
from bi_harness.certificate.statement import ShardPart


def of_part(
    shard: ShardStarted, verdict: Verdict, why: str, *, nothing_to_run: bool
) -> tuple[Verdict, str, ShardPart]:
    """What a shard's certificate says.

    A failure in a shard is one of the whole run. A pass is none: CERTIFIED becomes INCONCLUSIVE, and
    ``ShardPart.passed`` tells that the part did what it was for.

    Args:
        shard: which it is.
        verdict, why: as if its part of the plan were all of it.
        nothing_to_run: whether the part came to its end with nothing to do.
    """
    name = f"shard {shard.index} of {shard.count}"
    passed = verdict == "CERTIFIED" or (verdict == "INCONCLUSIVE" and nothing_to_run)
    part = ShardPart(index=shard.index, count=shard.count, plan=shard.plan, passed=passed)
    if not passed:
        return verdict, f"{name}: {why}", part
    done = "there was nothing in it to run" if nothing_to_run else why
    who = f"{name} alone certifies nothing: `bi-harness merge` makes the certificate, of all {shard.count}"
    return "INCONCLUSIVE", f"{who}. In this one {done}", part
