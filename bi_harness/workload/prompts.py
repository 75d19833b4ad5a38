"""Seeded prompts: the same seed gives the same token ids on every host and Python, now and later."""

from __future__ import annotations

import hashlib

from bi_harness.workload.requests import Request

SHORT, MIDDLE = (5, 60), (61, 299)
"""Prompt lengths in tokens, from and to. The third band runs from 301 to the workload's longest."""

LONG_FROM = 301


def stream(label: str, count: int) -> list[int]:
    """``count`` integers in [0, 2**32) that depend on ``label`` alone (SHAKE-256)."""
    raw = hashlib.shake_256(label.encode()).digest(4 * count)
    return [int.from_bytes(raw[i : i + 4], "little") for i in range(0, len(raw), 4)]


def prompt_length(seed: int, index: int, longest: int) -> int:
    """The length of one prompt, in tokens: of four in a row two are short, one is middling, one long.

    Args:
        longest: at most so many tokens, also where a band would give more.
    """
    first, last = (SHORT, MIDDLE, SHORT, (LONG_FROM, max(LONG_FROM, longest)))[index % 4]
    (draw,) = stream(f"length/{seed}/{index}", 1)
    return min(first + draw % (last - first + 1), longest)


def make_requests(
    *, seed: int, count: int, steps: int, top_k: int, vocab_size: int, longest: int
) -> tuple[Request, ...]:
    """Distinct requests of mixed length, greedy and seeded in turn.

    Args:
        seed: of the workload.
        count: how many.
        steps: decode steps of each.
        top_k: logprobs reported per step beside the sampled token's.
        vocab_size: token ids are drawn from [0, vocab_size).
        longest: the longest prompt, in tokens.

    Raises:
        ValueError: when the numbers do not allow distinct prompts.
    """
    if count < 1 or steps < 1 or top_k < 1 or vocab_size < 2 or longest < SHORT[0]:
        raise ValueError(
            f"no workload with {count} prompts of up to {longest} tokens, {steps} steps, "
            f"top {top_k} and a vocabulary of {vocab_size}"
        )
    requests = []
    for index in range(count):
        length = prompt_length(seed, index, longest)
        prompt = tuple(t % vocab_size for t in stream(f"prompt/{seed}/{index}", length))
        greedy = (index // 4) % 2 == 0
        requests.append(
            Request(
                prompt=prompt,
                max_tokens=steps,
                temperature=0.0 if greedy else 0.6,
                seed=None if greedy else seed * 1_000_003 + index,
                top_k_logprobs=top_k,
            )
        )
    if len({r.prompt for r in requests}) != count:
        raise ValueError(f"{count} prompts over a vocabulary of {vocab_size} tokens are not distinct")
    return tuple(requests)


def split(count: int, size: int) -> list[list[int]]:
    """Indices 0 .. count-1 in bursts of ``size``; the last may hold fewer."""
    return [list(range(start, min(start + size, count))) for start in range(0, count, size)]
