"""What a watched engine tells, as arrays. The inverse of what ``engine.watch.watcher`` packs."""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from bi_harness.errors import EngineError

Int64 = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Tensor:
    """A tensor of a call, the request's rows of it.

    Attributes:
        path: to it in the call's arguments or result.
        dtype: of its values, as torch calls it.
        shape: of all of it, the other requests' rows included.
        rows: digests ``[R]``, or bits ``[R, values]``.
    """

    path: str
    dtype: str
    shape: tuple[int, ...]
    rows: Int64


@dataclass(frozen=True, slots=True)
class Call:
    """One call of a module in one step.

    Attributes:
        name, class_: of the module.
        call: which of its calls in the step, from 0.
        step: of the request, from 0.
        positions: of the rows' tokens.
        requests: that the step has.
        given, made: tensors before and after.
        ran: operators and kernels, of a call that was traced.
    """

    name: str
    class_: str
    call: int
    step: int
    positions: tuple[int, ...]
    requests: int
    given: tuple[Tensor, ...]
    made: tuple[Tensor, ...]
    ran: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Seen:
    """What one rank saw of one request.

    Attributes:
        rank: tensor parallel.
        modules: class by name, in the model's order.
        calls: in the order in which they ended.
        truncated: whether there was more than is kept.
        problems: what could not be looked at, and how often.
        memory: bytes, see ``engine.watch.watcher``.
        steps: in which the request had rows.
    """

    rank: int
    modules: dict[str, str]
    calls: tuple[Call, ...]
    truncated: bool
    problems: dict[str, int]
    memory: dict[str, Any]
    steps: int


def parse(told: Mapping[str, Any]) -> Seen:
    """From an engine's answer.

    Raises:
        EngineError: it makes no sense.
    """
    try:
        return Seen(
            rank=int(told["tp_rank"]),
            modules={str(name): str(cls) for name, cls in told["modules"]},
            calls=tuple(_call(record) for record in told["records"]),
            truncated=bool(told["truncated"]),
            problems={str(k): int(v) for k, v in told["problems"].items()},
            memory=dict(told["memory"]),
            steps=int(told["steps"]),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise EngineError(
            f"the engine told of its modules what makes no sense: {type(error).__name__}: {error}"
        ) from error


def _call(record: Mapping[str, Any]) -> Call:
    ran = record.get("ran") or {}
    kernels = [f"{name} x {times}" for name, times in ran.get("kernels", {}).items()]
    call = Call(
        name=str(record["name"]),
        class_=str(record["class"]),
        call=int(record["call"]),
        step=int(record["step"]),
        positions=tuple(int(p) for p in record["positions"]),
        requests=int(record["requests"]),
        given=tuple(_tensor(t) for t in record["in"]),
        made=tuple(_tensor(t) for t in record["out"]),
        ran=(*map(str, ran.get("operators", ())), *kernels),
    )
    for tensor in (*call.given, *call.made):
        if len(tensor.rows) != len(call.positions):
            raise ValueError(f"{call.name} has {len(tensor.rows)} rows of {len(call.positions)} tokens")
    return call


def _tensor(told: Mapping[str, Any]) -> Tensor:
    of = tuple(int(n) for n in told["of"])
    data = base64.b64decode(told["data"], validate=True)
    if any(n < 0 for n in of) or len(data) != 8 * math.prod(of):
        raise ValueError(f"{len(data)} bytes are no {of} integers")
    rows = np.frombuffer(data, "<i8").reshape(of)
    return Tensor(str(told["path"]), str(told["dtype"]), tuple(int(n) for n in told["shape"]), rows)
