"""Which releases of vLLM count at the gate: failures of more of them than passes."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bi_harness.certificate.gate import GateResult
from bi_harness.spec.policy import Policy, parse_release
from tests.certificate.journals import result, sound
from tests.certificate.policies import certificate, held, policy
from tests.certificate.test_gate import of_release, reasons

RANGE = ">=0.33,<0.34"


def with_release(vllm: dict[str, Any] | str, asked: Policy) -> tuple[GateResult, GateResult]:
    """What the gate says of a passing run of this release alone, and of a failing one beside a good one."""
    good = certificate(of_release(sound(), "0.33.0"), place="good")
    one = certificate(of_release(sound(), vllm), place="one")
    red = certificate(of_release(sound(result("fail")), vllm), place="red")
    return held(asked, one), held(asked, good, red)


@pytest.mark.parametrize(
    "vllm",
    [
        "0.33.0rc1",
        "0.33.0.dev5",
        "0.33.0.dev5+g1234567.cu128",
        "0.33rc1",
        "v0.33.0-alpha.1",
        "0.33.0a1.dev2",
        "0.33.1rc1",
        "0.33.1.dev7",
    ],
)
def test_prerelease_counts_against_and_for_nothing(vllm: str) -> None:
    alone, beside = with_release(vllm, policy(vllm=RANGE))
    assert not alone.passed
    assert beside.requirements[0].state == "failed"
    assert "red: alone failed" in reasons(beside)


@pytest.mark.parametrize(
    ("vllm", "asked"),
    [
        ("0.33.0+cu128", RANGE),
        ("0.33.0+cu128", "==0.33.0"),
        ("0.33.0.post1", RANGE),
        ("0.33.0rc2", ">=0.33.0rc1,<0.34"),
        ("0.33.0rc1", "==0.33.0rc1"),
        ("0.33.0.dev5", "===0.33.0.dev5"),
    ],
)
def test_build_and_prerelease_named_by_the_range_count_both_ways(vllm: str, asked: str) -> None:
    alone, beside = with_release(vllm, policy(vllm=asked))
    assert alone.passed, reasons(alone)
    assert beside.requirements[0].state == "failed"


def test_flag_lets_prereleases_of_the_range_pass() -> None:
    for vllm in ("0.33.1rc1", "0.33.1.dev5"):
        alone, beside = with_release(vllm, policy(vllm=RANGE, allow_prereleases=True))
        assert alone.passed
        assert beside.requirements[0].state == "failed"
    # PEP 440 puts it before the range; its release, which the range begins with, is another one.
    alone, _ = with_release("0.33.0rc1", policy(vllm=RANGE, allow_prereleases=True))
    assert not alone.passed


@pytest.mark.parametrize(
    ("vllm", "asked"),
    [
        ("0.34.0rc1", RANGE),
        ("0.34.0.dev1", RANGE),
        ("0.32.9", RANGE),
        ("0.33.0rc1", ">=0.33.0rc2,<0.34"),
        ("0.33.0rc1", "!=0.33.0,>=0.33,<0.34"),
    ],
)
def test_release_outside_the_range_counts_neither_way(vllm: str, asked: str) -> None:
    alone, beside = with_release(vllm, policy(vllm=asked, allow_prereleases=True))
    assert not alone.passed
    assert beside.requirements[0].state != "failed"


def test_range_that_excludes_a_prerelease_by_name_allows_no_other() -> None:
    for asked in (">=0.33,!=0.33.1rc1", ">=0.33,<0.34.0.dev0"):
        alone, beside = with_release("0.33.1rc2", policy(vllm=asked))
        assert not alone.passed
        assert beside.requirements[0].state == "failed"


UNKNOWN: dict[str, dict[str, Any] | str] = {
    "absent": {},
    "empty": "",
    "a branch": "main",
    "named otherwise": {"release": "0.33.0"},
    "other digits": "٠.٣٣.٠",
}


@pytest.mark.parametrize("name", UNKNOWN)
def test_failure_with_an_unknown_release_counts_and_a_pass_does_not(name: str) -> None:
    for asked in (policy(vllm=RANGE), policy(vllm=""), policy(vllm=RANGE, allow_prereleases=True)):
        alone, beside = with_release(UNKNOWN[name], asked)
        assert not alone.passed
        assert beside.requirements[0].state == "failed"


@pytest.mark.parametrize(
    "version", ["9" * 4_301, "0." * 4_301 + "1", "0.33+" + "9" * 4_301, "9" * 4_301 + "!1"]
)
def test_version_of_thousands_of_digits_is_not_one(version: str) -> None:
    """No certificate with one is genuine; the look at it is safe all the same."""
    assert parse_release(version) is None
    assert not policy(vllm=RANGE).accepts(version)


VERSIONS = st.from_regex(
    r"\A([0-3]!)?0\.3[2-4](\.[0-2])?((a|b|rc)[0-2])?(\.post[0-2])?(\.dev[0-3])?(\+cu12[0-9])?\Z"
)
RANGES = st.lists(
    st.from_regex(r"\A(>=|<=|>|<|==|!=|===)0\.3[2-4](\.[0-2])?((a|rc)[0-2])?\Z"), min_size=1, max_size=3
).map(",".join)


@given(VERSIONS, RANGES, st.booleans())
def test_whatever_pass_counts_its_failure_counts_too(vllm: str, asked: str, allowed: bool) -> None:
    found = policy(vllm=asked, allow_prereleases=allowed)
    assert not found.accepts(vllm) or found.speaks_of(vllm)


@given(st.text(max_size=40) | st.text(alphabet="0123456789.!+rc", max_size=6_000))
def test_no_text_breaks_the_look_at_a_release(vllm: str) -> None:
    found = policy(vllm=RANGE)
    assert not found.accepts(vllm) or found.speaks_of(vllm)
