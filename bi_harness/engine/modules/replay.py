"""A module of a loaded model as an operator: the rows that it was called with, in batches of any size.

So the measurement is the one of single operators (``engine.ops.measure``). Worker side: torch and vLLM alone,
imported where they are used.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

from bi_harness.engine.modules.capture import Call, Unfit
from bi_harness.engine.ops.base import LARGE, Kind

Around = Callable[[Any, int], AbstractContextManager[Any]]
"""What must be around a call of a module on so many rows: vLLM's forward context."""


class Replayed:
    """A module that can be called with rows of our choice; what ``engine.ops.base.Made`` asks for.

    Args:
        module: of the call's kind; any instance.
        name: of it.
        call: whose rows and other arguments are taken.
        around: see ``Around``.

    Raises:
        Unfit: it does not give a row for each row.
    """

    def __init__(self, module: Any, name: str, call: Call, around: Around) -> None:
        self._module, self._call, self._around = module, call, around
        self._rows = call.rows()
        self.where, self.shape, self.bound = name, str(call.form), ""
        self._outputs: tuple[int, ...] | None = None
        one, two = (
            self._found(tuple(r[:1].repeat(n, *[1] * (r.ndim - 1)) for r in self._rows)) for n in (1, 2)
        )
        self._outputs = _with_rows(one, two)
        self.row_bytes = max(
            sum(row[:1].numel() * row.element_size() for row in self._rows),
            sum(one[i].numel() * one[i].element_size() for i in self._outputs),
        )
        self.dtype = str(one[self._outputs[0]].dtype).removeprefix("torch.")

    def subjects(self, count: int, generator: Any) -> tuple[Any, ...]:
        """Rows that it was called with. There may be fewer: then some are there again."""
        return self._again(count)

    def rows(self, count: int, kind: Kind, generator: Any) -> tuple[Any, ...]:
        """Rows to stand beside them: others of those, larger or smaller; zeros; or large ones. What is no
        floating point number (a token, a position) is always one of those that there were."""
        import torch

        available = self._rows[0].shape[0]
        made = []
        # One choice for all arguments: a token stays with its position.
        chosen = torch.randint(available, (count,), generator=generator, device=self._rows[0].device)
        scale = torch.rand(count, generator=generator, device=chosen.device) * 1.5 + 0.5
        for row in self._rows:
            part = row[chosen]
            if part.is_floating_point() and part.element_size() > 1:
                factor = scale.view(-1, *[1] * (part.ndim - 1)).to(part.dtype)
                # float16 ends at 65,504.
                large = 64.0 if part.dtype == torch.float16 else LARGE
                part = part * {"random": factor, "zeros": 0.0, "large": large}[kind]
            made.append(part)
        return tuple(made)

    def call(self, rows: tuple[Any, ...]) -> tuple[Any, ...]:
        """The module on a batch: its results that have a row for each row.

        Raises:
            Unfit: there is not one for each.
        """
        count = rows[0].shape[0]
        found = self._found(rows)
        assert self._outputs is not None
        for i in self._outputs:
            if i >= len(found) or not hasattr(found[i], "shape") or found[i].shape[:1] != (count,):
                raise Unfit(f"it does not give {count} rows for {count}")
        # Copies: what it gives may be memory that its next call writes to.
        return tuple(found[i].clone() for i in self._outputs)

    def error(self, rows: tuple[Any, ...], results: tuple[Any, ...]) -> float:
        """A module has no other one to be held against."""
        return 0.0

    def _again(self, count: int) -> tuple[Any, ...]:
        available = self._rows[0].shape[0]
        return tuple(row[[i % available for i in range(count)]] for row in self._rows)

    def _found(self, rows: tuple[Any, ...]) -> list[Any]:
        slots = {slot: row for (slot, _, _), row in zip(self._call.form.rows, rows, strict=True)}
        slots |= self._call.constants
        places = sorted(slot for slot in slots if isinstance(slot, int))
        named = {slot: value for slot, value in slots.items() if isinstance(slot, str)}
        with self._around(self._module, rows[0].shape[0]):
            found = self._module(*(slots[place] for place in places), **named)
        return list(found) if isinstance(found, list | tuple) else [found]


def _with_rows(one: list[Any], two: list[Any]) -> tuple[int, ...]:
    """Which results have one row for one, and two for two; others (a bias) are what they are.

    Raises:
        Unfit: none has.
    """
    import torch

    def rows(values: list[Any], i: int) -> int | None:
        value = values[i] if i < len(values) else None
        return value.shape[0] if isinstance(value, torch.Tensor) and value.ndim else None

    found = tuple(i for i in range(len(one)) if rows(one, i) == 1 and rows(two, i) == 2)
    if not found:
        what = ", ".join(type(value).__name__ for value in one) or "nothing"
        raise Unfit(f"it does not give a row for each row: it gives {what}")
    return found
