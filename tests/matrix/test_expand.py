"""Spec → plan."""

from __future__ import annotations

import random
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bi_harness.errors import UsageError
from bi_harness.matrix.cells import Plan, PlannedCell
from bi_harness.matrix.execution import SAME_AS_DEFAULT, default_twin
from bi_harness.matrix.expand import expand
from bi_harness.matrix.rules import Point, RuleBook, device_meets, holds_for, point_meets, version
from bi_harness.matrix.select import absent, select
from bi_harness.spec.load import Spec, default_paths, load_spec
from bi_harness.spec.types import PROFILES
from tests.spec.small import Files

_paths = default_paths(environ={})
SHIPPED = load_spec(_paths.models, _paths.hardware, _paths.suites)


def plan(spec: Spec, device: str = "gpu", **options: Any) -> Plan:
    return expand(spec, device, **{"vllm_version": "0.33.0", "profile": "nightly", **options})


def ids(found: Plan, status: str) -> list[str]:
    return [planned.cell.id for planned in found.cells if planned.status == status]


def test_the_order_is_model_backend_sizes_mode_suite(spec: Spec) -> None:
    found = plan(spec, models=["big"])
    assert [planned.cell.id for planned in found.cells] == [
        f"gpu/big/{backend}/tp{tp}-dp1/{mode}/core"
        for backend in ("FLASH_ATTN", "TRITON_ATTN")
        for tp in (1, 2)
        for mode in ("eager", "compile")
    ]


def test_rules_depend_on_the_release(spec: Spec) -> None:
    old = plan(spec, models=["big"], vllm_version="0.21.0")
    assert all(cell.endswith("compile/core") for cell in ids(old, "skip"))
    skipped = [planned for planned in old.cells if planned.status == "skip"]
    assert len(skipped) == 4
    assert {(p.rule, p.reason, p.source) for p in skipped} == {("eager-only", "Eager only.", "PR 1")}
    assert not ids(plan(spec, models=["big"]), "skip")


MODES_OF_DEFAULT = """\
execution:
  new:
    vllm: ">=0.31"
    when: {kind: cuda}
    default: breakable
    compile_env: {Y: "0"}
    source: vLLM 0.31.0
  old:
    when: {kind: cuda}
    default: compile
    source: vLLM 0.30.0
"""


@pytest.fixture
def three(tmp_path: Path) -> Files:
    """The small spec with three modes: on the GPU default is compile before 0.31, and on the CPU unknown."""
    files = Files(tmp_path)
    files.hardware = (
        files.hardware.replace("[eager, compile]", "[default, compile, eager]") + MODES_OF_DEFAULT
    )
    return files


def one_place(spec: Spec, vllm: str = "0.30.0", **options: Any) -> dict[str, PlannedCell]:
    """The cells of one model, backend and size, by mode."""
    found = plan(spec, models=["big"], backends=["FLASH_ATTN"], vllm_version=vllm, **options)
    return {p.cell.mode: p for p in found.cells if p.cell.tp == 1}


def test_default_comes_first_and_the_mode_that_it_is_the_same_as_is_left_to_it(three: Files) -> None:
    modes = one_place(three.load())
    assert list(modes) == ["default", "compile", "eager"]
    assert [planned.status for planned in modes.values()] == ["run", "skip", "run"]
    left = modes["compile"]
    assert (left.rule, left.source) == (SAME_AS_DEFAULT, "vLLM 0.30.0")
    assert left.reason == "default is compile here (vLLM 0.30.0): the default cell has its results."
    assert [planned.same_as for planned in modes.values()] == ["compile", None, None]


def test_skipped_twin_has_no_unit(three: Files) -> None:
    found = plan(three.load(), models=["big"], vllm_version="0.30.0")
    assert {unit.cells[0].mode for unit in found.units} == {"default", "eager"}


def test_all_three_run_where_default_is_none_of_the_others_or_not_known(three: Files) -> None:
    assert {p.status for p in one_place(three.load(), "0.33.0").values()} == {"run"}
    on_cpu = plan(three.load(), "cpu").cells
    assert [(p.cell.mode, p.status, p.same_as) for p in on_cpu] == [
        ("default", "run", None),
        ("compile", "run", None),
        ("eager", "run", None),
    ]


def test_mode_that_is_asked_for_alone_runs_whatever_default_is(three: Files) -> None:
    spec = three.load()
    for mode in ("default", "compile", "eager"):
        (found,) = one_place(spec, modes=[mode]).values()
        assert (found.cell.mode, found.status) == (mode, "run")
    both = one_place(spec, modes=["compile", "default"])
    assert [(mode, planned.status) for mode, planned in both.items()] == [
        ("default", "run"),
        ("compile", "skip"),
    ]


def test_rule_on_a_mode_applies_to_a_default_that_is_that_mode(three: Files) -> None:
    # The small spec's rule: eager only before 0.22, `mode: compile`.
    modes = one_place(three.load(), "0.21.0")
    assert [(mode, p.rule) for mode, p in modes.items()] == [
        ("default", "eager-only"),
        ("compile", "eager-only"),
        ("eager", None),
    ]
    # Where default is not that mode, the rule is about compile alone.
    three.hardware = three.hardware.replace("    default: compile\n", "    default: eager\n")
    modes = one_place(three.load(), "0.21.0")
    assert [(mode, p.rule) for mode, p in modes.items()] == [
        ("default", None),
        ("compile", "eager-only"),
        ("eager", SAME_AS_DEFAULT),
    ]


def test_mode_runs_itself_where_a_rule_excludes_default_alone(three: Files) -> None:
    three.hardware = three.hardware.replace("mode: compile}", "mode: [default]}")
    modes = one_place(three.load(), "0.21.0")
    assert [(mode, p.rule) for mode, p in modes.items()] == [
        ("default", "eager-only"),
        ("compile", None),
        ("eager", None),
    ]


def test_suite_without_mode_default_has_no_default_cell_and_leaves_nothing_to_it(three: Files) -> None:
    three.suite = three.suite.replace("engine: shared\n", "engine: shared\nmodes: [compile, eager]\n")
    modes = one_place(three.load())
    assert [(mode, p.status) for mode, p in modes.items()] == [("compile", "run"), ("eager", "run")]


def test_shipped_start_up_suite_runs_compile_itself() -> None:
    found = expand(SHIPPED, "cpu", vllm_version="0.32.0", profile="nightly", suites=["compile_startup"])
    assert {(p.cell.mode, p.status) for p in found.cells if p.rule in (None, SAME_AS_DEFAULT)} == {
        ("compile", "run")
    }


def test_shipped_hopper_plan_runs_default_apart_from_compile_from_0_31_on() -> None:
    def statuses(vllm: str, model: str) -> dict[str, str | None]:
        found = expand(
            SHIPPED, "h200", vllm_version=vllm, profile="nightly", models=[model], suites=["batch_invariance"]
        )
        return {p.cell.mode: p.rule for p in found.cells if (p.cell.tp, p.cell.dp) == (1, 1)}

    apart = {"default": None, "compile": None, "eager": None}
    left = {**apart, "compile": SAME_AS_DEFAULT}
    assert statuses("0.33.0", "qwen3-1.7b") == apart
    assert statuses("0.30.0", "qwen3-1.7b") == left
    assert statuses("0.33.0", "deepseek-small") == left


def test_profiles_and_devices_decide_which_models_take_part(spec: Spec) -> None:
    assert {p.cell.model for p in plan(spec, "cpu").cells} == {"tiny"}
    assert {p.cell.model for p in plan(spec, profile="smoke").cells} == {"tiny"}
    assert {p.cell.model for p in plan(spec).cells} == {"tiny", "big"}


def test_a_model_that_is_named_runs_in_any_profile_and_is_never_lost_in_silence(spec: Spec) -> None:
    assert ids(plan(spec, profile="smoke", models=["big"]), "run")
    elsewhere = plan(spec, "cpu", models=["big"])
    assert {planned.rule for planned in elsewhere.cells} == {"devices"}
    assert not elsewhere.units
    assert absent(["big", "tiny"], elsewhere) == ("tiny",)


def test_too_few_gpus(spec: Spec) -> None:
    found = plan(spec, models=["big"], gpus=1)
    assert {(p.cell.tp, p.rule) for p in found.cells} == {(1, None), (2, "gpus")}


def test_several_data_parallel_ranks_are_for_suites_that_say_so(tmp_path: Path) -> None:
    files = Files(tmp_path)
    files.hardware = files.hardware.replace("    tp: [1, 2]\n", "    tp: [1, 2]\n    dp: [1, 2]\n")
    files.models = files.models.replace("    tp: [1, 2]\n", "    tp: [1, 2]\n    dp: [1, 2]\n")

    def sizes() -> set[tuple[int, int]]:
        found = expand(files.load(), "gpu", vllm_version="0.33.0", profile="nightly")
        return {(p.cell.tp, p.cell.dp) for p in found.cells if p.cell.model == "big"}

    assert sizes() == {(1, 1), (2, 1)}
    files.suite = files.suite.replace("engine: shared\n", "engine: shared\ndata_parallel: true\n")
    assert sizes() == {(1, 1), (1, 2), (2, 1), (2, 2)}


def test_units_are_shared_unless_the_suite_wants_its_own(spec: Spec) -> None:
    both = replace(
        spec,
        suites={
            name: spec.suites["core"].model_copy(update={"id": name, "engine": engine})
            for name, engine in (("core", "shared"), ("batch_invariance", "shared"), ("eagle_dp", "own"))
        },
        models={
            "tiny": spec.models["tiny"].model_copy(
                update={"suites": ("core", "batch_invariance", "eagle_dp")}
            )
        },
    )
    found = plan(both, "cpu", modes=["eager"])
    assert [(unit.id.rsplit("/", 1)[-1], len(unit.cells), unit.gpus) for unit in found.units] == [
        ("eager", 2, 0),
        ("eagle_dp", 1, 0),
    ]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"device": "gpx"}, 'no device "gpx". Did you mean "gpu"?'),
        ({"models": ["bigg", "tiny"]}, 'no model "bigg". Did you mean "big"?'),
        ({"suites": ["cor"]}, 'no suite "cor". Did you mean "core"?'),
        ({"backends": ["FLASH_ATN"]}, 'no backend "FLASH_ATN". Did you mean "FLASH_ATTN"?'),
        ({"modes": ["compiled"]}, 'no mode "compiled". Did you mean "compile"?'),
        ({"profile": "night"}, "no profile"),
        ({"vllm_version": "latest"}, "not a vLLM version"),
        ({"layers": 2}, "--layers 2 needs --weights synthetic: big's own weights are fixed"),
        ({"layers": 9, "weights": "synthetic"}, "--layers 9: tiny has 4; give 1 to 4"),
        ({"gpus": -1}, "--gpus -1"),
    ],
)
def test_what_cannot_be(spec: Spec, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        plan(spec, **options)
    assert message in str(caught.value)


_subset = st.lists(st.sampled_from(list(SHIPPED.models)), max_size=4, unique=True)
_options = st.fixed_dictionaries(
    {
        "device": st.sampled_from(list(SHIPPED.devices)),
        "vllm_version": st.sampled_from(
            ["0.11.1", "0.12.0", "0.20.0", "0.21.0", "0.22.0", "0.31.0", "0.33.0", "1.0.dev1"]
        ),
        "profile": st.sampled_from(PROFILES),
        "weights": st.sampled_from(["named", "synthetic"]),
        "gpus": st.one_of(st.none(), st.integers(0, 8)),
        "models": st.one_of(st.none(), _subset),
        "modes": st.one_of(
            st.none(),
            st.sampled_from(
                [["eager"], ["compile"], ["default"], ["default", "compile"], ["compile", "eager"]]
            ),
        ),
        "backends": st.one_of(st.none(), st.sampled_from([["FLASH_ATTN"], ["CPU_ATTN", "TRITON_MLA"]])),
    }
)


@settings(max_examples=150, deadline=None)
@given(_options)
def test_what_holds_for_every_plan(options: dict[str, Any]) -> None:
    device = options.pop("device")
    found = expand(SHIPPED, device, **options)
    cells = [planned.cell.id for planned in found.cells]
    assert len(set(cells)) == len(cells)
    assert found == expand(SHIPPED, device, **options)
    running = [planned for planned in found.cells if planned.status == "run"]
    for planned in found.cells:
        assert (planned.status == "run") == (planned.rule is None)
        assert bool(planned.reason) == bool(planned.source) == (planned.status == "skip")
    members = [cell for unit in found.units for cell in unit.cells]
    assert sorted(c.id for c in members) == sorted(p.cell.id for p in running)
    unit_of = {planned.cell.id: planned.unit for planned in running}
    place = SHIPPED.devices[device]
    for unit in found.units:
        assert {unit_of[cell.id] for cell in unit.cells} == {unit.id}
        assert unit.gpus == (0 if place.kind == "cpu" else unit.cells[0].tp * unit.cells[0].dp)
        if place.kind == "cuda":
            assert unit.gpus <= (place.gpus if options["gpus"] is None else options["gpus"])
    # A filter only ever takes away.
    wider = expand(SHIPPED, device, **{**options, "modes": None, "backends": None})
    assert {planned.cell for planned in found.cells} <= {planned.cell for planned in wider.cells}
    runs = {planned.cell for planned in wider.cells if planned.status == "run"}
    left = {planned.cell for planned in wider.cells if planned.rule == SAME_AS_DEFAULT}
    assert {planned.cell for planned in running} <= runs | left


@settings(max_examples=150, deadline=None)
@given(_options)
def test_no_plan_runs_default_and_the_mode_that_it_is_the_same_as(options: dict[str, Any]) -> None:
    found = expand(SHIPPED, options.pop("device"), **options)
    by_id = {planned.cell.id: planned for planned in found.cells}
    for planned in found.cells:
        if planned.cell.mode == "default":
            if planned.status == "run" and planned.same_as is not None:
                same = by_id.get(in_mode(planned, planned.same_as))
                assert same is None or (same.status, same.rule) == ("skip", SAME_AS_DEFAULT)
        else:
            assert planned.same_as is None
        if planned.rule == SAME_AS_DEFAULT:
            default = by_id[default_twin(planned.cell.id)]
            assert (default.status, default.same_as) == ("run", planned.cell.mode)


def in_mode(planned: PlannedCell, mode: str) -> str:
    """The id of the cell in another mode."""
    return replace(planned.cell, mode=mode).id


@settings(max_examples=60, deadline=None)
@given(st.randoms(use_true_random=False), _options)
def test_a_decision_does_not_depend_on_the_order_of_models(
    shuffle: random.Random, options: dict[str, Any]
) -> None:
    device = options.pop("device")
    names = list(SHIPPED.models)
    shuffle.shuffle(names)
    other = replace(SHIPPED, models={name: SHIPPED.models[name] for name in names})
    assert set(expand(SHIPPED, device, **options).cells) == set(expand(other, device, **options).cells)


@settings(max_examples=100, deadline=None)
@given(
    st.sampled_from(list(SHIPPED.devices)),
    st.sampled_from(["0.12.0", "0.20.0", "0.21.0", "0.33.0"]),
    st.sampled_from(["mha", "mla", "hybrid"]),
    st.sampled_from(["FLASH_ATTN", "TRITON_ATTN", "FLEX_ATTENTION", "CPU_ATTN"]),
    st.sampled_from(
        [("eager", None), ("compile", None), ("default", None), ("default", "compile"), ("default", "eager")]
    ),
    st.sampled_from(["batch_invariance", "eagle_dp"]),
)
def test_remembered_decisions_are_those_of_asking_every_rule(
    device: str, release: str, attention: Any, backend: str, modes: Any, suite: str
) -> None:
    place = SHIPPED.devices[device]
    mode, same_as = modes
    point = Point("qwen3-8b", attention, backend, 1, 1, mode, suite, same_as)
    book = RuleBook(SHIPPED.rules, place, version(release))
    plainly = next(
        (
            rule.id
            for rule in SHIPPED.rules
            if holds_for(rule, version(release))
            and device_meets(rule.when, place)
            and point_meets(rule.when, point)
        ),
        None,
    )
    for _ in range(2):
        decided = book.decide(point)
        assert (decided.rule if decided else None) == plainly


@pytest.mark.alone
def test_a_hundred_thousand_cells_expand_within_a_second(spec: Spec) -> None:
    model = SHIPPED.models["qwen3-1.7b"].model_copy(
        update={"tp": (1, 2, 4, 8), "dp": (1, 2), "devices": None}
    )
    suites = {f"s{i}": SHIPPED.suites["eagle_dp"].model_copy(update={"id": f"s{i}"}) for i in range(10)}
    models = {f"m{i}": model.model_copy(update={"id": f"m{i}", "suites": tuple(suites)}) for i in range(147)}
    large = replace(SHIPPED, models=models, suites=suites)
    best = 9.0
    for _ in range(3):
        start = time.process_time()
        found = expand(large, "h200", vllm_version="0.20.0", profile="nightly", gpus=8)
        best = min(best, time.process_time() - start)
    assert len(found.cells) == 147 * 3 * 8 * 3 * 10 >= 100_000
    assert best < 1.0


def test_the_shipped_plans(tmp_path: Path) -> None:
    def models(device: str, profile: str) -> set[str]:
        found = expand(SHIPPED, device, vllm_version="0.32.0", profile=profile)  # type: ignore[arg-type]
        return {planned.cell.model for planned in found.cells if planned.status == "run"}

    assert models("cpu", "smoke") == {"qwen3-tiny", "llama-eagle-tiny"}
    # Rules skip minimax-m2-tiny and qwen3-moe-nvfp4-tiny on a CPU.
    nvfp4 = {"qwen3-nvfp4-tiny"}
    starts = {"gpt-oss-tiny", "kimi-k2-tiny", "glm-4.5-tiny", "phi-tiny-moe-tiny"}
    tiny = {"qwen3-tiny", "qwen3-tiny-ranks", "qwen3-moe-tiny", "llama-eagle-tiny"}
    assert models("cpu", "nightly") == tiny | starts | nvfp4
    tiny |= {"qwen3-tiny-fp32", "llama-tiny"}
    assert models("cpu", "release") == tiny | starts | nvfp4
    assert models("h200", "smoke") == {"qwen3-1.7b"}
    assert "deepseek-v3" in models("h200", "release")
    assert "deepseek-v3" not in models("h100", "release")
    smoke = select(
        expand(SHIPPED, "cpu", vllm_version="0.32.0", profile="smoke", suites=["batch_invariance"]), SHIPPED
    )
    checks = SHIPPED.suites["batch_invariance"].checks
    quick = sum("smoke" in check.profiles for check in checks)
    assert smoke.running == 2 * quick < 2 * len(checks)
