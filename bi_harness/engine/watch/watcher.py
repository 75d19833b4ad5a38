"""Watching one request go through a model's modules, step by step.

One of three things is kept of it: digests of every module's rows, the bits of one module's rows, or what one
module's call runs. Worker side: numpy and torch alone.
"""

from __future__ import annotations

import base64
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from bi_harness.engine.watch import layout, rows
from bi_harness.engine.watch.calls import ROOT, SAMPLER, Calls
from bi_harness.engine.watch.trace import traced

MAX_DIGESTS = 16 << 20
"""Digests that are kept, 8 bytes each; what comes later is not, and the answer says so."""

MAX_VALUES = 32 << 20
"""Values that are kept of the suspect's rows, in the same way."""

Kind = Literal["digests", "values", "trace"]


@dataclass(frozen=True, slots=True)
class Order:
    """What to watch.

    Attributes:
        request: number under which it was submitted.
        sequence: of it, where it has several.
        kind: ``digests`` of all modules, ``values`` of the suspect, ``trace`` of the suspect.
        suspect: the module's name; empty for all.
        call: which of its calls in a step.
        positions: of the tokens whose rows are kept (values), or whose step is traced; empty for all.
    """

    request: str
    sequence: int = 0
    kind: Kind = "digests"
    suspect: str = ""
    call: int = 0
    positions: tuple[int, ...] = ()


@dataclass
class _Step:
    """The step at hand.

    Attributes:
        share: the request's part of it.
        aligned: how many rows a tensor has whose rows are the step's tokens.
        phase: ``forward``, then ``after``.
        hidden: digests of the request's rows of what the model's forward gave.
    """

    number: int
    share: layout.Share
    aligned: set[int]
    phase: str = "forward"
    counts: dict[str, int] = field(default_factory=dict)
    hidden: Any = None


@dataclass
class _Rows:
    """Which rows of a call's tensors are the request's, and the positions of their tokens."""

    total: set[int]
    index: Any
    positions: list[int]


class Watcher:
    """Watches until ``finish``.

    Args:
        runner: vLLM's model runner.
        order: what to watch.
    """

    def __init__(self, runner: Any, order: Order) -> None:
        import torch

        self._runner, self._order = runner, order
        self._step: _Step | None = None
        self._within: list[_Rows] = []
        self._stashed: Any = None
        self._steps = self._kept = 0
        self._truncated = False
        self._records: list[dict[str, Any]] = []
        self._problems: dict[str, int] = {}
        self._memory = _memory(torch)
        model = runner.get_model() if hasattr(runner, "get_model") else runner.model
        roots = {ROOT: model}
        if isinstance(sampler := getattr(runner, "sampler", None), torch.nn.Module):
            roots[SAMPLER] = sampler
        self._undo: list[Callable[[], None]] = []
        if not hasattr(runner, "query_start_loc"):
            self._stash_batches()
        only = None if order.kind == "digests" else {ROOT, SAMPLER, order.suspect}
        self._calls = Calls(roots, self._around, None if only is None else sorted(only))

    def finish(self) -> dict[str, Any]:
        """Leave the model as it was, and tell what was seen, in JSON's types."""
        import torch

        self._calls.close()
        while self._undo:
            self._undo.pop()()
        before, after = self._memory, _memory(torch)
        return {
            "modules": list(self._calls.modules.items()),
            "records": [_told(record) for record in self._records],
            "steps": self._steps,
            "truncated": self._truncated,
            "problems": self._problems,
            "memory": {"before": before, "after": after, "kept": 8 * self._kept},
        }

    def _stash_batches(self) -> None:
        """vLLM's second model runner makes a new batch for each step and keeps it to itself."""
        runner = self._runner
        stock = runner.prepare_inputs

        def prepare_inputs(*args: Any, **kwargs: Any) -> Any:
            self._stashed = stock(*args, **kwargs)
            return self._stashed

        runner.prepare_inputs = prepare_inputs
        self._undo.append(lambda: delattr(runner, "prepare_inputs"))

    def _around(
        self, name: str, cls: str, stock: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        if name == ROOT and not self._within:
            self._begin(args, kwargs)
        step = self._step
        if step is None:
            return stock(*args, **kwargs)
        call = step.counts.get(name, 0)
        step.counts[name] = call + 1
        chosen = self._choose(step, name, args, kwargs)
        keep = chosen is not None and self._wanted(name, call, chosen)
        given = self._look(chosen, (args, kwargs)) if keep and chosen is not None else None
        if chosen is not None:
            self._within.append(chosen)
        try:
            told: dict[str, Any] = {}
            if keep and self._order.kind == "trace" and name == self._order.suspect:
                out, told = traced(stock, args, kwargs)
            else:
                out = stock(*args, **kwargs)
        finally:
            if chosen is not None:
                self._within.pop()
        if keep and chosen is not None and given is not None:
            made = self._look(chosen, out)
            if not made[0]:
                # It may have written into what it was given, and return nothing.
                made = self._look(chosen, (args, kwargs))
            self._keep(step, name, cls, call, chosen, given, made, told)
        if name == ROOT and not self._within:
            step.phase = "after"
            for _, tensor in rows.tensors(out):
                if tensor.dim() > 1 and tensor.shape[0] in step.aligned:
                    step.hidden = rows.digests(tensor[step.share.start : step.share.end])
                    break
        return out

    def _begin(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        share = layout.find(self._runner, self._stashed, self._order.request, self._order.sequence)
        self._stashed, self._step = None, None
        if share is None:
            return
        named = dict(kwargs)
        inputs = [
            v for k in ("input_ids", "inputs_embeds", "positions") if (v := named.get(k)) is not None
        ] or [tensor for _, tensor in rows.tensors(args)]
        aligned = {share.scheduled, *(int(t.shape[-1] if t.dim() == 1 else t.shape[0]) for t in inputs[:1])}
        self._step = _Step(self._steps, share, aligned)
        self._steps += 1

    def _choose(self, step: _Step, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> _Rows | None:
        """The request's rows of this call's tensors; ``None`` where that cannot be told."""
        if self._within:
            return self._within[-1]
        share = step.share
        if step.phase == "forward":
            return _Rows(step.aligned, slice(share.start, share.end), share.positions)
        if name.startswith(SAMPLER):
            last = [share.positions[-1]]
            return _Rows({share.requests}, slice(share.index, share.index + 1), last)
        for _, tensor in rows.tensors((args, kwargs)):
            if tensor.dim() > 1 and step.hidden is not None:
                return self._by_content(step, tensor)
        return None

    def _by_content(self, step: _Step, tensor: Any) -> _Rows | None:
        """After the model's forward its rows are picked (the last of each request, or a prompt's to be
        scored); they are known again by their bits."""
        share, all_rows = step.share, rows.digests(tensor)
        if len(all_rows) == share.requests and bool(all_rows[share.index] == step.hidden[-1]):
            index = slice(share.index, share.index + 1)
            return _Rows({len(all_rows)}, index, [share.positions[-1]])
        found = {int(d): i for i, d in reversed(list(enumerate(all_rows.tolist())))}
        pairs = [
            (found[d], p) for d, p in zip(step.hidden.tolist(), share.positions, strict=True) if d in found
        ]
        if not pairs:
            return None
        return _Rows({len(all_rows)}, [i for i, _ in pairs], [p for _, p in pairs])

    def _wanted(self, name: str, call: int, chosen: _Rows) -> bool:
        order = self._order
        if order.kind == "digests":
            return True
        if name != order.suspect or call != order.call:
            return False
        return not order.positions or bool(set(chosen.positions) & set(order.positions))

    def _look(self, chosen: _Rows | None, values: Any) -> tuple[list[tuple[str, str, list[int], Any]], int]:
        """Path, dtype, shape and digests (or bits) of each tensor whose rows are the step's; how many have
        others."""
        assert chosen is not None
        found, others = [], 0
        for path, tensor in rows.tensors(values):
            if tensor.dim() == 0 or int(tensor.shape[0]) not in chosen.total:
                others += 1
                continue
            try:
                part = tensor[chosen.index]
                kept = rows.digests(part) if self._order.kind != "values" else self._bits(part, chosen)
            except (TypeError, RuntimeError) as error:
                self._problem(f"{type(error).__name__}: {error}")
                continue
            found.append((path, rows.short(tensor.dtype), [int(n) for n in tensor.shape], kept))
        return found, others

    def _bits(self, part: Any, chosen: _Rows) -> Any:
        wanted = self._order.positions
        if wanted:
            part = part[[i for i, p in enumerate(chosen.positions) if p in set(wanted)]]
        # A copy: what is kept until the end must not change meanwhile.
        return rows.integers(part).clone().cpu()

    def _keep(
        self,
        step: _Step,
        name: str,
        cls: str,
        call: int,
        chosen: _Rows,
        given: tuple[list[Any], int],
        made: tuple[list[Any], int],
        told: dict[str, Any],
    ) -> None:
        size = sum(int(kept.numel()) for _, _, _, kept in (*given[0], *made[0]))
        limit = MAX_VALUES if self._order.kind == "values" else MAX_DIGESTS
        if self._kept + size > limit:
            self._truncated = True
            return
        self._kept += size
        positions = chosen.positions
        if self._order.kind == "values" and self._order.positions:
            positions = [p for p in positions if p in set(self._order.positions)]
        self._records.append(
            {
                "step": step.number,
                "name": name,
                "class": cls,
                "call": call,
                "phase": step.phase,
                "positions": positions,
                "requests": step.share.requests,
                "rows": step.share.scheduled,
                "in": given[0],
                "out": made[0],
                "others": given[1],
                **({"ran": told} if told else {}),
            }
        )

    def _problem(self, text: str) -> None:
        self._problems[text[:300]] = self._problems.get(text[:300], 0) + 1


def _told(record: dict[str, Any]) -> dict[str, Any]:
    return {**record, "in": [_tensor(t) for t in record["in"]], "out": [_tensor(t) for t in record["out"]]}


def _tensor(found: tuple[str, str, list[int], Any]) -> dict[str, Any]:
    import torch

    path, dtype, shape, kept = found
    # As 64-bit integers of one kind: digests are, and of bits the width is in the dtype.
    data = kept.to(torch.int64).cpu().contiguous().numpy().astype("<i8").tobytes()
    return {
        "path": path,
        "dtype": dtype,
        "shape": shape,
        "of": [int(n) for n in kept.shape],
        "data": base64.b64encode(data).decode("ascii"),
    }


def _memory(torch: Any) -> dict[str, int]:
    """Bytes: of this process now, its peak, and the peak of its device's memory where it has one."""
    found = {"rss": 0, "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}
    for line in _status():
        if line.startswith("VmRSS:"):
            found["rss"] = int(line.split()[1]) * 1024
    if torch.cuda.is_available():
        found["device_peak"] = int(torch.cuda.max_memory_allocated())
    return found


def _status() -> Iterator[str]:
    try:
        yield from Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    except OSError:
        return


@contextmanager
def watching(runner: Any, order: Order) -> Iterator[dict[str, Any]]:
    """Watch for as long as the block runs; the answer is in what it gives, afterwards."""
    answer: dict[str, Any] = {}
    watcher = Watcher(runner, order)
    try:
        yield answer
    finally:
        answer.update(watcher.finish())
