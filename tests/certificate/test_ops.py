"""Operators as facts, and what a pass of them needs."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from bi_harness.certificate.ops import HOLDS, PLANTED, fact, found, name, ops_weakness, planted_controls
from bi_harness.certificate.records import CheckResult, Fact, OpDifference, OpRange, OpResult
from bi_harness.certificate.verdict import verdict, why_hollow

GOOD = OpResult(
    op="rms_norm",
    dtype="bfloat16",
    shape="2048",
    where="vllm.RMSNorm.forward_cuda",
    judged=True,
    promised=True,
    rows=4000,
    repeated=4096,
    distance=0.4,
    bound="3 ULP",
    ranges=(OpRange(first=1, last=4096, holds=True),),
)
DIFFERS = GOOD.model_copy(
    update={
        "differing": 12,
        "max_ulp": 1,
        "first": OpDifference(rows=256, place=17, beside="random"),
        "ranges": (OpRange(first=1, last=255, holds=True), OpRange(first=256, last=4096, holds=False)),
    }
)
STOCK = Fact(name=name(GOOD), found=found(DIFFERS))


def check(ops: tuple[OpResult, ...], control: tuple[Fact, ...], **changes: Any) -> CheckResult:
    facts = tuple(fact(op) for op in ops)
    base: dict[str, Any] = {"cell": "c", "check": "norm", "status": "pass", "facts": facts}
    return CheckResult(**{**base, "control_facts": control, "ops": ops, **changes})


def test_what_holds_is_what_is_expected() -> None:
    one = fact(GOOD)
    assert (one.found, one.judged, one.wrong, one.source) == (HOLDS, True, False, "vllm.RMSNorm.forward_cuda")


def test_the_boundary_is_told() -> None:
    one = fact(DIFFERS)
    assert one.wrong
    assert one.found == ("differs from M = 256 (place 17, beside random): 12 of 4,000 rows, by up to 1 ULP")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"distance": 1.01}, "wrong: 1.01 times as far from float64 as allowed (3 ULP)"),
        ({"distance": 1e30}, "wrong: 1e+30 times"),
        ({"unequal": 2}, "differs from itself: 2 of 4,096"),
        ({"rows": 0}, "nothing was compared"),
        ({"missing": "no such op"}, "skip: no such op"),
    ],
)
def test_nothing_else_holds(changes: dict[str, Any], said: str) -> None:
    one = GOOD.model_copy(update=changes)
    assert found(one).startswith(said)
    assert fact(one).judged == ("missing" not in changes)
    assert fact(one).wrong == fact(one).judged


def test_what_is_told_is_not_judged_and_what_is_drawn_has_a_name_of_its_own() -> None:
    assert not fact(DIFFERS.model_copy(update={"judged": False})).judged
    assert (
        name(GOOD.model_copy(update={"drawn": 6, "shape": "6 drawn shapes"}))
        == "rms_norm bfloat16, drawn shapes"
    )
    assert name(GOOD) == "rms_norm bfloat16, 2048"


def test_a_pass_needs_a_difference_in_the_control_of_every_judged_operator() -> None:
    other = GOOD.model_copy(update={"op": "other"})
    both = (GOOD, other)
    facts = [fact(op) for op in both]
    planted = Fact(name=name(other), found=f"{PLANTED}one bit: differs from M = 17")
    assert ops_weakness(both, facts, [STOCK, planted]) == ""
    assert planted_controls([STOCK, planted]) == 1
    weak = "nothing was seen to differ in the control of other bfloat16, 2048"
    assert ops_weakness(both, facts, [STOCK]) == weak
    assert ops_weakness(both, facts, [STOCK, planted.model_copy(update={"found": HOLDS})]) == weak
    # What is told needs no control, and what is missing must be so in both arms.
    gone = DIFFERS.model_copy(update={"missing": "x"})
    rest = (GOOD, other.model_copy(update={"judged": False}), gone)
    both_gone = [STOCK, Fact(name=name(gone), found="skip: x")]
    assert ops_weakness(rest, [fact(op) for op in rest], both_gone) == ""
    assert "is there with invariance off" in ops_weakness(rest, [fact(op) for op in rest], [STOCK])


def test_a_fact_that_is_not_what_was_measured_is_no_pass() -> None:
    lie = fact(GOOD)
    assert "is not what was measured" in ops_weakness([DIFFERS], [lie], [STOCK])
    assert "is not what was measured" in ops_weakness([GOOD], [], [STOCK])


def test_the_verdict_looks_at_them_again() -> None:
    assert why_hollow(check((GOOD,), (STOCK,))) == ""
    other = GOOD.model_copy(update={"op": "b"})
    same = Fact(name=name(other), found=HOLDS)
    assert "nothing was seen to differ" in why_hollow(check((GOOD, other), (STOCK, same)))
    assert "not what was measured" in why_hollow(check((DIFFERS,), (STOCK,), facts=(fact(GOOD),)))
    assert verdict([check((GOOD,), (STOCK,))], complete=True)[0] == "CERTIFIED"
    assert verdict([check((DIFFERS,), (STOCK,))], complete=True)[0] == "INCONCLUSIVE"
    told, why = verdict([check((DIFFERS,), (STOCK,), status="fail")], complete=True)
    assert told == "NOT_CERTIFIED"
    assert f"{name(DIFFERS)} is {found(DIFFERS)}, not {HOLDS}" in why


def test_the_verdict_names_planted_controls() -> None:
    planted = Fact(name=name(GOOD), found=f"{PLANTED}one bit: differs from M = 17")
    result = check((GOOD,), (planted,))
    told, why = verdict([result], complete=True)
    assert told == "CERTIFIED"
    assert why.endswith("(1 of them in part by a planted difference: see their facts)")


def test_results_without_operators_are_what_they_were() -> None:
    plain = CheckResult(cell="c", check="x", status="error", reason="r")
    assert "ops" not in plain.model_dump(mode="json")
    assert CheckResult.model_validate_json(plain.model_dump_json()) == plain
    some = check((GOOD, DIFFERS), (STOCK,))
    assert CheckResult.model_validate_json(some.model_dump_json()) == some


@pytest.mark.parametrize(
    "changes", [{"rows": -1}, {"distance": -0.5}, {"op": ""}, {"distance": float("inf")}]
)
def test_nonsense_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        OpResult(**{**GOOD.model_dump(), **changes})


_ops = st.builds(
    OpResult,
    op=st.sampled_from("ab"),
    dtype=st.just("bfloat16"),
    judged=st.booleans(),
    promised=st.booleans(),
    missing=st.sampled_from(["", "gone"]),
    rows=st.integers(0, 3),
    differing=st.integers(0, 2),
    unequal=st.integers(0, 1),
    distance=st.sampled_from([0.0, 1.0, 1.5]),
)


@given(st.lists(_ops, max_size=3).map(tuple), st.lists(st.sampled_from([HOLDS, "differs"]), max_size=3))
def test_no_certificate_without_evidence_and_a_control(
    ops: tuple[OpResult, ...], controls: list[str]
) -> None:
    control = tuple(Fact(name=name(op), found=text) for op, text in zip(ops, controls, strict=False))
    told, _ = verdict([check(ops, control)], complete=True)
    judged = [op for op in ops if fact(op).judged]
    if told == "CERTIFIED":
        assert judged
        assert all(op.rows and not op.differing and not op.unequal and op.distance <= 1 for op in judged)
        assert all(any(c.name == name(op) and c.found != HOLDS for c in control) for op in judged)
