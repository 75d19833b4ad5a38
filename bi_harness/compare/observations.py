"""What requests gave: token ids and, per step, the float32 bits of every logprob reported."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Int32 = npt.NDArray[np.int32]
Float32 = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Observations:
    """Observations of ``R`` requests, padded to ``T`` steps and ``W`` columns.

    Attributes:
        tokens: ``[R, T]`` int32, the sampled tokens; -1 past a request's end.
        lengths: ``[R]`` int32, the steps that each request made.
        ids: ``[R, T, W]`` int32, the tokens whose logprobs are reported: column 0 is the sampled token,
            columns 1.. are the top k in rank order; -1 where there is none.
        logprobs: ``[R, T, W]`` float32, natural logarithm; 0 where there is none.

    Raises:
        ValueError: when shapes or dtypes do not fit each other.
    """

    tokens: Int32
    lengths: Int32
    ids: Int32
    logprobs: Float32

    def __post_init__(self) -> None:
        if self.ids.ndim != 3 or self.ids.shape[:2] != self.tokens.shape:
            raise ValueError(f"ids {self.ids.shape} do not fit tokens {self.tokens.shape}")
        if self.logprobs.shape != self.ids.shape or self.lengths.shape != self.tokens.shape[:1]:
            raise ValueError("logprobs or lengths do not fit the tokens")
        if self.logprobs.dtype != np.float32 or any(
            a.dtype != np.int32 for a in (self.tokens, self.lengths, self.ids)
        ):
            raise ValueError("logprobs must be float32 and everything else int32")
        if np.any(self.lengths < 0) or np.any(self.lengths > self.tokens.shape[1]):
            raise ValueError("lengths are out of range")

    @property
    def requests(self) -> int:
        """How many requests (``R``)."""
        return int(self.tokens.shape[0])

    def reordered(self, order: Sequence[int]) -> Observations:
        """Row ``i`` of this becomes row ``order[i]`` of the result: from burst order to request order.

        Raises:
            ValueError: when ``order`` is not a permutation of the rows.
        """
        if sorted(order) != list(range(self.requests)):
            raise ValueError("order is not a permutation of the rows")
        inverse = np.argsort(np.asarray(order, np.int64))
        return Observations(
            self.tokens[inverse], self.lengths[inverse], self.ids[inverse], self.logprobs[inverse]
        )

    def widened(self, steps: int) -> Observations:
        """The same with room for exactly ``steps`` steps.

        Raises:
            ValueError: when a request has more than that.
        """
        if self.requests and int(self.lengths.max()) > steps:
            raise ValueError(f"a request has {int(self.lengths.max())} steps, and room is asked for {steps}")
        more = max(0, steps - self.tokens.shape[1])
        return Observations(
            np.pad(self.tokens[:, :steps], ((0, 0), (0, more)), constant_values=-1),
            self.lengths,
            np.pad(self.ids[:, :steps], ((0, 0), (0, more), (0, 0)), constant_values=-1),
            np.pad(self.logprobs[:, :steps], ((0, 0), (0, more), (0, 0))),
        )
