"""Prompts: the same from the same seed everywhere, distinct, of mixed length."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bi_harness.workload.prompts import LONG_FROM, MIDDLE, SHORT, make_requests, prompt_length, split, stream
from bi_harness.workload.requests import Request

GOOD: dict[str, Any] = {
    "seed": 7,
    "count": 8,
    "steps": 4,
    "top_k": 2,
    "vocab_size": 4096,
    "longest": 900,
}
GOLDEN = "31d190290c9bb314115f59716a8730563844519e913ef056b165cc840e6e52cd"


def made(**changes: Any) -> tuple[Request, ...]:
    return make_requests(**{**GOOD, **changes})


def name(requests: tuple[Request, ...]) -> str:
    # Fields that requests did not have when the value was taken.
    later = {"n", "score", "cache", "adapter", "min_p", "frequency_penalty", "processed"}
    plain = [{k: v for k, v in r.to_json().items() if k not in later} for r in requests]
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()


def test_the_same_seed_gives_the_same_requests_now_and_later() -> None:
    """A golden value: reports of other hosts, Pythons and years are compared by seed."""
    assert name(made()) == GOLDEN
    assert stream("golden", 2) == [2822715866, 3191144735]


def test_another_process_with_another_hash_seed_gives_the_same() -> None:
    code = f"from bi_harness.workload.prompts import make_requests as m; print(m(**{GOOD!r})[3].prompt[:9])"
    said = subprocess.run(
        [sys.executable, "-c", code],
        env={"PYTHONHASHSEED": "1234", "PYTHONPATH": ":".join(sys.path)},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert said.strip() == str(made()[3].prompt[:9])


def test_another_seed_gives_other_prompts() -> None:
    one, two = made(seed=1), made(seed=2)
    assert not {r.prompt for r in one} & {r.prompt for r in two}


@given(st.integers(0, 2**31), st.integers(5, 2000))
def test_lengths_lie_in_their_bands(seed: int, longest: int) -> None:
    lengths = [prompt_length(seed, index, longest) for index in range(8)]
    assert max(lengths) <= longest
    bands = (SHORT, MIDDLE, SHORT, (LONG_FROM, max(LONG_FROM, longest)))
    for index, length in enumerate(lengths):
        first, last = bands[index % 4]
        assert min(first, longest) <= length <= min(last, longest)


@given(st.integers(0, 2**31), st.integers(301, 2000))
def test_one_in_four_is_over_300_tokens_where_there_is_room(seed: int, longest: int) -> None:
    lengths = [len(r.prompt) for r in made(seed=seed, longest=longest)]
    assert sum(length > 300 for length in lengths) == 2


def test_half_are_greedy_and_half_are_seeded_of_every_band() -> None:
    requests = made(count=16)
    greedy = [r.temperature == 0 for r in requests]
    assert greedy == [True] * 4 + [False] * 4 + [True] * 4 + [False] * 4
    seeds = [r.seed for r in requests if r.temperature > 0]
    assert all(r.seed is None for r in requests if r.temperature == 0)
    assert None not in seeds
    assert len(set(seeds)) == len(seeds)


@given(st.integers(0, 2**31), st.integers(1, 40), st.integers(300, 5000))
def test_requests_are_distinct_and_within_the_vocabulary(seed: int, count: int, vocab: int) -> None:
    requests = made(seed=seed, count=count, vocab_size=vocab, longest=70)
    assert len({r.prompt for r in requests}) == len(requests) == count
    assert all(0 <= token < vocab for r in requests for token in r.prompt)
    assert {(r.max_tokens, r.top_k_logprobs) for r in requests} == {(4, 2)}


def test_more_requests_begin_with_the_fewer() -> None:
    assert made(count=16)[:8] == made(count=8)


@pytest.mark.parametrize(
    "bad",
    [
        {"count": 0},
        {"count": -1},
        {"steps": 0},
        {"top_k": 0},
        {"vocab_size": 1},
        {"longest": 4},
        {"longest": -5},
    ],
)
def test_numbers_that_make_no_workload_are_refused(bad: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="no workload"):
        made(**bad)


def test_prompts_that_cannot_be_distinct_are_refused() -> None:
    with pytest.raises(ValueError, match="not distinct"):
        made(count=40, vocab_size=2, longest=5)


def test_a_request_survives_json() -> None:
    for request in made():
        assert Request.from_json(json.loads(json.dumps(request.to_json()))) == request


@pytest.mark.parametrize("data", [{}, {"prompt": [1]}, {**made()[0].to_json(), "guess": 1}])
def test_json_that_is_no_request_is_refused(data: dict[str, Any]) -> None:
    with pytest.raises((KeyError, TypeError)):
        Request.from_json(data)


@given(st.integers(0, 200), st.integers(1, 70))
def test_split_has_every_index_once_in_order_and_only_the_last_burst_is_short(count: int, size: int) -> None:
    bursts = split(count, size)
    assert [index for burst in bursts for index in burst] == list(range(count))
    assert all(len(burst) == size for burst in bursts[:-1])
    assert all(1 <= len(burst) <= size for burst in bursts)
