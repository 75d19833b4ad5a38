"""Which rows of a step's flattened batch are a request's. Worker side: standard library alone."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Share:
    """A request's part of a step.

    Attributes:
        index: its place among the step's requests.
        start, end: its rows.
        first: the absolute position of its first row's token.
        requests: how many the step has.
        scheduled: how many rows the step has, without padding.
    """

    index: int
    start: int
    end: int
    first: int
    requests: int
    scheduled: int

    @property
    def positions(self) -> list[int]:
        """Of the rows' tokens."""
        return list(range(self.first, self.first + self.end - self.start))


def is_request(name: str, request: str, sequence: int) -> bool:
    """Whether vLLM's name of a request is that of the one that was submitted as ``request``.

    vLLM puts a random suffix behind the name (``57-9f3a2c1d``), and of a request with several sequences the
    sequence's number before it (``2_57-9f3a2c1d``).
    """
    found = re.fullmatch(rf"(?:(\d+)_)?{re.escape(request)}(?:-.*)?", name)
    return found is not None and int(found[1] or 0) == sequence


def find(runner: Any, stashed: Any, request: str, sequence: int) -> Share | None:
    """The request's part of the step that the model runner is about to make; ``None`` when it has none.

    Args:
        runner: vLLM's model runner.
        stashed: what its ``prepare_inputs`` gave, of a runner that has one (vLLM's second one).
        request, sequence: see ``is_request``.

    Raises:
        AttributeError: when this vLLM's model runner keeps its batch otherwise.
    """
    if stashed is not None:
        names = list(stashed.req_ids)[: int(stashed.num_reqs)]
        starts, computed = stashed.query_start_loc_np, stashed.num_computed_tokens_np
    else:
        batch = runner.input_batch
        names = list(batch.req_ids)[: int(batch.num_reqs)]
        starts, computed = runner.query_start_loc.np, batch.num_computed_tokens_cpu
    for index, name in enumerate(names):
        if name is not None and is_request(str(name), request, sequence):
            start, end = int(starts[index]), int(starts[index + 1])
            first = int(computed[index])
            return (
                Share(index, start, end, first, len(names), int(starts[len(names)])) if end > start else None
            )
    return None
