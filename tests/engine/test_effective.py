"""What an engine says that it runs, against what was asked for."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bi_harness.engine.effective import (
    Refused,
    execution_in_words,
    execution_of,
    gather_workers,
    refuse_other,
    refuse_platform,
    settings,
)


def worker(dp: int = 0, tp: int = 0, **changes: Any) -> dict[str, Any]:
    return {"dp_rank": dp, "tp_rank": tp, "invariance_by": ["on"], "threads": 2, **changes}


def test_workers_that_agree_are_one() -> None:
    found = gather_workers([worker(), worker(dp=1)], 2)
    assert found == {
        "invariance": True,
        "invariance_by": ["on"],
        "threads": 2,
        "workers": 2,
        "workers_agree": True,
    }
    assert gather_workers([worker(), worker(dp=1, threads=1)], 2)["workers_agree"] is False


@pytest.mark.parametrize(
    ("answers", "says"),
    [
        ([worker()], "2 workers were asked for, and 1 answered"),
        ([worker(), worker()], "2 workers were asked for, and 1 answered"),
        ([], "2 workers were asked for, and 0 answered"),
        ([worker(), worker(tp=1, invariance_by=[])], "invariance is not the same"),
        ([worker(), worker(tp=1, planted_fault="x")], "planted in some"),
    ],
)
def test_workers_that_are_missing_or_differ(answers: list[dict[str, Any]], says: str) -> None:
    with pytest.raises(Refused, match=says):
        gather_workers(answers, 2)


ASKED = {
    "platform": "cuda",
    "invariance": True,
    "capability": "9.0",
    "llm": {"enforce_eager": True, "attention_config": {"backend": "FLASH_ATTN"}},
}
FOUND = {
    "invariance": True,
    "devices": [{"name": "x", "capability": "9.0"}],
    "attention_backends": {"FLASH_ATTN": 4},
    "compilation_mode": "NONE",
}


def test_what_was_asked_for_is_taken() -> None:
    refuse_other(FOUND, ASKED, None)
    refuse_other({**FOUND, "planted_fault": "x"}, ASKED, "x")
    refuse_platform("cuda", ASKED, vllm="0", python="p")


@pytest.mark.parametrize("layers", [{"FLASH_ATTN_DIFFKV": 4}, {"FLASH_ATTN": 1, "FLASH_ATTN_DIFFKV": 3}])
def test_variant_of_requested_backend_is_accepted(layers: dict[str, int]) -> None:
    refuse_other({**FOUND, "attention_backends": layers}, ASKED, None)


@pytest.mark.parametrize(
    ("changes", "planted", "says"),
    [
        ({"invariance": False}, None, "invariance was to be on and is not"),
        ({"planted_fault": "x"}, None, "planted is x"),
        ({}, "x", "planted is nothing"),
        ({"devices": []}, None, "the engine has none"),
        ({"devices": [{"name": "x", "capability": "8.0"}]}, None, "asked for GPUs of capability 9.0"),
        ({"attention_backends": {}}, None, "the engine took none"),
        ({"attention_backends": {"FLASH_ATTN": 3, "TRITON_ATTN": 1}}, None, "asked for attention backend"),
        ({"attention_backends": {"TRITON_ATTN_DIFFKV": 4}}, None, "asked for attention backend FLASH_ATTN"),
        ({"compilation_mode": "VLLM_COMPILE"}, None, "asked for eager mode"),
    ],
)
def test_anything_else_is_refused(changes: dict[str, Any], planted: str | None, says: str) -> None:
    with pytest.raises(Refused, match=says):
        refuse_other({**FOUND, **changes}, ASKED, planted)


def test_another_platform() -> None:
    with pytest.raises(Refused, match="runs on 'cpu', not on 'cuda'"):
        refuse_platform("cpu", ASKED, vllm="0", python="p")


def ran(compilation: str, graphs: str | None = "NONE", breakable: bool = False) -> dict[str, Any]:
    """What an engine reports of its execution; ``graphs`` is None where it reports nothing of them."""
    more = {} if graphs is None else {"cudagraph_mode": graphs, "breakable_cudagraphs": breakable}
    return {**FOUND, "compilation_mode": compilation, **more}


def asked(execution: str | None, *, eager: bool = False) -> dict[str, Any]:
    return {**ASKED, "llm": {**ASKED["llm"], "enforce_eager": eager}, "execution": execution}


COMPILED, BREAKABLE = ran("VLLM_COMPILE", "FULL_AND_PIECEWISE"), ran("NONE", "FULL_AND_PIECEWISE", True)
TRACED, GRAPHS, EAGER = ran("DYNAMO_TRACE_ONCE"), ran("NONE", "FULL"), ran("NONE")


@pytest.mark.parametrize(
    ("effective", "execution"),
    [
        (COMPILED, "compile"),
        (TRACED, "compile"),
        (ran("VLLM_COMPILE", "FULL", True), "compile"),
        (BREAKABLE, "breakable"),
        (ran("NONE", "full_and_piecewise", True), "breakable"),
        (GRAPHS, "graphs"),
        (EAGER, "eager"),
        (ran("NONE", "NONE", True), "eager"),
        (ran("NONE", "None"), "eager"),
        (ran("NONE", None), "eager"),
    ],
)
def test_execution_is_read_from_what_the_engine_reports(effective: dict[str, Any], execution: str) -> None:
    assert execution_of(effective) == execution


@pytest.mark.parametrize("effective", [COMPILED, TRACED, BREAKABLE, GRAPHS, EAGER])
def test_engine_without_an_expected_mode_may_run_in_any(effective: dict[str, Any]) -> None:
    refuse_other(effective, asked(None), None)


@pytest.mark.parametrize(
    ("execution", "eager", "accepted"),
    [
        ("compile", False, (COMPILED, TRACED)),
        ("eager", True, (EAGER,)),
        # A default cell whose entry of hardware.yaml says compile, or eager.
        ("eager", False, (EAGER,)),
        # A check that makes its engine eager in a compile cell or in a default one.
        ("compile", True, (EAGER,)),
        (None, True, (EAGER,)),
    ],
)
def test_engine_in_another_mode_than_the_expected_one_is_refused(
    execution: str | None, eager: bool, accepted: tuple[dict[str, Any], ...]
) -> None:
    wanted = "eager" if eager else execution
    for effective in (COMPILED, TRACED, BREAKABLE, GRAPHS, EAGER):
        if effective in accepted:
            refuse_other(effective, asked(execution, eager=eager), None)
        else:
            with pytest.raises(
                Refused, match=f"asked for {wanted} mode, and the engine runs compilation mode"
            ):
                refuse_other(effective, asked(execution, eager=eager), None)


def test_refusal_shows_what_runs_and_where_to_look() -> None:
    with pytest.raises(Refused) as caught:
        refuse_other(BREAKABLE, asked("compile"), None)
    assert (
        "the engine runs compilation mode NONE, CUDA graph mode FULL_AND_PIECEWISE, breakable CUDA graphs on"
        in str(caught.value)
    )
    assert "`execution` of hardware.yaml" in str(caught.value)
    assert execution_in_words({"compilation_mode": "NONE"}).endswith("breakable CUDA graphs off")


@given(
    st.sampled_from(["NONE", "STOCK_TORCH_COMPILE", "DYNAMO_TRACE_ONCE", "VLLM_COMPILE"]),
    st.sampled_from([None, "NONE", "FULL", "PIECEWISE", "FULL_AND_PIECEWISE"]),
    st.booleans(),
    st.sampled_from([None, "compile", "eager"]),
    st.booleans(),
)
def test_engine_is_refused_exactly_when_its_execution_is_not_the_expected_one(
    compilation: str, graphs: str | None, breakable: bool, execution: str | None, eager: bool
) -> None:
    effective = ran(compilation, graphs, breakable)
    wanted = "eager" if eager else execution
    try:
        refuse_other(effective, asked(execution, eager=eager), None)
    except Refused:
        assert wanted is not None
        assert wanted != execution_of(effective)
    else:
        assert wanted in (None, execution_of(effective))


def vllm_config(**changes: Any) -> SimpleNamespace:
    """What ``settings`` reads of a ``VllmConfig``; ``changes`` add attributes of newer releases."""
    return SimpleNamespace(
        model_config=SimpleNamespace(
            enforce_eager=False,
            dtype="torch.bfloat16",
            quantization=None,
            max_model_len=924,
            logprobs_mode="raw_logprobs",
        ),
        scheduler_config=SimpleNamespace(
            max_num_seqs=33, max_num_batched_tokens=2048, **changes.pop("scheduler", {})
        ),
        cache_config=SimpleNamespace(block_size=16, cache_dtype="auto", enable_prefix_caching=True),
        parallel_config=SimpleNamespace(
            tensor_parallel_size=1, data_parallel_size=1, disable_custom_all_reduce=True
        ),
        lora_config=None,
        speculative_config=None,
        **changes,
    )


def test_settings_of_a_release_without_a_second_runner_or_async_scheduling() -> None:
    found = settings(vllm_config())
    assert (found["model_runner"], found["async_scheduling"], found["kv_cache_dtype"]) == (
        "V1",
        False,
        "auto",
    )


@pytest.mark.parametrize(
    ("changes", "runner", "scheduling"),
    [
        ({"use_v2_model_runner": True, "scheduler": {"async_scheduling": True}}, "V2", True),
        ({"use_v2_model_runner": False, "scheduler": {"async_scheduling": None}}, "V1", False),
    ],
)
def test_settings_of_a_release_with_them(changes: dict[str, Any], runner: str, scheduling: bool) -> None:
    found = settings(vllm_config(**changes))
    assert (found["model_runner"], found["async_scheduling"]) == (runner, scheduling)
    assert (found["enforce_eager"], found["dtype"]) == (False, "bfloat16")
