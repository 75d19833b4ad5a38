"""``verify``: input that cannot be computed again is a finding, never a traceback and never a pass."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bi_harness.certificate import verify as module
from bi_harness.certificate.build import build
from bi_harness.certificate.files import CERTIFICATE
from bi_harness.certificate.verify import Folder, examine
from bi_harness.cli.examined import read_folder, recompute
from bi_harness.errors import InfrastructureError
from tests.certificate.journals import JOURNAL as DIGEST
from tests.certificate.journals import result, sound, waiver
from tests.certificate.runs import looked_at, said, write_run


class OwnError(Exception):
    """Of a library that has its own hierarchy."""


ERRORS = [
    OverflowError("int too large to convert to float"),
    ZeroDivisionError(),
    RecursionError("too deep"),
    MemoryError(),
    AssertionError(),
    IndexError(),
    RuntimeError("changed during iteration"),
    UnicodeEncodeError("utf-8", "\udcff", 0, 1, "surrogates not allowed"),
    OSError("name too long"),
    InfrastructureError("no disk"),
    OwnError("own"),
]


def raises(error: Exception) -> Callable[..., Any]:
    def raised(*_: object) -> Any:
        raise error

    return raised


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("what", ["statement", "merged", "reports", "beside"])
def test_whatever_recomputing_raises_is_a_problem(tmp_path: Path, error: Exception, what: str) -> None:
    write_run(tmp_path / "run", sound())
    (tmp_path / "run" / "test-engine.json").write_text("{}")
    folder = replace(read_folder(tmp_path / "run"), shards={"logs/shards/1-of-2.jsonl": b""})
    honest = recompute()
    change: Any = {name: raises(error) for name in honest.reports} if what == "reports" else raises(error)
    found = examine(folder, [], replace(honest, **{what: change}))
    assert not found.genuine
    assert type(error).__name__ in said(found) or str(error) in said(found)


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("where", ["build", "why_hollow", "_implied", "_differ"])
def test_whatever_the_certificates_own_checks_raise_is_a_problem(
    error: Exception, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    statement = build(sound(), DIGEST)
    result_ = statement.predicate.bi_harness.model_copy(update={"why": "other"})
    statement = statement.model_copy(
        update={"predicate": statement.predicate.model_copy(update={"bi_harness": result_})}
    )
    folder = Folder("x", {CERTIFICATE: statement.to_json().encode()}, whole=False)
    monkeypatch.setattr(module, where, raises(error))
    found = examine(folder, [], recompute())
    assert not found.genuine
    assert "contradicts itself" in said(found)


@pytest.mark.parametrize("digits", [400, 4_000, 5_000, 100_000])
def test_huge_counts_are_findings(tmp_path: Path, digits: int) -> None:
    """In a certificate, in a journal, and in one shard's journal; whichever number it is."""
    write_run(tmp_path / "run", sound())
    for name in (CERTIFICATE, "events.jsonl"):
        for old in (b'"prompts":4', b'"prompts": 4', b'"steps":16', b'"steps": 16', b'"max_ulp":0'):
            text = (tmp_path / "run" / name).read_bytes()
            huge = text.replace(old, old.rstrip(b"0123456789") + b"1" + b"0" * digits)
            if huge == text:
                continue
            (tmp_path / "run" / name).write_bytes(huge)
            assert not looked_at(tmp_path / "run").genuine
            assert not looked_at(tmp_path / "run" / name).genuine or name != CERTIFICATE
            (tmp_path / "run" / name).write_bytes(text)


def test_evidence_too_large_to_compute_with_is_a_finding() -> None:
    statement = build(sound(), DIGEST)
    (check,) = statement.predicate.bi_harness.checks
    assert check.evidence is not None
    prompts = f'"prompts": {check.evidence.prompts},'
    text = statement.to_json()
    assert prompts in text
    forged = text.replace(prompts, f'"prompts": {10**400},').encode()
    found = examine(Folder("x", {CERTIFICATE: forged}, whole=False), [], recompute())
    assert not found.genuine


# Words of another state in a reason.


@pytest.mark.parametrize(
    "reason",
    [
        "differs; its waiver expired on 2020-01-01",
        "; its waiver expired on ",
        "x; its waiver expired on 2020-01-01 (owner: A. Reviewer, https://example.org/issues/7)",
        "it waived itself: x",
        "it skipped itself, and no rule excludes it: x",
        "it never ran: the run ended before its unit did",
        "was waived; planted: x",
    ],
)
@pytest.mark.parametrize("status", ["fail", "error", "inconclusive"])
@pytest.mark.parametrize("waivers", ["none", "expired", "expired twice", "other"])
def test_words_of_another_state_in_a_reason_are_no_forgery(
    tmp_path: Path, reason: str, status: Any, waivers: str
) -> None:
    given = {
        "none": (),
        "expired": (waiver(expires="2020-01-01"),),
        "expired twice": (waiver(expires="2020-01-01"), waiver(expires="2021-01-01", owner="B")),
        "other": (waiver(check="other", expires="2020-01-01"),),
    }[waivers]
    events = sound(result(status, reason=reason))
    start = events[0].model_copy(update={"waivers": given})
    write_run(tmp_path / "run", [start, *events[1:]])
    found = looked_at(tmp_path / "run")
    assert found.genuine, said(found)


def test_expired_waiver_that_is_not_told_in_the_reason_is_a_contradiction() -> None:
    events = sound(result("fail"))
    start = events[0].model_copy(update={"waivers": (waiver(expires="2020-01-01"),)})
    statement = build([start, *events[1:]], DIGEST)
    (check,) = statement.predicate.bi_harness.checks
    assert "its waiver expired on 2020-01-01" in check.reason
    untold = check.model_copy(update={"reason": "because fail"})
    result_ = statement.predicate.bi_harness.model_copy(update={"checks": (untold,)})
    forged = statement.model_copy(
        update={"predicate": statement.predicate.model_copy(update={"bi_harness": result_})}
    )
    folder = Folder("x", {CERTIFICATE: forged.to_json().encode()}, whole=False)
    assert not examine(folder, [], recompute()).genuine
