"""Modules as facts, and what a pass of them needs."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from bi_harness.certificate.facts import facts_differ
from bi_harness.certificate.modules import HOLDS, control_facts, facts, found, modules_weakness, names
from bi_harness.certificate.ops import PLANTED, planted_controls
from bi_harness.certificate.records import CheckResult, Fact, ModuleResult, OpDifference, OpRange
from bi_harness.certificate.verdict import verdict, why_hollow

LINEAR = ModuleResult(
    type="RowParallelLinear",
    form="bfloat16[2048]",
    name="model.layers.0.mlp.down_proj",
    weights=("256x2048",),
    parameters=1,
    dtype="bfloat16",
    instances=4,
    audited=4,
    rows=4000,
    repeated=513,
    alone=8,
    ranges=(OpRange(first=1, last=513, holds=True),),
)
BROKEN: dict[str, Any] = {
    "differing": 12,
    "values": 90,
    "max_ulp": 1,
    "failing": ("model.layers.1.mlp.down_proj",),
    "first": OpDifference(rows=2, place=0, beside="subjects"),
    "ranges": (OpRange(first=1, last=1, holds=True), OpRange(first=2, last=513, holds=False)),
}
DIFFERS = LINEAR.model_copy(update=BROKEN)
NORM = LINEAR.model_copy(
    update={"type": "RMSNorm", "weights": ("weight 256 bfloat16",), "name": "model.norm"}
)
ATTENTION = LINEAR.model_copy(
    update={"type": "Attention", "how": "sequences", "parameters": 0, "weights": (), "name": "model.attn"}
)
HEAD = ModuleResult(
    type="ParallelLMHead", name="lm_head", parameters=1, instances=1, through="logits_processor"
)
WHOLE = ModuleResult(type="Qwen3Model", name="model", parameters=0, instances=1, missing="no call was seen")
GOOD = (LINEAR, NORM, ATTENTION, HEAD, WHOLE)


def stock(modules: tuple[ModuleResult, ...] = GOOD) -> tuple[Fact, ...]:
    """With invariance off the linear layer differs, and the others by what was planted."""
    off = tuple(m.model_copy(update=BROKEN) if m is LINEAR else m for m in modules)
    planted = {name: ("a bit", m.model_copy(update=BROKEN)) for name, m in zip(names(off), off, strict=True)}
    return control_facts(off, planted)


def check(
    modules: tuple[ModuleResult, ...] = GOOD, control: tuple[Fact, ...] | None = None, **changes: Any
) -> CheckResult:
    base: dict[str, Any] = {
        "cell": "c",
        "check": "modules",
        "status": "pass",
        "facts": facts(modules),
        "control_facts": stock() if control is None else control,
        "modules": modules,
    }
    return CheckResult(**{**base, **changes})


def test_healthy_modules_are_certified_and_say_what_was_planted() -> None:
    healthy = check()
    assert why_hollow(healthy) == ""
    assert verdict([healthy], complete=True)[0] == "CERTIFIED"
    assert "by a planted difference" in verdict([healthy], complete=True)[1]
    assert planted_controls(healthy.control_facts) == 2


def test_a_module_that_differs_is_named_with_its_instance_and_the_batch() -> None:
    (fact,) = facts((DIFFERS,))
    assert fact.name == "RowParallelLinear 256x2048 of bfloat16[2048]"
    assert fact.found == (
        "differs from M = 2 (place 0, beside subjects): 12 of 4,000 rows, 90 values, by up to 1 ULP, "
        "in model.layers.1.mlp.down_proj of 4"
    )
    failed = check((DIFFERS, NORM, ATTENTION), status="fail")
    told = verdict([failed], complete=True)
    assert told[0] == "NOT_CERTIFIED"
    assert "RowParallelLinear 256x2048" in told[1]
    assert "model.layers.1.mlp.down_proj" in told[1]


def test_one_that_reads_pass_and_differs_is_not_believed() -> None:
    assert "1 of 3 facts are not as expected" in why_hollow(check((DIFFERS, NORM, ATTENTION)))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"unrepeatable": 3}, "not repeatable: 3 of 8 rows alone differ from themselves"),
        ({"unequal": 2}, "not repeatable: 2 of 513 rows computed twice"),
        ({"changed": "running_mean"}, "calls change its running_mean"),
        ({"rows": 0}, "nothing was compared"),
        ({"failing": ("x",)}, "fails, in x of 4"),
        ({"first": OpDifference(rows=7, place=0, beside="zeros")}, "differs from M = 7"),
    ],
)
def test_nothing_else_holds(changes: dict[str, Any], said: str) -> None:
    one = LINEAR.model_copy(update=changes)
    assert found(one).startswith(said)
    assert facts((one,))[0].wrong
    assert facts_differ(facts((one,)))


def test_what_is_not_audited_is_told_with_why_and_judged_nowhere() -> None:
    head, whole = facts((HEAD, WHOLE))
    assert (head.found, head.judged) == ("audited through logits_processor", False)
    assert (whole.found, whole.judged) == ("not audited: no call was seen", False)


def test_two_of_one_name_are_told_apart_by_their_instances() -> None:
    other = LINEAR.model_copy(update={"quant": "Fp8LinearMethod", "name": "model.layers.0.self_attn.o_proj"})
    told = [fact.name for fact in facts((LINEAR, other))]
    assert len(set(told)) == 2
    assert told[1].endswith("(model.layers.0.self_attn.o_proj)")


UNAUDITED = {"missing": "it raised RuntimeError: no", "rows": 0, "audited": 0, "ranges": ()}


@pytest.mark.parametrize(
    ("modules", "says"),
    [
        ((LINEAR.model_copy(update=UNAUDITED), NORM), "has weights or is a norm, and was not audited"),
        ((LINEAR, NORM.model_copy(update={**UNAUDITED, "parameters": 0})), "RMSNorm .* was not audited"),
        ((LINEAR, HEAD.model_copy(update={"through": "", "missing": "never called"})), "ParallelLMHead"),
    ],
)
def test_a_pass_needs_all_weights_and_norms(modules: tuple[ModuleResult, ...], says: str) -> None:
    import re

    assert re.search(says, why_hollow(check(modules)))
    assert verdict([check(modules)], complete=True)[0] == "INCONCLUSIVE"


def test_a_model_of_which_nothing_was_audited_never_passes() -> None:
    for modules in ((), (WHOLE,), (HEAD, WHOLE)):
        assert why_hollow(check(modules, control=()))
        assert verdict([check(modules)], complete=True)[0] == "INCONCLUSIVE"


def test_a_control_must_have_differed_for_each_and_for_one_by_itself() -> None:
    assert "the control of the facts did not run" in why_hollow(check(control=()))
    alike = control_facts(GOOD, {})
    assert "the same facts" in why_hollow(check(control=alike))
    planted = {
        name: ("a bit", m.model_copy(update=BROKEN)) for name, m in zip(names(GOOD), GOOD, strict=True)
    }
    assert "but by a planted difference" in why_hollow(check(control=control_facts(GOOD, planted)))
    blind = tuple(f if "RMSNorm" not in f.name else Fact(name=f.name, found=HOLDS) for f in stock())
    assert "nothing was seen to differ in the control of RMSNorm" in why_hollow(check(control=blind))
    # One that is random, or could not be audited there, has not shown that a difference would be seen.
    random = LINEAR.model_copy(update={"unrepeatable": 2, "failing": ("x",)})
    assert control_facts((random,), {})[0].found == HOLDS


def test_a_planted_difference_that_was_not_seen_is_none() -> None:
    (fact,) = control_facts((LINEAR,), {names((LINEAR,))[0]: ("a bit", LINEAR)})
    assert fact.found == HOLDS
    (fact,) = control_facts((LINEAR,), {names((LINEAR,))[0]: ("a bit", DIFFERS)})
    assert fact.found.startswith(f"{PLANTED}a bit: differs from M = 2")


def test_facts_are_what_was_found() -> None:
    told = facts(GOOD)
    lie = (told[0].model_copy(update={"source": "elsewhere"}), *told[1:])
    assert "is not what was found" in why_hollow(check(facts=lie))
    assert "is not what was found" in why_hollow(check(facts=told[1:]))
    assert modules_weakness((), told, ()) == ""


def test_a_certificate_without_modules_has_no_word_of_them() -> None:
    assert "modules" not in CheckResult(cell="c", check="x", status="pass").model_dump(mode="json")
    whole = check().model_dump(mode="json")
    assert CheckResult.model_validate(whole) == check()


@pytest.mark.parametrize("changes", [{"type": ""}, {"rows": -1}, {"how": "guess"}, {"more": 1}])
def test_a_record_of_another_make_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        ModuleResult(**{**LINEAR.model_dump(), **changes})


@given(
    st.fixed_dictionaries(
        {
            "rows": st.integers(0, 3),
            "differing": st.integers(0, 3),
            "unequal": st.integers(0, 2),
            "unrepeatable": st.integers(0, 2),
            "changed": st.sampled_from(["", "weight"]),
            "failing": st.sampled_from([(), ("a",)]),
            "missing": st.sampled_from(["", "why"]),
            "through": st.sampled_from(["", "mlp"]),
            "parameters": st.integers(0, 1),
        }
    )
)
def test_only_what_is_right_in_every_way_can_pass(changes: dict[str, Any]) -> None:
    one = LINEAR.model_copy(update=changes)
    right = not any(changes[k] for k in changes if k not in ("rows", "parameters")) and changes["rows"]
    assert (found(one) == HOLDS) == bool(right)
    result = check((one,), control=(Fact(name=names((one,))[0], found=found(DIFFERS)),))
    assert (verdict([result], complete=True)[0] == "CERTIFIED") == bool(right)
