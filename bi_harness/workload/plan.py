"""The workload of a suite on a model: requests and batch sizes, from the YAML's parameters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from bi_harness.errors import SpecError
from bi_harness.workload.prompts import make_requests
from bi_harness.workload.requests import Request

if TYPE_CHECKING:
    from bi_harness.spec.models import ModelSpec
    from bi_harness.spec.suites import SuiteSpec


@dataclass(frozen=True, slots=True)
class Workload:
    """What a check sends.

    Attributes:
        requests: distinct requests.
        batch_sizes: sizes to compare with batch size 1, rising.
    """

    requests: tuple[Request, ...]
    batch_sizes: tuple[int, ...]

    @property
    def max_batch(self) -> int:
        """The largest batch size."""
        return max(self.batch_sizes)

    @property
    def max_tokens(self) -> int:
        """Tokens of the longest request, prompt and output."""
        return max(len(r.prompt) + r.max_tokens for r in self.requests)


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
    sizes = params.get("batch_sizes")
    if not isinstance(sizes, list) or not sizes or min(sizes) < 2 or max(sizes) > numbers["prompts"]:
        raise SpecError(
            f"{where}: batch_sizes must be whole numbers from 2 to prompts ({numbers['prompts']}); "
            f"they are {sizes!r}"
        )
    try:
        requests = make_requests(
            seed=seed,
            count=numbers["prompts"],
            steps=numbers["steps"],
            top_k=numbers["top_k"],
            vocab_size=int(model.config["vocab_size"]),
            longest=min(numbers["longest_prompt"], model.max_model_len - numbers["steps"]),
        )
    except ValueError as error:
        raise SpecError(f"{where} on {model.id}: {error}") from error
    return Workload(requests, tuple(sorted(set(sizes))))
