"""The verdict of a shard: never that of the device, whatever its checks say. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from bi_harness.certificate.events import ShardStarted
from bi_harness.certificate.records import CheckResult, Verdict
from bi_harness.certificate.statement import ShardPart


def of_part(
    shard: ShardStarted, verdict: Verdict, why: str, results: Sequence[CheckResult], *, sound: bool
) -> tuple[Verdict, str, ShardPart]:
    """What a shard's certificate says.

    A failure in a shard is one of the whole run. A pass is none: CERTIFIED becomes INCONCLUSIVE, and
    ``ShardPart.passed`` tells that the part did what it was for. That something must have passed is asked of
    the whole: a part may have nothing to run, or nothing that is not waived.

    Args:
        shard: which it is.
        verdict, why: as if its part of the plan were all of it.
        results: of its part.
        sound: whether the run came to its end, and each unit of it, and all engines agree.
    """
    name = f"shard {shard.index} of {shard.count}"
    let_be = all(result.status == "waived" or (result.status == "skip" and result.rule) for result in results)
    passed = verdict == "CERTIFIED" or (verdict == "INCONCLUSIVE" and sound and let_be)
    part = ShardPart(index=shard.index, count=shard.count, plan=shard.plan, passed=passed)
    if not passed:
        return verdict, f"{name}: {why}", part
    ran = any(result.status != "skip" for result in results)
    done = why if ran else "there was nothing in it to run"
    who = f"{name} alone certifies nothing: `bi-harness merge` makes the certificate, of all {shard.count}"
    return "INCONCLUSIVE", f"{who}. In this one {done}", part
