"""What the API answers, as observations: every bit of every float32, or an error."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bi_harness.compare.observations import Observations
from bi_harness.engine.answers import (
    Garbled,
    Step,
    chat_steps,
    chat_text,
    completion_steps,
    in_api_order,
    observations,
)
from bi_harness.workload.requests import Request

LOGPROBS = st.floats(width=32, max_value=0.0, min_value=-9999.0)


def request(steps: int = 1, k: int = 2) -> Request:
    return Request((1, 2), steps, 0.0, None, k)


def choice(**changes: Any) -> dict[str, Any]:
    plain = {
        "token_ids": [7],
        "logprobs": {
            "tokens": ["token_id:7"],
            "token_logprobs": [-0.5],
            "top_logprobs": [{"token_id:7": -0.5, "token_id:9": -1.5}],
        },
    }
    return {**plain, **changes}


@given(st.lists(LOGPROBS, min_size=3, max_size=3))
def test_a_float32_arrives_whole_by_way_of_json(values: list[float]) -> None:
    top = {f"token_id:{i}": v for i, v in enumerate(values)}
    sent = {"tokens": ["token_id:0"], "token_logprobs": values[:1], "top_logprobs": [top]}
    told = json.loads(json.dumps(choice(token_ids=[0], logprobs=sent)))
    found = observations([completion_steps(told)], [request()])
    expected = np.asarray(values, np.float32).view(np.uint32)
    got = dict(zip(found.ids[0, 0].tolist(), found.logprobs[0, 0].view(np.uint32).tolist(), strict=True))
    assert got == dict(enumerate(expected.tolist()))


def test_a_chunk_without_tokens_has_no_steps() -> None:
    assert completion_steps({"token_ids": [], "logprobs": None}) == []
    assert chat_steps({"token_ids": None, "logprobs": None}) == []


def test_a_chat_says_the_same_in_other_words() -> None:
    tops = [{"token": "token_id:7", "logprob": -0.5}, {"token": "token_id:9", "logprob": -1.5}]
    content = [{"token": "token_id:7", "logprob": -0.5, "top_logprobs": tops}]
    assert chat_steps({"token_ids": [7], "logprobs": {"content": content}}) == completion_steps(choice())


@pytest.mark.parametrize(
    "wrong",
    [
        {},
        {"token_ids": [8], "logprobs": choice()["logprobs"]},
        {"token_ids": [7], "logprobs": None},
        {"token_ids": [7], "logprobs": {**choice()["logprobs"], "tokens": ["hello"]}},
        {"token_ids": [7], "logprobs": {**choice()["logprobs"], "token_logprobs": [None]}},
        {"token_ids": [7], "logprobs": {**choice()["logprobs"], "token_logprobs": ["-0.5"]}},
        {"token_ids": [7], "logprobs": {**choice()["logprobs"], "token_logprobs": [True]}},
        {"token_ids": [7], "logprobs": {**choice()["logprobs"], "token_logprobs": [float("nan")]}},
        {"token_ids": [7], "logprobs": {**choice()["logprobs"], "token_logprobs": [-0.1]}},
        {"token_ids": [7], "logprobs": {**choice()["logprobs"], "token_logprobs": [-0.5, -0.5]}},
        {"token_ids": [7], "logprobs": {**choice()["logprobs"], "top_logprobs": [None]}},
        {"token_ids": [7], "logprobs": []},
        {"token_ids": [7], "logprobs": "x"},
    ],
)
def test_an_answer_that_makes_no_sense(wrong: dict[str, Any]) -> None:
    with pytest.raises(Garbled):
        completion_steps(wrong)


@pytest.mark.parametrize(
    "content",
    [
        [{"token": "token_id:7", "logprob": -0.5}],
        [{"token": "hello", "logprob": -0.5, "top_logprobs": []}],
        [None],
        "x",
    ],
)
def test_a_chat_that_makes_no_sense(content: Any) -> None:
    with pytest.raises(Garbled):
        chat_steps({"token_ids": [7], "logprobs": {"content": content}})


def test_columns_are_by_logprob_and_by_id_among_equals() -> None:
    step = Step(7, -1.5, {7: -1.5, 9: -0.5, 3: -1.5})
    found = observations([[step]], [request(k=3)])
    assert found.ids.tolist() == [[[7, 9, 3, 7]]]


def test_a_sampled_token_that_is_not_among_the_top_k_takes_nobodys_place() -> None:
    # 2 is as likely as 3, and only 3 is of the engine's top 2.
    step = Step(2, -1.5, {2: -1.5, 9: -0.5, 3: -1.5})
    assert observations([[step]], [request(k=2)]).ids.tolist() == [[[2, 9, 3]]]


@pytest.mark.parametrize(
    "steps",
    [
        [Step(1, -1.0, {1: -1.0})],
        [Step(1, -1.0, {1: -2.0, 2: -3.0})],
        [Step(1, -1.0, {1: -1.0, 2: -3.0})] * 2,
    ],
)
def test_too_few_two_of_one_or_too_many(steps: list[Step]) -> None:
    with pytest.raises(Garbled):
        observations([steps], [request()])


def test_a_request_that_ended_early_is_shorter() -> None:
    found = observations([[Step(1, -1.0, {1: -1.0, 2: -3.0})]], [request(steps=3)])
    assert (found.lengths.tolist(), found.tokens.tolist()) == ([1], [[1, -1, -1]])


def test_an_engines_own_order_among_equals_is_lost_and_nothing_else() -> None:
    ids = np.asarray([[[7, 9, 8, 3, -1]]], np.int32)
    logprobs = np.asarray([[[-1.5, -0.5, -1.5, -1.5, 0.0]]], np.float32)
    tokens, lengths = np.asarray([[7]], np.int32), np.asarray([1], np.int32)
    found = in_api_order(Observations(tokens, lengths, ids, logprobs))
    assert found.ids.tolist() == [[[7, 9, 3, 8, -1]]]
    assert found.logprobs.tolist() == [[[-1.5, -0.5, -1.5, -1.5, 0.0]]]
    assert ids.tolist() == [[[7, 9, 8, 3, -1]]]


@given(st.dictionaries(st.integers(0, 50), LOGPROBS, min_size=3, max_size=3))
def test_offline_and_online_agree_on_the_order(values: dict[int, float]) -> None:
    token = next(iter(values))
    online = observations([[Step(token, values[token], values)]], [request(k=3)])
    ids = np.asarray([[[token, *values]]], np.int32)
    logprobs = np.asarray([[[values[token], *values.values()]]], np.float32)
    offline = Observations(np.asarray([[token]], np.int32), np.asarray([1], np.int32), ids, logprobs)
    found = in_api_order(offline)
    # +0.0 and -0.0 are equal to a sort, and not to a comparison of bits: the ids say where each is.
    assert found.ids.tolist() == online.ids.tolist()
    assert found.logprobs.view(np.uint32).tolist() == online.logprobs.view(np.uint32).tolist()


@given(st.lists(st.integers(0, 200_000), max_size=50))
def test_a_chats_text_has_a_printable_character_a_token(prompt: list[int]) -> None:
    text = chat_text(prompt)
    assert len(text) == len(prompt)
    assert text.isascii()
    assert not set(text) & set(" \n\t")
