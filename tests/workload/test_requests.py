"""Requests, members and limits reach the engine's process as they left."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bi_harness.engine.protocol import decode_line, encode_line
from bi_harness.workload.requests import Limits, Member, Request

FLOATS = st.floats(allow_nan=False, allow_infinity=False)
COUNTS = st.integers(0, 2**40)

FIELDS: dict[str, st.SearchStrategy[Any]] = {
    "prompt": st.lists(st.integers(0, 2**31 - 1), max_size=9).map(tuple),
    "max_tokens": COUNTS,
    "temperature": FLOATS,
    "seed": st.none() | st.integers(0, 2**63 - 1),
    "top_k_logprobs": COUNTS,
    "top_p": FLOATS,
    "top_k": st.integers(-1, 2**31),
    "min_p": FLOATS,
    "presence_penalty": FLOATS,
    "frequency_penalty": FLOATS,
    "repetition_penalty": FLOATS,
    "n": COUNTS,
    "score": COUNTS,
    "cache": st.none() | st.text(),
    "adapter": COUNTS,
    "processed": st.booleans(),
}

PLAIN = Request((1, 2, 3), 4, 0.0, None, 5)


def there_and_back(value: Any) -> Any:
    """As the pipe does it."""
    return decode_line(encode_line({"value": value}))["value"]


def test_every_field_is_tried() -> None:
    assert set(FIELDS) == {field.name for field in dataclasses.fields(Request)}


@given(st.fixed_dictionaries(FIELDS))
def test_a_request_is_the_same_on_the_other_side(fields: dict[str, Any]) -> None:
    request = Request(**fields)
    back = Request.from_json(there_and_back(request.to_json()))
    assert back == request
    assert hash(back) == hash(request)  # the prompt is a tuple again: requests are keys
    for field in dataclasses.fields(Request):
        # 0 == 0.0 == False, and -0.0 is another float.
        assert repr(getattr(back, field.name)) == repr(getattr(request, field.name))


@given(st.fixed_dictionaries(FIELDS))
def test_its_json_has_plain_types_alone(fields: dict[str, Any]) -> None:
    data = Request(**fields).to_json()
    assert set(data) == set(FIELDS)
    assert json.loads(json.dumps(data)) == data


def test_what_is_left_out_is_off() -> None:
    data = PLAIN.to_json()
    short = {name: data[name] for name in ("prompt", "max_tokens", "temperature", "seed", "top_k_logprobs")}
    assert Request.from_json(short) == PLAIN
    assert (PLAIN.n, PLAIN.score, PLAIN.cache, PLAIN.adapter) == (1, 0, None, 0)
    assert (PLAIN.top_p, PLAIN.top_k, PLAIN.min_p) == (1.0, 0, 0.0)
    assert (PLAIN.presence_penalty, PLAIN.frequency_penalty, PLAIN.repetition_penalty) == (0.0, 0.0, 1.0)


def test_an_unknown_field_is_refused_and_not_dropped() -> None:
    with pytest.raises(TypeError, match="logit_bias"):
        Request.from_json({**PLAIN.to_json(), "logit_bias": {}})


@pytest.mark.parametrize("name", ["prompt", "max_tokens", "temperature", "seed", "top_k_logprobs"])
def test_a_field_without_a_default_must_be_there(name: str) -> None:
    data = PLAIN.to_json()
    del data[name]
    with pytest.raises((KeyError, TypeError), match=name):
        Request.from_json(data)


def test_reading_leaves_the_json_as_it_was() -> None:
    data = PLAIN.to_json()
    Request.from_json(data)
    assert data == PLAIN.to_json()
    assert isinstance(data["prompt"], list)


@given(st.integers(1, 99), st.integers(0, 99))
def test_scored_tokens_are_observed_in_place_of_generated_ones(max_tokens: int, score: int) -> None:
    request = dataclasses.replace(PLAIN, max_tokens=max_tokens, score=score)
    assert request.observed == (score if score else max_tokens)


def test_requests_that_differ_in_any_field_are_two() -> None:
    """Else one would be taken for the other's reference."""
    others: dict[str, Any] = {
        "prompt": (1, 2),
        "max_tokens": 5,
        "temperature": 0.5,
        "seed": 0,
        "top_k_logprobs": 4,
        "top_p": 0.9,
        "top_k": 1,
        "min_p": 0.1,
        "presence_penalty": 0.1,
        "frequency_penalty": 0.1,
        "repetition_penalty": 1.1,
        "n": 2,
        "score": 1,
        "cache": "",
        "adapter": 1,
        "processed": True,
    }
    assert set(others) == set(FIELDS)
    changed = {dataclasses.replace(PLAIN, **{name: value}) for name, value in others.items()}
    assert len(changed | {PLAIN}) == len(others) + 1


@given(COUNTS, COUNTS, st.none() | COUNTS)
def test_a_member_is_the_same_on_the_other_side(request_: int, arrival: int, abort: int | None) -> None:
    member = Member(request_, arrival, abort)
    assert Member(*there_and_back(member.to_json())) == member


@given(st.none() | COUNTS, st.none() | FLOATS)
def test_limits_are_the_same_on_the_other_side(step_tokens: int | None, kv_growth: float | None) -> None:
    limits = Limits(step_tokens, kv_growth)
    assert Limits(**there_and_back(dataclasses.asdict(limits))) == limits
