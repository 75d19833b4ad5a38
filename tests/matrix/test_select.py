"""-k and what a selection leaves."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bi_harness.errors import UsageError
from bi_harness.matrix.expand import expand
from bi_harness.matrix.expression import compile_expression
from bi_harness.matrix.select import select
from bi_harness.spec.load import Spec

TEXT = "h200/qwen3-1.7b/FLASH_ATTN/tp1-dp1/compile/batch_invariance::bs1_vs_bsN"


@pytest.mark.parametrize(
    ("expression", "met"),
    [
        ("qwen3", True),
        ("flash_attn", True),
        ("not eager", True),
        ("eager or compile", True),
        ("eager and compile", False),
        ("not (eager or triton)", True),
        ("not not qwen3", True),
        ("qwen3-1.7b/FLASH_ATTN", True),
        ("batch_invariance::bs1", True),
        ("eager or compile and nope", False),
        ("(eager or compile) and qwen3", True),
        ("tp1-dp1 and not(tp2)", True),
    ],
)
def test_the_grammar_is_pytests(expression: str, met: bool) -> None:
    assert compile_expression(expression)(TEXT) is met


@pytest.mark.parametrize(
    ("expression", "column"),
    [
        ("(a", 1),
        ("a b", 3),
        ("a and", 6),
        ("or a", 1),
        ("a)", 2),
        ("a & b", 3),
        ("()", 2),
        ("not", 4),
        ("(" * 99, 51),
    ],
)
def test_mistakes_are_named_with_their_column(expression: str, column: int) -> None:
    with pytest.raises(UsageError, match=f"column {column}:"):
        compile_expression(expression)


@given(st.text(alphabet="ab ()andort-:", max_size=30))
def test_agrees_with_pytest(expression: str) -> None:
    from _pytest.mark.expression import Expression

    try:
        theirs = Expression.compile(expression).evaluate(lambda name, **_: name.lower() in TEXT.lower())
    except SyntaxError:
        theirs = None
    try:
        ours = compile_expression(expression)(TEXT) if expression.strip() else None
    except UsageError:
        ours = None
    # pytest takes a blank expression for false; here it never reaches the parser.
    assert ours == theirs or not expression.strip()


def test_only_cells_with_a_check_left_stay(spec: Spec) -> None:
    whole = expand(spec, "gpu", vllm_version="0.33.0", profile="nightly", models=["big"])
    everything = select(whole, spec)
    assert everything.plan == whole
    # "spread" needs tp above 1.
    assert {(len(names), "tp2" in cell) for cell, names in everything.checks.items()} == {
        (1, False),
        (2, True),
    }
    spread = select(whole, spec, "spread and eager")
    assert {cell.rsplit("/", 2)[1] for cell in spread.checks} == {"eager"}
    assert set(spread.checks.values()) == {("spread",)}
    assert len(spread.plan.units) == spread.running == 2
    assert select(whole, spec, "nothing").plan.cells == ()
    assert select(whole, spec, "  ").plan == whole


@given(st.sampled_from(["alone", "spread", "not alone", "FLASH or tp2", "compile and not TRITON"]))
def test_a_selection_is_a_subset(expression: str) -> None:
    from tests.matrix.test_expand import SHIPPED

    whole = expand(SHIPPED, "h200", vllm_version="0.33.0", profile="nightly")
    chosen = select(whole, SHIPPED, expression)
    assert set(chosen.plan.cells) <= set(whole.cells)
    assert {unit.id for unit in chosen.plan.units} <= {unit.id for unit in whole.units}
    assert all(chosen.checks.values())
