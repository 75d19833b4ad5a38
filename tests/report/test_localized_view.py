"""Where failures begin, in each format."""

from __future__ import annotations

import io
import re
from typing import Any, get_args

from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from bi_harness.certificate.localized import (
    Cost,
    InputShape,
    Localization,
    ModuleState,
    OptionTried,
    Outcome,
    Sent,
    TensorDifference,
    UlpBand,
)
from bi_harness.certificate.statement import Statement
from bi_harness.report.console import print_localized, print_result
from bi_harness.report.html import render_html, render_localized
from bi_harness.report.localized_view import localized_view, sentences
from bi_harness.report.markdown import render_markdown
from tests.report.samples import HOSTILE, statement
from tests.report.strategies import counts, floats, texts

CELL = "h200/qwen3-1.7b/FLASH_ATTN/tp1-dp1/eager/batch_invariance"
CULPRIT = "model.layers.0.input_layernorm"


def modules(layers: int = 2) -> tuple[ModuleState, ...]:
    def made(name: str, class_: str, state: Any) -> ModuleState:
        return ModuleState(name=name, class_name=class_, state=state)

    found = [made("(model)", "Qwen3ForCausalLM", "differs"), made("model.embed_tokens", "Embedding", "equal")]
    for i in range(layers):
        name = f"model.layers.{i}"
        found.append(made(name, "Qwen3DecoderLayer", "differs"))
        state = "culprit" if f"{name}.input_layernorm" == CULPRIT else "differs"
        found.append(made(f"{name}.input_layernorm", "RMSNorm", state))
        found.append(made(f"{name}.self_attn.attn.impl", "Attention", "unseen"))
    return (*found, made("lm_head", "ParallelLMHead", "differs"))


def told(**changes: Any) -> Localization:
    base: dict[str, Any] = {
        "cell": CELL,
        "check": "needle",
        "outcome": "module",
        "module": CULPRIT,
        "class_name": "RMSNorm",
        "where": f"{CULPRIT} (RMSNorm): equal inputs, another output, first at position 0",
        "eager": True,
        "request": 3,
        "arm": "haystack 0",
        "step": 0,
        "position": 0,
        "planned": Sent(neighbours=32, prompt_tokens=420, neighbour_tokens=9000, steps=20),
        "smallest": Sent(neighbours=1, prompt_tokens=1, neighbour_tokens=255, steps=1, bursts_before=1),
        "inputs": (InputShape(path="0.0", dtype="bfloat16", shape_alone=(1, 64), shape_batch=(256, 64)),),
        "outputs": (
            TensorDifference(
                path="0",
                dtype="bfloat16",
                shape_alone=(1, 64),
                shape_batch=(256, 64),
                rows=1,
                values=64,
                differing_rows=1,
                differing_values=3,
                max_ulp=2,
                ulps=(UlpBand(first=1, last=1, values=2), UlpBand(first=2, last=3, values=1)),
            ),
        ),
        "ran_alone": ("_C.rms_norm.default(bfloat16[1, 64])",),
        "ran_batch": ("_C.rms_norm.default(bfloat16[256, 64])",),
        "modules": modules(),
        "cost": Cost(
            seconds=45,
            starts=1,
            tries=9,
            plain_s=0.5,
            watched_s=1.25,
            rss_before=2**30,
            rss_after=2**30,
            kept=2**21,
        ),
    }
    return Localization(**{**base, **changes})


def of(*one: Localization) -> Statement:
    made = statement("NOT_CERTIFIED", ())
    ours = made.predicate.bi_harness.model_copy(update={"localized": one})
    return made.model_copy(update={"predicate": made.predicate.model_copy(update={"bi_harness": ours})})


def test_the_page_names_the_culprit_and_shows_it_in_a_map() -> None:
    page = render_html(of(told()))
    assert f"{CULPRIT} (RMSNorm)" in page
    assert page.count('class="m-culprit"') == 1
    # By words, too, and the layer that has it is open; others are closed.
    assert 'input_layernorm <span class="muted">RMSNorm, culprit</span>' in page
    layers = page[page.index('class="map"') :]
    opened = re.findall(r"<details( open)?>\s*<summary>.*?<span class=\"name\">([^<]*)</span>", layers)
    assert [name for is_open, name in opened if is_open] == ["model.layers.0"]
    assert ("", "model.layers.1") in opened
    assert "<script" not in page
    assert 'href="#localized"' in page
    assert "1 of 1" in page
    assert "2 to 3 ULP: 1" in page


def test_a_page_without_it_is_what_it_always_was() -> None:
    page = render_html(of())
    assert "m-culprit" not in page
    assert "#localized" not in page


def test_a_page_of_its_own() -> None:
    page = render_localized(told())
    assert page.startswith("<!doctype html>")
    assert "default-src 'none'" in page
    assert f"{CULPRIT} (RMSNorm)" in page
    assert "<script" not in page


def test_hostile_names_stay_text() -> None:
    hostile = told(
        module=HOSTILE,
        where=HOSTILE,
        reason=HOSTILE,
        ran_alone=(HOSTILE,),
        modules=(ModuleState(name=HOSTILE, class_name=HOSTILE, state="culprit"),),
        options=(OptionTried(name=HOSTILE, differs=None, note=HOSTILE),),
    )
    for page in (render_html(of(hostile)), render_localized(hostile)):
        assert "<script" not in page
        assert "onerror=" not in re.sub(r"&[^;]+;", "", page) or "<img" not in page


def test_text_and_markdown_tell_it() -> None:
    markdown = render_markdown(of(told()))
    assert "### Where failures begin" in markdown
    assert "RMSNorm" in markdown
    lines = sentences(told())
    assert lines[0] == f"module: {CULPRIT} (RMSNorm)"
    sent = "a prompt of 1 token and 1 step, beside 1 neighbour with 255 tokens, after 1 burst"
    assert f"Smallest that differs: {sent}" in lines
    assert any(line.startswith("Hooks: 1.25 s in place of 0.5 s") for line in lines)
    assert any("_C.rms_norm" in line for line in lines)
    out = io.StringIO()
    print_result(of(told()), Console(file=out, width=120))
    assert "localized needle" in out.getvalue()
    assert "NOT CERTIFIED" in out.getvalue()


def test_what_was_not_found_is_told_as_such() -> None:
    lost = Localization(cell=CELL, check="needle", outcome="failed", reason="the engine died")
    assert sentences(lost) == ["failed: could not be localized", "Why: the engine died"]
    again = Localization(
        cell=CELL,
        check="needle",
        outcome="not_reproduced",
        eager=False,
        options=(OptionTried(name="without CUDA graphs", differs=False, note="it comes with CUDA graphs"),),
    )
    assert "without CUDA graphs: does not differ (it comes with CUDA graphs)" in sentences(again)
    assert "without CUDA graphs" in render_html(of(again))


def test_what_is_not_shown_names_no_module() -> None:
    where = "an eager engine differs too, beginning in x (RMSNorm), but that is not shown to be what differs"
    unproven = told(outcome="unproven", module="", class_name="", where=where, modules=(), outputs=())
    assert sentences(unproven)[0] == f"unproven: {where}"
    assert not localized_view(unproven).found
    assert where in render_html(of(unproven))
    compiled = told(
        outcome="compiled",
        module="",
        where="the smallest pair that differs with CUDA graphs does not differ on an eager engine",
        modules=(),
    )
    assert sentences(compiled)[0] == (
        "compiled: the smallest pair that differs with CUDA graphs does not differ on an eager engine"
    )
    lost = told(outcome="not_reproduced", module="", eager=None)
    assert sentences(lost)[0] == "not reproduced: the rerun does not differ"


def test_a_large_model_is_told_by_its_layers() -> None:
    view = localized_view(told(modules=modules(300)))
    assert len(view.layers) == 200
    assert view.layers_left > 0
    assert view.layers[0].name == "outside of layers"
    assert "more layers are in the JSON" in render_localized(told(modules=modules(300)))


@given(
    st.builds(
        Localization,
        cell=texts,
        check=texts,
        outcome=st.sampled_from(get_args(Outcome)),
        module=texts,
        where=texts,
        reason=texts,
        eager=st.sampled_from([None, True, False]),
        request=st.none() | counts,
        arm=texts,
        step=st.none() | counts,
        position=st.none() | counts,
        smallest=st.none()
        | st.builds(
            Sent,
            neighbours=counts,
            prompt_tokens=counts,
            neighbour_tokens=counts,
            steps=counts,
            bursts_before=counts,
        ),
        ran_alone=st.lists(texts, max_size=3).map(tuple),
        modules=st.lists(
            st.builds(
                lambda name, cls, state: ModuleState(name=name, class_name=cls, state=state),
                texts,
                texts,
                st.sampled_from(["equal", "culprit", "differs", "unseen"]),
            ),
            max_size=5,
        ).map(tuple),
        outputs=st.lists(
            st.builds(
                TensorDifference,
                path=texts,
                dtype=texts,
                shape_alone=st.lists(counts, max_size=3).map(tuple),
                shape_batch=st.lists(counts, max_size=3).map(tuple),
                rows=counts,
                values=counts,
                differing_rows=counts,
                differing_values=counts,
                max_ulp=counts,
            ),
            max_size=2,
        ).map(tuple),
        cost=st.none()
        | st.builds(
            Cost,
            seconds=floats.map(abs),
            starts=counts,
            tries=counts,
            plain_s=floats.map(abs),
            watched_s=floats.map(abs),
            rss_before=counts,
            rss_after=counts,
            kept=counts,
            device_peak=st.none() | counts,
        ),
    )
)
def test_whatever_is_told_every_format_takes_it(one: Localization) -> None:
    render_html(of(one))
    render_localized(one)
    render_markdown(of(one))
    print_localized(one, Console(file=io.StringIO()))
