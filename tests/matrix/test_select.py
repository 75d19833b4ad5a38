"""-k and what a selection leaves."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bi_harness.errors import SpecError, UsageError
from bi_harness.matrix.cells import Cell
from bi_harness.matrix.execution import SAME_AS_DEFAULT, default_twin
from bi_harness.matrix.expand import expand
from bi_harness.matrix.expression import compile_expression
from bi_harness.matrix.select import checks_of, narrowed, select
from bi_harness.spec.load import Spec, default_paths, load_spec
from bi_harness.spec.types import PROFILES
from tests.spec.small import Files

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


ON_CPU = Cell("cpu", "tiny", "CPU_ATTN", 1, 1, "eager", "core")
ON_GPU = Cell("gpu", "big", "FLASH_ATTN", 2, 1, "eager", "core")


@pytest.fixture
def by_profile(tmp_path: Path) -> Spec:
    """The small spec with a check of each kind of ``profiles``; "spread" needs tp above 1 besides."""
    files = Files(tmp_path)
    files.suite = files.suite.replace('tp: ">1"}}', 'tp: ">1"}, profiles: [nightly, release]}').replace(
        "timeouts:",
        '  - {id: late, test: "test_c.py::test_c", summary: Three., profiles: [release]}\n'
        '  - {id: quick, test: "test_d.py::test_d", summary: Four., profiles: [smoke]}\n'
        "timeouts:",
    )
    return files.load()


@pytest.mark.parametrize(
    ("profile", "on_cpu", "on_gpu"),
    [
        ("smoke", ["alone", "quick"], ["alone", "quick"]),
        ("nightly", ["alone"], ["alone", "spread"]),
        ("release", ["alone", "late"], ["alone", "spread", "late"]),
    ],
)
def test_a_check_runs_in_its_profiles_where_its_needs_are_met(
    by_profile: Spec, profile: str, on_cpu: list[str], on_gpu: list[str]
) -> None:
    assert [check.id for check in checks_of(by_profile, ON_CPU, profile)] == on_cpu
    assert [check.id for check in checks_of(by_profile, ON_GPU, profile)] == on_gpu


def test_a_check_does_not_run_where_its_unless_is_met(tmp_path: Path) -> None:
    files = Files(tmp_path)
    files.suite = files.suite.replace(
        "timeouts:",
        '  - {id: late, test: "test_c.py::test_c", summary: Three.,'
        " unless: [{tp: 9}, {kind: cpu, mode: eager}]}\n"
        "timeouts:",
    )
    spec = files.load()
    compiled = replace(ON_CPU, mode="compile")
    assert "late" not in [check.id for check in checks_of(spec, ON_CPU, "smoke")]
    for cell in (compiled, ON_GPU):
        assert "late" in [check.id for check in checks_of(spec, cell, "smoke")]


def test_an_unless_may_hold_in_one_profile_alone(tmp_path: Path) -> None:
    files = Files(tmp_path)
    files.suite = files.suite.replace(
        "timeouts:",
        '  - {id: late, test: "test_c.py::test_c", summary: Three.,'
        " unless: [{kind: cpu, profile: smoke}]}\n"
        "timeouts:",
    )
    spec = files.load()
    there = {
        (cell.device, profile): "late" in [check.id for check in checks_of(spec, cell, profile)]
        for cell in (ON_CPU, ON_GPU)
        for profile in ("smoke", "nightly")
    }
    assert there == {
        ("cpu", "smoke"): False,
        ("cpu", "nightly"): True,
        ("gpu", "smoke"): True,
        ("gpu", "nightly"): True,
    }


def test_a_rule_knows_no_profile(tmp_path: Path) -> None:
    files = Files(tmp_path)
    files.hardware = files.hardware.replace("when: {kind: cuda,", "when: {kind: cuda, profile: smoke,")
    with pytest.raises(SpecError, match="profile"):
        files.load()


SPECULATING = """\
  - {id: main, test: "test_c.py::test_c", summary: A., speculation: {method: eagle, draft: main, tokens: 3}}
  - {id: wrong, test: "test_d.py::test_d", summary: B., speculation: {method: eagle, draft: wrong, tokens: 5}}
  - {id: ngram, test: "test_e.py::test_e", summary: C., speculation: {method: ngram, tokens: 3}}
timeouts:"""


def test_a_check_needs_a_draft_for_the_weights_that_run(tmp_path: Path) -> None:
    files = Files(tmp_path)
    files.suite = files.suite.replace("timeouts:", SPECULATING)
    files.models = files.models.replace(
        "    hf: Org/Big\n",
        "    hf: Org/Big\n    next_token: true\n"
        "    drafts: {main: {hf: Org/Head, noise: 1.0}, wrong: {noise: 0.0, opposite: true}}\n",
    )
    spec = files.load()

    def found(cell: Cell, weights: str) -> list[str]:
        return [check.id for check in checks_of(spec, cell, "smoke", weights) if check.speculation]

    big = replace(ON_GPU, model="big")
    assert found(big, "named") == ["main", "ngram"]
    assert found(big, "synthetic") == ["main", "wrong", "ngram"]
    assert found(ON_CPU, "synthetic") == ["ngram"], "a model without drafts"


def test_a_check_without_profiles_is_in_all(spec: Spec) -> None:
    for profile in PROFILES:
        assert [check.id for check in checks_of(spec, ON_GPU, profile)] == ["alone", "spread"]


def test_a_profile_that_nothing_belongs_to_has_no_checks(by_profile: Spec) -> None:
    assert checks_of(by_profile, ON_CPU, "weekly") == ()


def test_the_plans_profile_decides_what_is_selected(by_profile: Spec) -> None:
    def chosen(profile: str, expression: str | None = None) -> set[tuple[str, ...]]:
        whole = expand(by_profile, "cpu", vllm_version="0.32.0", profile=profile, models=["tiny"])
        return set(select(whole, by_profile, expression).checks.values())

    assert chosen("smoke") == {("alone", "quick")}
    assert chosen("release") == {("alone", "late")}
    # -k brings no check into a profile that it is not in.
    assert chosen("smoke", "late") == set()
    assert chosen("release", "late") == {("late",)}


def test_a_cell_without_a_check_in_the_profile_is_not_run(tmp_path: Path) -> None:
    files = Files(tmp_path)
    files.suite = files.suite.replace("summary: One.", "summary: One., profiles: [release]")
    spec = files.load()
    plan = expand(spec, "cpu", vllm_version="0.32.0", profile="smoke", models=["tiny"])
    found = select(plan, spec)
    assert (found.checks, found.plan.cells, found.plan.units) == ({}, (), ())


def test_the_shipped_checks_that_need_another_engine_are_not_in_smoke() -> None:
    from tests.matrix.test_expand import SHIPPED

    cell = Cell("cpu", "qwen3-tiny", "CPU_ATTN", 1, 1, "eager", "batch_invariance")
    smoke, nightly = (checks_of(SHIPPED, cell, profile) for profile in ("smoke", "nightly"))
    assert {check.id for check in nightly} - {check.id for check in smoke} == {"restart", "lora"}
    assert not [check.id for check in smoke if check.engine_args or check.adapters]


@given(st.sampled_from(["alone", "spread", "not alone", "FLASH or tp2", "compile and not TRITON"]))
def test_a_selection_is_a_subset(expression: str) -> None:
    from tests.matrix.test_expand import SHIPPED

    whole = expand(SHIPPED, "h200", vllm_version="0.33.0", profile="nightly")
    chosen = select(whole, SHIPPED, expression)
    # A mode that is left to `default` runs after all where the expression leaves `default` out.
    left = {planned.cell.id for planned in whole.cells if planned.rule == SAME_AS_DEFAULT}
    assert {p for p in chosen.plan.cells if p.cell.id not in left} <= set(whole.cells)
    assert {p.cell for p in chosen.plan.cells} <= {p.cell for p in whole.cells}
    assert all(chosen.checks.values())


@pytest.fixture
def compiled_default(tmp_path: Path) -> Files:
    """The small spec with mode default, which is compile everywhere."""
    files = Files(tmp_path)
    files.hardware = files.hardware.replace("[eager, compile]", "[default, compile, eager]") + (
        "execution:\n  all: {when: {}, default: compile, source: here}\n"
    )
    return files


def chosen(spec: Spec, expression: str | None) -> dict[str, tuple[str, tuple[str, ...]]]:
    """By mode: whether the cell of the tiny model runs, and its checks."""
    whole = expand(spec, "cpu", vllm_version="0.32.0", profile="nightly", models=["tiny"])
    found = select(whole, spec, expression)
    return {p.cell.mode: (p.status, found.checks[p.cell.id]) for p in found.plan.cells}


def test_expression_that_leaves_default_out_makes_its_twin_run(compiled_default: Files) -> None:
    spec = compiled_default.load()
    everything = chosen(spec, None)
    assert {mode: status for mode, (status, _) in everything.items()} == {
        "default": "run",
        "compile": "skip",
        "eager": "run",
    }
    assert chosen(spec, "compile") == {"compile": ("run", ("alone",))}
    assert chosen(spec, "not default and not eager") == {"compile": ("run", ("alone",))}
    assert chosen(spec, "alone") == everything
    assert chosen(spec, "default or compile") == {m: everything[m] for m in ("default", "compile")}
    assert chosen(spec, "default") == {"default": ("run", ("alone",))}


def test_twin_that_runs_after_all_has_a_unit_and_no_reason(compiled_default: Files) -> None:
    spec = compiled_default.load()
    whole = expand(spec, "cpu", vllm_version="0.32.0", profile="nightly", models=["tiny"])
    found = select(whole, spec, "compile")
    (planned,) = found.plan.cells
    assert (planned.rule, planned.reason, planned.source) == (None, "", "")
    assert [unit.cells for unit in found.plan.units] == [(planned.cell,)]
    assert found.running == 1


def test_twin_runs_where_default_lacks_one_of_its_checks(compiled_default: Files) -> None:
    spec = compiled_default.load()
    whole = expand(spec, "gpu", vllm_version="0.33.0", profile="nightly", models=["big"])
    found = select(whole, spec, "alone or (compile and spread)")
    statuses = {
        (p.cell.mode, p.cell.tp): p.status for p in found.plan.cells if p.cell.backend == "FLASH_ATTN"
    }
    # "spread" needs tp above 1.
    assert statuses == {
        ("default", 1): "run",
        ("compile", 1): "skip",
        ("eager", 1): "run",
        ("default", 2): "run",
        ("compile", 2): "run",
        ("eager", 2): "run",
    }


def test_conditions_of_a_check_on_a_mode_hold_for_a_default_that_is_it(compiled_default: Files) -> None:
    compiled_default.suite = compiled_default.suite.replace(
        "timeouts:",
        '  - {id: needs, test: "test_c.py::test_c", summary: Three., needs: {mode: compile}}\n'
        '  - {id: unless, test: "test_d.py::test_d", summary: Four., unless: [{mode: [compile]}]}\n'
        "timeouts:",
    )
    spec = compiled_default.load()
    default, compiled = replace(ON_CPU, mode="default"), replace(ON_CPU, mode="compile")

    def ids(cell: Cell, same_as: Any = None) -> list[str]:
        return [check.id for check in checks_of(spec, cell, "nightly", same_as=same_as)]

    assert ids(compiled) == ids(default, "compile") == ["alone", "needs"]
    assert ids(default) == ids(default, "eager") == ids(ON_CPU) == ["alone", "unless"]
    assert chosen(spec, None)["default"] == ("run", ("alone", "needs"))
    assert chosen(spec, None)["compile"] == ("skip", ("alone", "needs"))


@given(
    st.sampled_from(["", "compile", "default", "not default", "eager or bs1", "h200", "bs1 and not eager"])
)
def test_every_check_of_a_skipped_twin_runs_in_its_default_cell(expression: str) -> None:
    from tests.matrix.test_expand import SHIPPED

    for device, vllm in (("h200", "0.30.0"), ("h200", "0.33.0"), ("cpu", "0.32.0")):
        whole = expand(SHIPPED, device, vllm_version=vllm, profile="nightly")
        found = select(whole, SHIPPED, expression)
        by_id = {p.cell.id: p for p in found.plan.cells}
        for planned in found.plan.cells:
            if planned.rule == SAME_AS_DEFAULT:
                twin = default_twin(planned.cell.id)
                assert by_id[twin].status == "run"
                assert set(found.checks[planned.cell.id]) <= set(found.checks[twin])


def test_what_a_running_server_can_be_asked() -> None:
    paths = default_paths()
    shipped = load_spec(paths.models, paths.hardware, paths.suites)
    plan = expand(shipped, "cpu", vllm_version="0.32.0", profile="nightly", models=["qwen3-tiny"])
    found = narrowed(select(plan, shipped), shipped, "online")
    (cell,) = found.plan.cells
    assert (cell.cell.mode, cell.cell.dp, cell.cell.suite) == ("default", 1, "online")
    assert found.checks == {cell.cell.id: ("completions", "streaming", "chat")}
    assert [unit.cells for unit in found.plan.units] == [(cell.cell,)]
    assert narrowed(select(plan, shipped, "needle"), shipped, "online").plan.units == ()
