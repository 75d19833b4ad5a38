"""The workload of a suite on a model: requests and batch sizes, from the YAML's parameters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from bi_harness.errors import SpecError
from bi_harness.workload.checkplan import ArmPlan, CheckPlan, together
from bi_harness.workload.prompts import make_requests, stream
from bi_harness.workload.requests import Member, Request

if TYPE_CHECKING:
    from bi_harness.spec.models import ModelSpec
    from bi_harness.spec.suites import SuiteSpec

LARGEST_BATCH = 4096
"""Of a profile's sizes."""

SMALLEST_MAX_BATCH = 64
"""Engines admit at least so many requests at once, where a profile has no ``max_num_seqs``: bursts and
neighbours go beyond the batch sizes."""


SHORT_TOKENS = 256
"""Prompt and output of a request that fills a batch up beyond the batch sizes, at most."""


@dataclass(frozen=True, slots=True)
class Workload:
    """What the checks of a suite send, in one profile.

    Attributes:
        requests: distinct requests: the subjects.
        batch_sizes: sizes to compare with batch size 1, rising; those beyond the number of requests are
            filled up with neighbours.
        seed: of the workload.
        vocab_size: token ids lie in [0, vocab_size).
        longest_prompt: in tokens.
        min_steps: steps that each check compares at least.
        max_num_seqs: requests that engines admit at once, at least.
    """

    requests: tuple[Request, ...]
    batch_sizes: tuple[int, ...]
    seed: int
    vocab_size: int
    longest_prompt: int
    min_steps: int = 0
    max_num_seqs: int = SMALLEST_MAX_BATCH

    @property
    def max_batch(self) -> int:
        """Requests that may be up at once; what engines are started for."""
        return max(*self.batch_sizes, self.max_num_seqs)

    @property
    def resident(self) -> int:
        """Requests of the longest length that the KV cache must hold at once: as many as the largest batch
        size, and the room of the shorter ones (``SHORT_TOKENS``) that fill an engine up to
        ``max_num_seqs``."""
        longest = max(*self.batch_sizes, SMALLEST_MAX_BATCH)
        return longest + -(-(self.max_batch - longest) * SHORT_TOKENS // self.max_tokens)

    @property
    def max_tokens(self) -> int:
        """Tokens of the longest request, prompt and output, and one more: to score a whole output, an engine
        must take it as a prompt and generate a token. What engines are started for."""
        return self.longest_prompt + max(r.max_tokens for r in self.requests) + 1

    def bs1_vs_bsN(self) -> CheckPlan:
        """Every request alone, and in batches of every size."""
        arms = tuple(
            together(f"batches of {n}", self.requests, n) if n <= len(self.requests) else self._filled(n)
            for n in self.batch_sizes
        )
        return CheckPlan(self.requests, arms)

    def _filled(self, size: int) -> ArmPlan:
        """All requests at random places in one batch, with neighbours of every length: a large batch, without
        as many runs alone."""
        label = f"filled/{size}"
        lengths = self.numbers(f"{label}/lengths", size - len(self.requests), self.longest_prompt)
        neighbours = [self.neighbour(f"{label}/{i}", length + 1) for i, length in enumerate(lengths)]
        return ArmPlan(
            name=f"batches of {size}",
            requests=(*self.requests, *neighbours),
            bursts=(tuple(Member(place) for place in self.shuffled(label, size)),),
            subjects=tuple(range(len(self.requests))),
            batch_size=size,
        )

    def prompt(self, label: str, length: int) -> tuple[int, ...]:
        """``length`` random token ids that depend on the seed and ``label`` alone."""
        return tuple(t % self.vocab_size for t in stream(f"{label}/{self.seed}", length))

    def request(self, prompt: tuple[int, ...], steps: int) -> Request:
        """A greedy request."""
        return replace(self.requests[0], prompt=prompt, max_tokens=steps, temperature=0.0, seed=None)

    def greedy(self, requests: Sequence[Request], steps: int) -> tuple[Request, ...]:
        """The same prompts, greedy."""
        return tuple(self.request(r.prompt, steps) for r in requests)

    def rounds(self, usual: int, steps: int) -> int:
        """How many arms of ``steps`` compared steps each a check has: the usual, or as many as the profile's
        ``min_steps`` takes."""
        return max(usual, -(-self.min_steps // steps))

    def neighbour(self, label: str, length: int) -> Request:
        """A greedy request that is there to disturb others; its own observation is not looked at."""
        return self.request(self.prompt(label, length), self.requests[0].max_tokens)

    def numbers(self, label: str, count: int, below: int) -> list[int]:
        """``count`` random numbers in [0, below) that depend on the seed and ``label`` alone."""
        return [n % below for n in stream(f"{label}/{self.seed}", count)]

    def shuffled(self, label: str, count: int) -> list[int]:
        """A random order of 0 .. count-1 that depends on the seed and ``label`` alone."""
        keys = stream(f"{label}/{self.seed}", count)
        return sorted(range(count), key=lambda i: (keys[i], i))


def _is_batch_size(value: object) -> bool:
    return type(value) is int and 2 <= value <= LARGEST_BATCH


def plan_workload(model: ModelSpec, suite: SuiteSpec, *, profile: str, seed: int) -> Workload:
    """The workload for ``model`` in ``profile``.

    Raises:
        SpecError: when the suite has not the profile or a parameter it needs, or they do not make sense.
    """
    where = f"suites/{suite.id}/suite.yaml: profiles.{profile}"
    params = dict(suite.profiles).get(profile)  # type: ignore[call-overload]
    if params is None:
        raise SpecError(f"{where}: the suite has no such profile; it has {', '.join(suite.profiles)}")
    numbers: dict[str, int] = {}
    for name in ("prompts", "steps", "top_k", "longest_prompt"):
        value = params.get(name)
        if not isinstance(value, int) or value < 1:
            raise SpecError(f"{where}: {name} must be a whole number from 1; it is {value!r}")
        numbers[name] = value
    min_steps = params.get("min_steps", 0)
    if not isinstance(min_steps, int) or min_steps < 0:
        raise SpecError(f"{where}: min_steps must be a whole number from 0; it is {min_steps!r}")
    max_num_seqs = params.get("max_num_seqs", SMALLEST_MAX_BATCH)
    if not _is_batch_size(max_num_seqs):
        raise SpecError(
            f"{where}: max_num_seqs must be a whole number from 2 to {LARGEST_BATCH}; it is {max_num_seqs!r}"
        )
    sizes = params.get("batch_sizes")
    if not isinstance(sizes, list) or not sizes or not all(_is_batch_size(size) for size in sizes):
        raise SpecError(
            f"{where}: batch_sizes must be whole numbers from 2 to {LARGEST_BATCH}; they are {sizes!r}"
        )
    longest = min(numbers["longest_prompt"], model.max_model_len - numbers["steps"] - 1)
    try:
        requests = make_requests(
            seed=seed,
            count=numbers["prompts"],
            steps=numbers["steps"],
            top_k=numbers["top_k"],
            vocab_size=int(model.config["vocab_size"]),
            longest=longest,
        )
    except ValueError as error:
        raise SpecError(f"{where} on {model.id}: {error}") from error
    return Workload(
        requests,
        tuple(sorted(set(sizes))),
        seed=seed,
        vocab_size=int(model.config["vocab_size"]),
        longest_prompt=longest,
        min_steps=min_steps,
        max_num_seqs=max_num_seqs,
    )
