"""Observations made up for tests: by hand, by hypothesis, and an oracle that compares them value by value."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from bi_harness.certificate.records import BatchReached, Divergence, Evidence
from bi_harness.compare.bits import TOKENS_DIFFER
from bi_harness.compare.observations import Observations

DIGEST = "sha256:" + "0" * 64
SPECIAL = [0x00000000, 0x80000000, 0x7F800000, 0xFF800000, 0x7FC00000, 0xFFC00001, 0x00000001, 0x7F7FFFFF]
"""+0, -0, the infinities, two NaNs, the smallest subnormal, the largest finite value."""


def observations(
    requests: int = 3, steps: int = 4, width: int = 3, lengths: list[int] | None = None, seed: int = 0
) -> Observations:
    """Plain observations: log-probabilities, columns all present, padded by the book."""
    draw = np.random.default_rng(seed)
    ids = draw.integers(0, 1000, (requests, steps, width)).astype(np.int32)
    logprobs = -draw.exponential(3, (requests, steps, width)).astype(np.float32)
    made = np.asarray([steps] * requests if lengths is None else lengths, np.int32)
    past = np.arange(steps)[None, :] >= made[:, None]
    ids[past], logprobs[past] = -1, 0
    tokens = ids[:, :, 0].copy() if width else np.zeros((requests, steps), np.int32)
    return Observations(tokens, made, ids, logprobs)


def changed(source: Observations, **arrays: Any) -> Observations:
    """A copy in other memory, with some arrays replaced."""
    copied = {f.name: getattr(source, f.name).copy() for f in dataclasses.fields(source)}
    return Observations(**{**copied, **arrays})


def with_bits(source: Observations, where: tuple[int, int, int], bits: int) -> Observations:
    """A copy in which the logprob at ``where`` has these bits."""
    logprobs = source.logprobs.copy()
    logprobs.view(np.uint32)[where] = bits
    return changed(source, logprobs=logprobs)


def with_token(source: Observations, request: int, step: int, token: int) -> Observations:
    """A copy in which another token was sampled there."""
    tokens, ids = source.tokens.copy(), source.ids.copy()
    tokens[request, step] = ids[request, step, 0] = token
    return changed(source, tokens=tokens, ids=ids)


def any_bits(shape: tuple[int, ...]) -> st.SearchStrategy[np.ndarray]:
    """float32 arrays of any bits, the special ones often among them."""
    bits = st.one_of(st.sampled_from(SPECIAL), st.integers(0, 2**32 - 1))
    return hnp.arrays(np.uint32, shape, elements=bits).map(lambda a: a.view(np.float32))


@st.composite
def any_observations(draw: st.DrawFn, shape: tuple[int, int, int] | None = None) -> Observations:
    """Any lengths, any bits, columns without a token, and rubbish where padding should be."""
    r, t, w = shape or draw(st.tuples(st.integers(0, 4), st.integers(0, 4), st.integers(1, 3)))
    tokens = draw(hnp.arrays(np.int32, (r, t), elements=st.integers(0, 2)))
    ids = draw(hnp.arrays(np.int32, (r, t, w), elements=st.integers(-1, 2)))
    lengths = draw(hnp.arrays(np.int32, (r,), elements=st.integers(0, t)))
    return Observations(tokens, lengths, ids, draw(any_bits((r, t, w))))


@st.composite
def any_pair(draw: st.DrawFn) -> tuple[Observations, Observations]:
    """Two of one shape: unrelated, or the second a copy of the first with a few changes."""
    first = draw(any_observations())
    second = draw(any_observations(first.ids.shape))
    if draw(st.booleans()):
        return first, second
    mixed = []
    for field in dataclasses.fields(first):
        one, two = getattr(first, field.name), getattr(second, field.name)
        take = draw(hnp.arrays(np.bool_, one.shape, elements=st.sampled_from([False] * 9 + [True])))
        mixed.append(np.where(take, two, one))
    return first, Observations(*mixed)


def bits_of(value: np.float32) -> bytes:
    """The value as it lies in memory (``struct`` would not keep a NaN's payload)."""
    return np.asarray(value, "<f4").tobytes()


def oracle(a: Observations, b: Observations) -> dict[str, Any]:
    """What ``compare`` must say, found one value at a time."""
    steps = values = differing_steps = differing_values = 0
    differing = [False] * a.requests
    first: tuple[int, int, int] | None = None

    def found(request: int, step: int, rank: int) -> None:
        nonlocal first
        differing[request] = True
        first = first or (request, step, rank)

    for request in range(a.requests):
        common = min(a.lengths[request], b.lengths[request])
        tokens_differ = False
        for step in range(common):
            steps += 1
            columns = []
            for column in range(a.ids.shape[2]):
                where = (request, step, column)
                if a.ids[where] < 0 and b.ids[where] < 0:
                    continue
                values += 1
                if a.ids[where] != b.ids[where] or bits_of(a.logprobs[where]) != bits_of(b.logprobs[where]):
                    columns.append(column)
            tokens_differ = a.tokens[request, step] != b.tokens[request, step]
            differing_values += len(columns)
            if columns or tokens_differ:
                differing_steps += 1
                found(request, step, columns[0] if columns else TOKENS_DIFFER)
            if tokens_differ:
                break
        if not tokens_differ and a.lengths[request] != b.lengths[request]:
            differing_steps += 1
            found(request, int(common), TOKENS_DIFFER)
    return {
        "steps": steps,
        "values": values,
        "differing_steps": differing_steps,
        "differing_values": differing_values,
        "differing_requests": differing,
        "first": first,
    }


def reached(batch_size: int, max_requests: int | None = None, prompts: int = 8) -> BatchReached:
    """What the scheduler did: by default, what was asked for."""
    return BatchReached(
        batch_size=batch_size,
        prompts=prompts,
        steps=10,
        max_requests=batch_size if max_requests is None else max_requests,
        max_tokens=100,
    )


def evidence(**changes: Any) -> Evidence:
    """Evidence of a clean treatment; ``changes`` replace fields."""
    fields: dict[str, Any] = {
        "prompts": 8,
        "steps": 64,
        "values": 384,
        "differing_prompts": 0,
        "differing_steps": 0,
        "differing_values": 0,
        "first_divergence": None,
        "max_ulp": 0,
        "max_abs": 0.0,
        "digest": DIGEST,
        "reference_digest": DIGEST,
        "upper95": 0.05,
        "batches": (reached(1), reached(2), reached(8)),
    }
    return Evidence(**{**fields, **changes})


def diverged(differing: int, **changes: Any) -> Evidence:
    """Evidence in which so many prompts differ."""
    return evidence(
        **{
            "differing_prompts": differing,
            "differing_steps": differing,
            "differing_values": differing,
            "first_divergence": divergence() if differing else None,
            "max_ulp": 3 if differing else 0,
            **changes,
        }
    )


def divergence() -> Divergence:
    return Divergence(
        prompt=0,
        prompt_tokens=9,
        batch_size=2,
        step=1,
        rank=0,
        reference_token=5,
        observed_token=5,
        reference_bits="0xbf800000",
        observed_bits="0xbf800001",
        reference_logprob=-1.0,
        observed_logprob=-1.0000001,
        ulp=1,
    )
