"""What an operator is, for whoever measures it. Worker side: nothing but the standard library here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

Kind = Literal["random", "zeros", "large"]
"""Values of a row: standard normal; all zero; standard normal times 10,000."""

LARGE = 1e4
DTYPES = ("bfloat16", "float16", "float32")
MOST_ROWS = 4096


class Missing(Exception):
    """This vLLM, or this device, has not the operator; the message says what is not there."""


@dataclass(frozen=True, slots=True)
class Setting:
    """What an operator is made for.

    Attributes:
        device: torch's name of it: ``cpu`` or ``cuda``.
        seed: of weights and of values.
        dims: sizes of the model: ``hidden``, ``intermediate``, ``heads``, ``kv_heads``, ``head_dim``,
            ``vocab``, ``positions``, ``eps``, ``rope_theta``; a drawn shape changes some of them.
        dtype: torch's name of it.
        vllm_config: the configuration that an eager engine of the model has; ``None`` for none.
        most_bytes: that one tensor of a batch may have.
        ranks: of tensor parallel engines.
    """

    device: str
    seed: int
    dims: Mapping[str, Any]
    dtype: str
    vllm_config: Any = None
    most_bytes: int = 1 << 28
    ranks: int = 1


class Made(Protocol):
    """An operator with its weights, ready to be called.

    Attributes:
        where: what is called, as a dotted path.
        shape: its sizes, for a reader.
        bound: what ``error`` is measured in, for a reader.
        row_bytes: about how large a row of the largest tensor is.
    """

    where: str
    shape: str
    bound: str
    row_bytes: int

    def subjects(self, count: int, generator: Any) -> tuple[Any, ...]:
        """Rows to compare with themselves alone: tensors on the device whose first axis is the row. Asked
        again, no more than the first time."""

    def rows(self, count: int, kind: Kind, generator: Any) -> tuple[Any, ...]:
        """Rows to stand beside them."""

    def call(self, rows: tuple[Any, ...]) -> tuple[Any, ...]:
        """The operator on a batch; its results, each with a row of the batch along its first axis. The
        batch's tensors are the operator's to change."""

    def error(self, rows: tuple[Any, ...], results: tuple[Any, ...]) -> float:
        """The largest distance from the same in float64, in units of ``bound``: right up to 1."""


class Alike:
    """For an operator whose subjects are rows like all others."""

    def subjects(self: Any, count: int, generator: Any) -> tuple[Any, ...]:
        """See ``Made``."""
        rows: tuple[Any, ...] = self.rows(count, "random", generator)
        return rows


@dataclass(frozen=True, slots=True)
class Op:
    """An operator.

    Attributes:
        name: in results; one of its kind.
        family: the check that it belongs to.
        make: makes it, or raises ``Missing``.
        dtypes: what it is tried in; ``model`` for the model's own alone.
        promised: the devices whose invariance mode replaces it, or sees to it that it is invariant.
        called: the devices on which eager engines of a dense model call it.
        drawn: of the setting's ``dims``, those that shapes may be drawn for, with the least multiple.
        most_rows: the largest batch; engines have no larger one.
        unit: what a row is.
        times: so many times the rows are compared.
        also: dtypes that it is judged in beside the model's. A norm sums in float32 whatever its dtype: what
            moves the sum shows in nearly every row of a float32 result, and in few of a bfloat16 one.
    """

    name: str
    family: str
    make: Callable[[Setting], Made]
    dtypes: tuple[str, ...] = DTYPES
    promised: frozenset[str] = frozenset()
    called: frozenset[str] = frozenset()
    drawn: Mapping[str, int] = field(default_factory=dict)
    most_rows: int = MOST_ROWS
    unit: str = "rows"
    times: int = 1
    also: tuple[str, ...] = ()

    def judged(self, device: str, dtype: str, model_dtype: str) -> bool:
        """Whether a batch that moves a row's bits is a failure: where engines of that model have it, or the
        mode replaces it. What is computed in float32 for every model has no other dtype."""
        return device in self.promised | self.called and (
            dtype in (model_dtype, *self.also) or self.dtypes == ("float32",) or "model" in self.dtypes
        )


def second_runner(setting: Setting) -> bool:
    """Whether engines of this configuration have vLLM's second model runner: its sampler is another one.

    It is a GPU's, and there the default of dense models from 0.25 on, unless the environment says otherwise.
    """
    return setting.device == "cuda" and bool(getattr(setting.vllm_config, "use_v2_model_runner", False))


BOTH = frozenset({"cpu", "cuda"})
CUDA = frozenset({"cuda"})
CPU = frozenset({"cpu"})


def find(*candidates: str) -> tuple[Any, str]:
    """The first of some dotted names that there is, and its path: ``module:attribute.attribute``.

    Raises:
        Missing: none of them is there.
    """
    import importlib

    for candidate in candidates:
        module, _, path = candidate.partition(":")
        try:
            found: Any = importlib.import_module(module)
            for part in path.split("."):
                found = getattr(found, part)
        except (ImportError, AttributeError):
            continue
        return found, candidate.replace(":", ".")
    raise Missing(f"this vLLM has no {' or '.join(c.replace(':', '.') for c in candidates)}")
