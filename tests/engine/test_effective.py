"""What an engine says that it runs, against what was asked for."""

from __future__ import annotations

from typing import Any

import pytest

from bi_harness.engine.effective import Refused, gather_workers, refuse_other, refuse_platform


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
