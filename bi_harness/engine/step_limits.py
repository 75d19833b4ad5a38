"""Holding a running scheduler to a smaller token budget or a smaller KV cache, for some bursts.

What a check needs of the scheduler (prefills that are split, requests that are preempted) usually takes an
engine of its own, started with a small ``max_num_batched_tokens`` or cache, and starts are what costs. The
scheduler reads both at every step, so they can be set between bursts. What came of it is never assumed: the
step log has the splits and the preemptions.

The limits travel in a file, ``<folder>/limits.json``, because the scheduler may be in another process than
the engine's client (tensor and data parallel). Worker side: standard library and numpy alone.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bi_harness.engine.planted_difference import Tracked, plant

FILE = "limits.json"


@dataclass
class _Held:
    """What was taken from one scheduler, to be given back, and what was planted in it."""

    limits: dict[str, Any] = field(default_factory=dict)
    tracked: Tracked = field(default_factory=Tracked)
    step_tokens: int | None = None
    blocks: list[Any] = field(default_factory=list)


_held: dict[int, _Held] = {}


def write(
    folder: str, *, step_tokens: int | None, free_blocks: int | None, planted: str | None = None
) -> None:
    """Set the limits from the next step on; none of all ends them.

    Args:
        step_tokens: tokens of a step at most.
        free_blocks: blocks of the KV cache that stay free, while nothing runs.
        planted: which requests get a difference, see ``planted_difference``.
    """
    path = Path(folder) / FILE
    if step_tokens is None and free_blocks is None and planted is None:
        path.unlink(missing_ok=True)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".part")
    limits = {"step_tokens": step_tokens, "free_blocks": free_blocks, "planted": planted}
    partial.write_text(json.dumps(limits), encoding="utf-8")
    partial.replace(path)


def apply(scheduler: Any, folder: str) -> None:
    """Hold ``scheduler`` to what the file says, before it makes a step.

    Raises:
        AttributeError: this vLLM's scheduler is not made as expected.
    """
    try:
        with open(os.path.join(folder, FILE), encoding="utf-8") as file:
            limits: dict[str, Any] = json.load(file)
    except FileNotFoundError:
        limits = {}
    held = _held.setdefault(id(scheduler), _Held())
    if limits == held.limits:
        return
    pool = scheduler.kv_cache_manager.block_pool
    # Whatever is missing is missed before anything is changed.
    _ = (scheduler.max_num_scheduled_tokens, pool.get_num_free_blocks, pool.get_new_blocks, pool.free_blocks)
    if held.step_tokens is not None:
        scheduler.max_num_scheduled_tokens, held.step_tokens = held.step_tokens, None
    if held.blocks:
        pool.free_blocks(held.blocks)
        held.blocks = []
    if (budget := limits.get("step_tokens")) is not None:
        held.step_tokens = scheduler.max_num_scheduled_tokens
        scheduler.max_num_scheduled_tokens = min(budget, held.step_tokens)
    if (free := limits.get("free_blocks")) is not None:
        spare = pool.get_num_free_blocks() - free
        held.blocks = list(pool.get_new_blocks(spare)) if spare > 0 else []
    held.limits, held.tracked = limits, Tracked()


def plant_in(scheduler: Any, scheduled: Any, output: Any) -> None:
    """Plant the difference that the limits ask for in what a step gave, before ``scheduler`` takes it.

    Args:
        scheduled, output: see ``planted_difference.plant``.

    Raises:
        AttributeError, ValueError: see ``planted_difference.plant``.
    """
    held = _held.get(id(scheduler))
    if held is not None and (kind := held.limits.get("planted")) is not None:
        plant(kind, held.tracked, scheduled, output)
