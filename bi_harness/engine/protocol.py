"""What the harness and an engine's process say to each other: JSON lines over two pipes.

Nothing is pickled. Arrays travel as base64 of their little-endian bytes with dtype and shape, so that a
float32 arrives as the 32 bits that left. Used on both sides: standard library and numpy alone.
"""

from __future__ import annotations

import base64
import json
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

_DTYPES = {"<i4", "<f4", "<i8"}


class ProtocolError(ValueError):
    """A line that is not a message of this protocol."""


@dataclass(frozen=True, slots=True)
class StepSummary:
    """What the scheduler did while a command ran, from its own log of steps.

    Attributes:
        steps: engine steps that scheduled at least one token.
        max_requests: most requests in one step; where several ranks schedule, the sum of their largest.
        max_tokens: most tokens in one step.
        preemptions: requests preempted.
        split_prefills: requests whose prefill took more than one step.
        mixed_steps: steps in which some requests decoded while others were prefilled.
        cached_tokens: prompt tokens that were taken from the prefix cache.
        aborted: requests that were aborted before their end.
        first_bursts: 1 for the burst before which the engine had served no request at all.
        adapter_steps: steps in which requests with two LoRA adapters or more ran together.
        ranks: data parallel ranks that scheduled something.
        accepted_tokens, rejected_tokens: drafted tokens, by what became of them (the engine's own counters).
    """

    steps: int
    max_requests: int
    max_tokens: int
    preemptions: int
    split_prefills: int
    mixed_steps: int = 0
    cached_tokens: int = 0
    aborted: int = 0
    first_bursts: int = 0
    adapter_steps: int = 0
    ranks: int = 0
    accepted_tokens: int = 0
    rejected_tokens: int = 0

    @property
    def spread_bursts(self) -> int:
        """1 where several data parallel ranks had requests."""
        return int(self.ranks > 1)


def encode_array(array: npt.NDArray[Any]) -> dict[str, Any]:
    """``array`` as JSON. Only int32, int64 and float32 are allowed.

    Raises:
        ProtocolError: for another dtype.
    """
    little = array.astype(array.dtype.newbyteorder("<"), copy=False)
    kind = little.dtype.str
    if kind not in _DTYPES:
        raise ProtocolError(f"arrays of dtype {array.dtype} do not travel; use int32, int64 or float32")
    return {
        "dtype": kind,
        "shape": list(array.shape),
        "data": base64.b64encode(np.ascontiguousarray(little).tobytes()).decode("ascii"),
    }


def decode_array(data: Any) -> npt.NDArray[Any]:
    """The inverse of ``encode_array``.

    Raises:
        ProtocolError: when dtype, shape and bytes do not agree.
    """
    try:
        kind, shape = data["dtype"], tuple(data["shape"])
        raw = base64.b64decode(data["data"], validate=True)
    except (KeyError, TypeError, ValueError) as error:
        raise ProtocolError(f"not an array: {error}") from error
    sizes = all(type(n) is int and n >= 0 for n in shape)
    if not isinstance(kind, str) or kind not in _DTYPES or not sizes:
        raise ProtocolError(f"not an array: dtype {kind!r}, shape {shape}")
    if len(raw) != math.prod(shape) * np.dtype(kind).itemsize:
        raise ProtocolError(f"array of shape {shape} and dtype {kind} has {len(raw)} bytes")
    try:
        return np.frombuffer(raw, dtype=kind).reshape(shape)
    except (ValueError, OverflowError) as error:  # more dimensions, or longer ones, than numpy has
        raise ProtocolError(f"not an array: {error}") from error


def encode_line(message: dict[str, Any]) -> bytes:
    """One message as a line."""
    return json.dumps(message, separators=(",", ":"), allow_nan=False).encode("utf-8") + b"\n"


def decode_line(line: bytes) -> dict[str, Any]:
    """One line as a message.

    Raises:
        ProtocolError: when the line is not a JSON object.
    """
    try:
        message = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ProtocolError(f"not JSON: {line[:200]!r}") from error
    if not isinstance(message, dict):
        raise ProtocolError(f"not an object: {line[:200]!r}")
    return message
