"""What engines would have seen, made up."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from bi_harness.localize.seen import Seen, parse

MODULES = ("embed", "layers.0.norm", "layers.0.proj", "layers.0", "layers.1.norm", "layers.1", "(model)")
"""In the order in which they end."""


def tensor(rows: Any, path: str = "0", dtype: str = "bfloat16", shape: Sequence[int] = ()) -> dict[str, Any]:
    array = np.asarray(rows, np.int64)
    return {
        "path": path,
        "dtype": dtype,
        "shape": list(shape) or [len(array), 8],
        "of": list(array.shape),
        "data": base64.b64encode(array.astype("<i8").tobytes()).decode(),
    }


def record(
    name: str, positions: Sequence[int], given: Any, made: Any, *, step: int = 0, call: int = 0
) -> dict[str, Any]:
    return {
        "step": step,
        "name": name,
        "class": name.rsplit(".", 1)[-1].title(),
        "call": call,
        "phase": "forward",
        "positions": list(positions),
        "requests": 1,
        "rows": len(positions),
        "in": [tensor(given)],
        "out": [tensor(made)],
        "others": 0,
    }


def told(records: Sequence[Mapping[str, Any]], rank: int = 0, **more: Any) -> dict[str, Any]:
    return {
        "tp_rank": rank,
        "modules": [[name, name.rsplit(".", 1)[-1].title()] for name in MODULES],
        "records": list(records),
        "steps": 1,
        "truncated": False,
        "problems": {},
        "memory": {"before": {"rss": 1 << 20}, "after": {"rss": 2 << 20}, "kept": 64},
        **more,
    }


def run(
    steps: Sequence[Sequence[int]], broken: Mapping[tuple[str, int], int] | None = None, **more: Any
) -> dict[str, Any]:
    """A model in which a row's value goes through the modules; ``broken`` adds to what a module gives at a
    position, and everything after it is another: later modules, and later positions of ``layers.*``.

    Args:
        steps: the positions of each step.
        broken: (module, position) → what is added.
    """
    broken = broken or {}
    records = []
    dirt = 0  # what earlier positions' keys and values carry on
    for number, positions in enumerate(steps):
        values = {p: 1000 * p + dirt for p in positions}
        begun = {"layers.0": dict(values), "layers.1": dict(values), "(model)": {p: p for p in positions}}
        for name in MODULES:
            if name == "embed":
                given = {p: p for p in positions}
            elif name in ("layers.0", "layers.1", "(model)"):
                given = begun[name]
            else:
                given = dict(values)
            if name.endswith(".norm"):
                begun[name.removesuffix(".norm")] = dict(values)
            if name not in ("layers.0", "layers.1", "(model)"):
                values = {p: v + 1 for p, v in values.items()}
            values = {p: v + broken.get((name, p), 0) for p, v in values.items()}
            records.append(
                record(
                    name,
                    positions,
                    [given[p] for p in positions],
                    [values[p] for p in positions],
                    step=number,
                )
            )
        dirt += sum(broken.get((name, p), 0) for name in MODULES for p in positions)
    return told(records, **more)


def seen(*args: Any, **kwargs: Any) -> Seen:
    return parse(run(*args, **kwargs))
