"""What the benchmark of shared GPUs calls equal: nothing that was not compared."""

from __future__ import annotations

import json

from benchmarks.sharing import compared, verdict
from bi_harness.certificate.statement import Statement
from tests.kept import kept_run

KEPT = kept_run("cpu/20261121T110032Z-796804") / "certificate.json"


def kept(**changes: str) -> Statement:
    """The kept run; of its first check, these digests are others."""
    data = json.loads(KEPT.read_text(encoding="utf-8"))
    evidence = data["predicate"]["bi_harness"]["checks"][0]["evidence"]
    evidence.update(changes)
    return Statement.model_validate(data)


def test_the_same_certificate_is_equal() -> None:
    found = compared(kept(), kept())
    assert len(found) == 28
    assert verdict(found)
    assert all(one.equal and one.statuses == ("pass", "pass") and one.values for one in found)


def test_other_bits_alone_or_together_are_told() -> None:
    for name in ("digest", "reference_digest"):
        found = compared(kept(), kept(**{name: "sha256:" + "0" * 64}))
        assert [one.equal for one in found].count(False) == 1
        assert not verdict(found)


def test_what_one_run_lacks_is_not_compared() -> None:
    whole = kept()
    part = whole.model_copy(deep=True)
    ours = part.predicate.bi_harness
    part = part.model_copy(
        update={
            "predicate": part.predicate.model_copy(
                update={"bi_harness": ours.model_copy(update={"checks": ours.checks[1:]})}
            )
        }
    )
    for found in (compared(whole, part), compared(part, whole)):
        assert [one.equal for one in found].count(None) == 1
        assert not verdict(found)
    assert not verdict(())
