"""Modules whose result is of more than their row: attention, and what holds it.

They cannot be fed rows of our choice. But while the same requests run alone and in company, a row of one is
known by its request and position: where all of a request's rows up to a position went in with the same bits,
they must come out with the same bits. Kept are digests, not values. Worker side: torch alone, imported where
it is used.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

ALONE = "alone"
MOST_ROWS = 2_000_000
"""Rows that are kept of all modules and arms: about 1 GB."""

Place = tuple[bytes, int]
"""A row of a request: digest of its prompt, and position."""


@dataclass(frozen=True, slots=True)
class Row:
    """One row of one call.

    Attributes:
        into, out: digests of what went in and came out.
        step: tokens of the engine's step.
        at: its place among them.
        company: requests in the step.
        planted: digest of what came out with one bit turned; of few rows.
    """

    into: bytes
    out: bytes
    step: int
    at: int
    company: int
    planted: bytes | None = None


@dataclass(slots=True)
class Compared:
    """What a comparison of a module's rows gave.

    Attributes:
        rows: compared.
        differing: of them, those whose bits differ.
        first: tokens of the step and place in it of the first one, by the step's size.
        sizes: for each size of a step, rows compared and differing.
    """

    rows: int = 0
    differing: int = 0
    first: tuple[int, int] | None = None
    sizes: dict[int, tuple[int, int]] = field(default_factory=dict)

    def add(self, other: Compared) -> None:
        """Take another instance's, or another arm's."""
        self.rows += other.rows
        self.differing += other.differing
        self.first = min((f for f in (self.first, other.first) if f is not None), default=None)
        for size, (rows, differing) in other.sizes.items():
            known = self.sizes.get(size, (0, 0))
            self.sizes[size] = known[0] + rows, known[1] + differing


def compare(alone: Mapping[Place, Row], together: Mapping[Place, Row], *, planted: bool = False) -> Compared:
    """Compare each request's rows in company with its own alone, up to the first that went in with other
    bits.

    Args:
        planted: take the digests with a turned bit, where there are some, for what came out in company.
    """
    requests: dict[bytes, list[int]] = {}
    for request, position in together:
        requests.setdefault(request, []).append(position)
    found = Compared()
    for request, positions in requests.items():
        for expected, position in enumerate(sorted(positions)):
            one, other = alone.get((request, position)), together[request, position]
            if position != expected or one is None or one.into != other.into:
                # From here on, what it keeps of the request's tokens may rightly be other.
                break
            if one.company != 1 or other.company < 2:
                continue
            out = other.planted if planted and other.planted is not None else other.out
            _count(found, other, differs=out != one.out)
    return found


def _count(found: Compared, row: Row, *, differs: bool) -> None:
    found.rows += 1
    rows, differing = found.sizes.get(row.step, (0, 0))
    found.sizes[row.step] = rows + 1, differing + differs
    if differs:
        found.differing += 1
        found.first = min(found.first or (row.step, row.at), (row.step, row.at))


class Steps:
    """Which request and position each row of the engine's present step is of.

    Args:
        runner: vLLM's model runner; its ``execute_model`` is wrapped until ``close``, and so is the
            ``prepare_inputs`` of vLLM's second one, which makes a new batch for each step.
    """

    def __init__(self, runner: Any) -> None:
        self._runner = runner
        self._prompts: dict[str, bytes] = {}
        self._starts: dict[str, int] = {}
        self._tokens: dict[str, int] = {}
        self._made: Any = None
        original = runner.execute_model

        @functools.wraps(original)
        def execute_model(scheduler_output: Any, *args: Any, **kwargs: Any) -> Any:
            self._note(scheduler_output)
            return original(scheduler_output, *args, **kwargs)

        runner.execute_model = execute_model
        if not hasattr(runner, "input_batch") and hasattr(runner, "prepare_inputs"):
            prepared = runner.prepare_inputs

            @functools.wraps(prepared)
            def prepare_inputs(*args: Any, **kwargs: Any) -> Any:
                self._made = prepared(*args, **kwargs)
                return self._made

            runner.prepare_inputs = prepare_inputs

    def close(self) -> None:
        """Give the runner its own methods back."""
        for name in ("execute_model", "prepare_inputs"):
            if name in vars(self._runner):
                delattr(self._runner, name)

    def _note(self, output: Any) -> None:
        self._tokens = dict(output.num_scheduled_tokens)
        for new in output.scheduled_new_reqs:
            self._prompts[new.req_id] = digest_of_prompt(new.prompt_token_ids or ())
            self._starts[new.req_id] = new.num_computed_tokens
        cached = output.scheduled_cached_reqs
        self._starts.update(zip(cached.req_ids, cached.num_computed_tokens, strict=True))

    def places(self) -> list[Place]:
        """Of each row, in their order.

        Raises:
            LookupError: the runner does not tell in which order its requests stand.
        """
        batch = getattr(self._runner, "input_batch", self._made)
        order = list(getattr(batch, "req_ids", ()))
        if set(order) != set(self._tokens):
            raise LookupError(f"{type(self._runner).__name__} does not tell the order of its batch")
        return [
            (self._prompts[request], self._starts[request] + i)
            for request in order
            for i in range(self._tokens[request])
        ]


def digest_of_prompt(tokens: Sequence[int]) -> bytes:
    """By which a request is known in every arm."""
    return hashlib.blake2b(",".join(map(str, tokens)).encode(), digest_size=16).digest()


class Sequences:
    """Keeps digests of what goes into some modules and comes out, from ``open`` to ``close``.

    Args:
        modules: by name.
        runner: vLLM's model runner.

    Attributes:
        arm: the name under which rows are kept; empty to keep none.
        trouble: why a module's rows could not be kept, by name.
    """

    def __init__(self, modules: Mapping[str, Any], runner: Any) -> None:
        self._modules, self._runner = modules, runner
        self._handles: list[Any] = []
        self._steps: Steps | None = None
        self._kept: dict[tuple[str, str], dict[Place, Row]] = {}
        self._count = 0
        self._pending: dict[str, list[bytes]] = {}
        self.arm = ""
        self.trouble: dict[str, str] = {}

    def open(self) -> None:
        """Look on from now on."""
        self._steps = Steps(self._runner)
        for name, module in self._modules.items():
            self._handles += [
                module.register_forward_pre_hook(self._before(name), with_kwargs=True),
                module.register_forward_hook(self._after(name), with_kwargs=True),
            ]

    def close(self) -> None:
        """No longer."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        if self._steps is not None:
            self._steps.close()

    def compared(self, name: str, *, planted: bool = False) -> Compared:
        """A module's rows in all arms against those alone."""
        alone = self._kept.get((ALONE, name), {})
        total = Compared()
        for (arm, module), rows in self._kept.items():
            if module == name and arm != ALONE:
                total.add(compare(alone, rows, planted=planted))
        return total

    def _before(self, name: str) -> Any:
        def look(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            self._pending.pop(name, None)
            if self.arm and name not in self.trouble and self._steps is not None:
                with _noting(self.trouble, name):
                    rows = len(self._steps.places())
                    self._pending[name] = digests((*args, *kwargs.values()), rows)

        return look

    def _after(self, name: str) -> Any:
        def look(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any], found: Any) -> None:
            into = self._pending.pop(name, None)
            if into is None or self._steps is None:
                return
            with _noting(self.trouble, name):
                self._keep(name, into, found if isinstance(found, list | tuple) else (found,))

        return look

    def _keep(self, name: str, into: list[bytes], found: Sequence[Any]) -> None:
        assert self._steps is not None
        places = self._steps.places()
        self._count += len(places)
        if self._count > MOST_ROWS:
            raise LookupError(f"more than {MOST_ROWS:,} rows would have to be kept")
        out = digests(found, len(places))
        company = len({request for request, _ in places})
        planted = digests(found, 1, turned=True)[0] if company > 1 else None
        kept = self._kept.setdefault((self.arm, name), {})
        for at, place in enumerate(places):
            kept[place] = Row(into[at], out[at], len(places), at, company, planted if at == 0 else None)


class _noting:
    """Notes what is raised and lets the engine go on: a module that cannot be looked at is told as such."""

    def __init__(self, trouble: dict[str, str], name: str) -> None:
        self._trouble, self._name = trouble, name

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> bool:
        if not isinstance(error, Exception):
            return False
        self._trouble[self._name] = f"{type(error).__name__}: {error}"[:500]
        return True


def digests(values: Sequence[Any], rows: int, *, turned: bool = False) -> list[bytes]:
    """A digest of the bits of each of the first rows of all the tensors that have so many.

    Args:
        turned: the lowest bit of the first value of each row is turned before.

    Raises:
        LookupError: there is no such tensor.
    """
    states = [hashlib.blake2b(digest_size=16) for _ in range(rows)]
    some = False
    for data in _bytes(values, rows):
        for state, row in zip(states, data, strict=True):
            if turned and not some:
                row = row.copy()
                row[0] ^= 1
            state.update(row.tobytes())
        some = True
    if not some:
        raise LookupError(f"it has no tensor with a row for each of {rows} tokens")
    return [state.digest() for state in states]


def _bytes(values: Sequence[Any], rows: int) -> Iterator[Any]:
    import torch

    tensors = [value for value in values if isinstance(value, torch.Tensor) and value.ndim]
    # The step may be padded: there are more rows then. A tensor with another number of rows has none of them.
    count = tensors[0].shape[0] if tensors else 0
    for value in tensors if count >= rows else ():
        if value.shape[0] == count and value.numel():
            part = value[:rows].detach().contiguous()
            yield part.reshape(rows, -1).view(torch.uint8).cpu().numpy()
