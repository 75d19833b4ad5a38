"""What modules are called with while real requests run. Worker side: torch, imported where it is used."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from bi_harness.engine.modules.inventory import Kind

Slot = int | str
"""A place among the arguments: a position, or a name."""


class Unfit(Exception):
    """The call cannot be made again with other rows; the message says why."""


@dataclass(frozen=True, slots=True)
class Form:
    """How a module was called: what is the same in calls of the same form.

    Attributes:
        rows: the arguments that have a row for each token (or request): place, dtype, sizes of a row.
        others: all other arguments: place, and what stood there.
    """

    rows: tuple[tuple[Slot, str, tuple[int, ...]], ...]
    others: tuple[tuple[Slot, str], ...]

    def __str__(self) -> str:
        rows = [f"{dtype}[{', '.join(map(str, sizes))}]" for _, dtype, sizes in self.rows]
        return ", ".join([*rows, *(what for _, what in self.others if what != "None")])


@dataclass(slots=True)
class Call:
    """The calls of one kind in one form.

    Attributes:
        kind, form: of them.
        instances: the modules that were called so, by name, in the order of their first calls.
        constants: the arguments that are no rows, from the first call.
        taken: rows of the first instance, in parts: a tensor for each of the form's ``rows``.
        count: how many rows those are.
        unfit: why it cannot be called again; empty where it can.
    """

    kind: Kind
    form: Form
    instances: dict[str, Any] = field(default_factory=dict)
    constants: dict[Slot, Any] = field(default_factory=dict)
    taken: list[tuple[Any, ...]] = field(default_factory=list)
    count: int = 0
    unfit: str = ""

    @property
    def name(self) -> str:
        """The instance whose rows were taken."""
        return next(iter(self.instances))

    def rows(self) -> tuple[Any, ...]:
        """All of them, a tensor for each of the form's ``rows``."""
        import torch

        return tuple(torch.cat(parts) for parts in zip(*self.taken, strict=True))

    def passed(self) -> list[Any]:
        """The modules that it was given as arguments."""
        return [value for value in self.constants.values() if hasattr(value, "named_parameters")]


class Capture:
    """Takes what modules are called with, from ``open`` to ``close``.

    Args:
        modules: by name, each with its kind.
        wanted: rows to take of each kind and form.
    """

    def __init__(self, modules: Mapping[str, tuple[Any, Kind]], wanted: int) -> None:
        self._modules, self._wanted = modules, wanted
        self._handles: list[Any] = []
        self.calls: dict[tuple[Kind, Form], Call] = {}
        self.called: set[str] = set()
        self.trouble: dict[str, str] = {}

    def open(self) -> None:
        """Look on from now on."""
        for name, (module, kind) in self._modules.items():
            self._handles.append(
                module.register_forward_pre_hook(self._hook(name, module, kind), with_kwargs=True)
            )

    def close(self) -> None:
        """No longer."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def _hook(self, name: str, module: Any, kind: Kind) -> Any:
        def look(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            self.called.add(name)
            if kind.sequence:
                return
            try:
                self._take(name, module, kind, dict([*enumerate(args), *kwargs.items()]))
            except Unfit as unfit:
                self.trouble[name] = str(unfit)

        return look

    def _take(self, name: str, module: Any, kind: Kind, given: Mapping[Slot, Any]) -> None:
        form, count, rows = form_of(given)
        call = self.calls.setdefault((kind, form), Call(kind, form))
        call.instances.setdefault(name, module)
        if call.name != name or call.count >= self._wanted:
            return
        if not call.taken:
            places = {slot for slot, _, _ in form.rows}
            call.constants = {slot: value for slot, value in given.items() if slot not in places}
        # Spread over the step's tokens, which are of several requests. Copies: a module may change its input.
        step = max(1, count // (self._wanted - call.count))
        part = tuple(row[::step][: self._wanted - call.count].clone().contiguous() for row in rows)
        call.taken.append(part)
        call.count += part[0].shape[0]


def form_of(given: Mapping[Slot, Any]) -> tuple[Form, int, tuple[Any, ...]]:
    """The form of a call, how many rows it has, and its tensors with rows.

    vLLM's modules have the row along the first axis: the first tensor tells how many there are.

    Raises:
        Unfit: there is no row, or an argument has tensors somewhere inside of it.
    """
    count = next((value.shape[0] for value in given.values() if _is_tensor(value) and value.ndim), None)
    if not count:
        raise Unfit("it was called without any rows" if count == 0 else "it is called without a tensor")
    rows: list[tuple[Slot, str, tuple[int, ...]]] = []
    others: list[tuple[Slot, str]] = []
    tensors = []
    for slot, value in given.items():
        if _is_tensor(value) and value.ndim and value.shape[0] == count:
            rows.append((slot, str(value.dtype).removeprefix("torch."), tuple(value.shape[1:])))
            tensors.append(value)
        else:
            others.append((slot, _described(slot, value)))
    return Form(tuple(rows), tuple(others)), count, tuple(tensors)


def _is_tensor(value: Any) -> bool:
    import torch

    return isinstance(value, torch.Tensor)


def _described(slot: Slot, value: Any) -> str:
    if value is None:
        return "None"
    if _is_tensor(value):
        return f"{str(value.dtype).removeprefix('torch.')} tensor {'x'.join(map(str, value.shape))}"
    if isinstance(value, bool | int | float | str):
        return f"{slot}={value!r}"[:80]
    inside = (
        value.values() if isinstance(value, Mapping) else value if isinstance(value, list | tuple) else ()
    )
    if any(_is_tensor(part) for part in inside) or hasattr(value, "tensors"):
        raise Unfit(f"its argument {slot} ({type(value).__name__}) has tensors inside of it")
    return type(value).__name__
