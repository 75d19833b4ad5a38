"""What each of vLLM's own tests looks at, and the checks here that look at no less."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Counterpart:
    """One of vLLM's tests.

    Attributes:
        test: its name in ``tests/v1/determinism/test_batch_invariance.py``, without parameters.
        checks: of ``suites/batch_invariance`` that look at the same, in bits.
        note: what differs.
    """

    test: str
    checks: tuple[str, ...]
    note: str


COUNTERPARTS = (
    Counterpart(
        "test_v1_generation_is_deterministic_across_batch_sizes_with_needle",
        ("needle", "bs1_vs_bsN"),
        "vLLM: the text of one request of 4 words, 128 tokens, in 5 batches of 64 to 128 with prompts of "
        "1,024 to 2,048 words. Here: tokens and all logprobs of 8 requests among 25 fillers, and of 33 "
        "requests among 95; 20 tokens each, prompts of up to 470 tokens.",
    ),
    Counterpart(
        "test_logprobs_bitwise_batch_invariance_bs1_vs_bsN",
        ("bs1_vs_bsN",),
        "vLLM: 32 prompts, 16 tokens, the sampled token's logprob, one batch of 32; twice, with block sizes "
        "that FlexAttention alone reads. Here: 33 prompts, 20 tokens, top 5, batches of 32 and 128.",
    ),
    Counterpart(
        "test_simple_generation",
        ("simple_generation",),
        "vLLM: that one prompt runs; nothing is compared. Here: its bits alone and together.",
    ),
    Counterpart(
        "test_logprobs_without_batch_invariance_should_fail",
        (),
        "vLLM: one difference in 32 prompts, in this test alone. Here: the control of each check.",
    ),
    Counterpart(
        "test_decode_logprobs_match_prefill_logprobs",
        ("decode_vs_prefill",),
        "vLLM: 4 prompts of 16 tokens, FLASH_ATTN alone. Here: every backend.",
    ),
)


def checks_for(tests: tuple[str, ...]) -> tuple[str, ...]:
    """The checks that look at no less than these tests, in the order of the table.

    Raises:
        ValueError: a test has no counterpart: then the two sides cannot be held against each other.
    """
    known = {c.test: c.checks for c in COUNTERPARTS}
    if unknown := sorted(set(tests) - set(known)):
        raise ValueError(f"no check here is the counterpart of {', '.join(unknown)}")
    return tuple(dict.fromkeys(check for c in COUNTERPARTS if c.test in tests for check in c.checks))
