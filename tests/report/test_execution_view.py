"""How each mode executed the model, in every report."""

from __future__ import annotations

import io
from typing import Any
from xml.etree import ElementTree

import pytest
from hypothesis import HealthCheck, given, settings
from rich.console import Console

from bi_harness.certificate.statement import EffectiveArm, Statement
from bi_harness.matrix.execution import SAME_AS_DEFAULT
from bi_harness.report.console import print_result
from bi_harness.report.execution_view import MAX_LABELS, execution_label
from bi_harness.report.html import render_html
from bi_harness.report.junit import render_junit
from bi_harness.report.markdown import render_markdown

from . import samples
from .pages import Page
from .strategies import statements

PLACE = "h200/qwen3-1.7b/FLASH_ATTN/tp1-dp1"
COMPILED = {
    "compilation_mode": "VLLM_COMPILE",
    "cudagraph_mode": "FULL_AND_PIECEWISE",
    "breakable_cudagraphs": False,
    "model_runner": "V2",
    "async_scheduling": True,
    "kv_cache_dtype": "auto",
}
BREAKABLE = {**COMPILED, "compilation_mode": "NONE", "breakable_cudagraphs": True}
EAGER = {**COMPILED, "compilation_mode": "NONE", "cudagraph_mode": "NONE"}

COMPILED_WORDS = (
    "compilation mode VLLM_COMPILE, CUDA graph mode FULL_AND_PIECEWISE, breakable CUDA graphs off, "
    "model runner V2, async scheduling on, KV cache dtype auto"
)
BREAKABLE_WORDS = (
    "compilation mode NONE, CUDA graph mode FULL_AND_PIECEWISE, breakable CUDA graphs on, "
    "model runner V2, async scheduling on, KV cache dtype auto"
)
LEFT = "compile: the same as default, and ran as default"


def ran(mode: str, config: dict[str, Any], arm: Any = "treatment", **changes: Any) -> EffectiveArm:
    base: dict[str, Any] = {"unit": f"{PLACE}/{mode}", "arm": arm, "config": config, "start_s": 1.0}
    return EffectiveArm(**{**base, **changes})


def certificate(*arms: EffectiveArm, left: tuple[str, ...] = ()) -> Statement:
    """Of these engines; ``left`` are places whose compile cell was left to default."""
    checks = [samples.check(f"{PLACE}/default/core", "alone")]
    for place in left:
        why = {"rule": SAME_AS_DEFAULT, "reason": "default is compile here."}
        checks.append(samples.check(f"{place}/compile/core", "alone", "skip", **why))
    return samples.statement("CERTIFIED", tuple(checks), effective=arms)


def test_each_mode_is_shown_once_in_the_order_of_the_modes() -> None:
    arms = [
        ran("eager", EAGER),
        ran("compile", COMPILED),
        ran("default", BREAKABLE),
        ran("default", BREAKABLE),
    ]
    shown = execution_label(certificate(*arms)).split("; ")
    assert shown[:2] == [f"default: {BREAKABLE_WORDS}", f"compile: {COMPILED_WORDS}"]
    assert shown[2].startswith("eager: compilation mode NONE, CUDA graph mode NONE")
    assert len(shown) == 3


def test_engines_of_one_mode_that_differ_are_all_shown() -> None:
    arms = [ran("default", COMPILED), ran("default", BREAKABLE, unit=f"{PLACE}/default/online")]
    assert execution_label(certificate(*arms)) == f"default: {COMPILED_WORDS} or {BREAKABLE_WORDS}"


def test_many_configurations_of_one_mode_are_cut() -> None:
    arms = [ran("default", {"kv_cache_dtype": f"d{i}"}) for i in range(10_000)]
    shown = execution_label(certificate(*arms))
    assert shown.count("KV cache dtype") == MAX_LABELS
    assert shown.endswith(f" or {10_000 - MAX_LABELS:,} more")


def test_control_and_engines_of_a_check_alone_are_not_shown() -> None:
    arms = [
        ran("default", BREAKABLE),
        ran("default", COMPILED, "control"),
        ran("default", EAGER, engine="eager"),
        ran("default", COMPILED, engine="cold"),
    ]
    assert execution_label(certificate(*arms)) == f"default: {BREAKABLE_WORDS}"


def test_certificate_from_before_the_fields_shows_those_that_it_has() -> None:
    old = {"enforce_eager": False, "compilation_mode": "VLLM_COMPILE"}
    assert execution_label(certificate(ran("compile", old))) == "compile: compilation mode VLLM_COMPILE"
    assert execution_label(certificate(ran("compile", {"dtype": "bfloat16"}))) == ""
    assert execution_label(certificate()) == ""
    assert execution_label(samples.certified_cpu()) == ""


def test_mode_that_was_left_to_default_is_named_once() -> None:
    arm = ran("default", COMPILED)
    places = (PLACE, PLACE.replace("tp1", "tp2"))
    assert execution_label(certificate(arm, left=places)) == f"default: {COMPILED_WORDS}; {LEFT}"
    # An interrupted run, with no engine yet.
    assert execution_label(certificate(left=places)) == LEFT


def test_mode_that_ran_in_some_cells_and_was_left_to_default_in_others_says_in_how_many() -> None:
    arms = [ran("default", COMPILED), ran("compile", COMPILED)]
    for places, cells in (((PLACE,), "1 cell"), ((PLACE, PLACE.replace("tp1", "tp2")), "2 cells")):
        shown = execution_label(certificate(*arms, left=places)).split("; ")
        assert shown[-1] == f"compile: the same as default in {cells}, and ran as default"
        assert len(shown) == 3


@pytest.mark.parametrize("unit", ["", "default", "a/b/c", f"{PLACE}/other", f"default/{PLACE}"])
def test_engine_of_an_unknown_mode_is_not_shown(unit: str) -> None:
    known = unit == "default"
    assert bool(execution_label(certificate(ran("", COMPILED, unit=unit)))) is known


def test_cell_of_an_unknown_form_that_was_left_to_default_is_not_shown() -> None:
    checks = tuple(
        samples.check(cell, "alone", "skip", rule=SAME_AS_DEFAULT)
        for cell in ("", "x", f"{PLACE}/{samples.HOSTILE}/core", f"{PLACE}/{'A' * 9999}/core")
    )
    assert execution_label(samples.statement("INCONCLUSIVE", checks)) == ""


HOSTILE_VALUES: list[Any] = [
    samples.HOSTILE + samples.ANSI,
    "A" * 1_000_000,
    10**5000,
    -1e300,
    None,
    {samples.HOSTILE: [samples.ANSI]},
    [["x"] * 1000] * 100,
]


@pytest.mark.parametrize("value", HOSTILE_VALUES, ids=lambda value: type(value).__name__)
def test_hostile_values_are_cut_and_shown_as_text(value: Any) -> None:
    hostile = certificate(ran("default", dict.fromkeys(COMPILED, value)))
    shown = execution_label(hostile)
    assert shown.startswith("default: compilation mode ")
    assert len(shown) < 800
    assert "\x1b" not in shown
    assert "\n" not in shown
    assert "<script>" not in render_html(hostile)
    assert "<script>" not in render_markdown(hostile)
    ElementTree.fromstring(render_junit(hostile))


@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None, max_examples=50)
@given(statements())
def test_any_certificate_has_a_label_of_one_printable_line(statement: Statement) -> None:
    assert execution_label(statement).isprintable()


def printed(statement: Statement) -> str:
    raw = io.StringIO()
    print_result(statement, Console(file=raw, width=1000))
    return raw.getvalue()


def shown_by_junit(statement: Statement) -> list[str | None]:
    root = ElementTree.fromstring(render_junit(statement))
    return [item.get("value") for item in root.iter("property") if item.get("name") == "execution"]


def test_every_report_shows_it() -> None:
    statement = certificate(ran("default", COMPILED), ran("eager", EAGER), left=(PLACE,))
    words = execution_label(statement)
    assert words.endswith(LEFT)
    assert words in Page(render_html(statement)).words
    assert f"**execution** {words} ·" in render_markdown(statement)
    assert set(shown_by_junit(statement)) == {words}
    assert f"Execution: {words}" in printed(statement)


def test_no_report_shows_an_empty_label() -> None:
    statement = certificate()
    assert "Execution" not in Page(render_html(statement)).words
    assert "**execution**" not in render_markdown(statement)
    assert shown_by_junit(statement) == []
    assert "Execution" not in printed(statement)
