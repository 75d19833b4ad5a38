"""``suites/<id>/expected.yaml``: what a cold and a warm start count, by vLLM, torch, platform and model."""

from __future__ import annotations

import re
from datetime import date
from typing import Annotated, Any

from packaging.specifiers import SpecifierSet
from packaging.version import Version
from pydantic import Field, WrapValidator, model_validator
from pydantic_core import PydanticCustomError

from bi_harness.spec.types import Day, Flag, Id, Ids, Kind, Range, SpecModel, Text

NEVER_WARM = (
    "num_aot_compiles",
    "num_aot_artifacts_saved",
    "num_compiled_artifacts_saved",
    "num_inductor_compiles",
    "num_cache_entries_updated",
    "aot_autograd.autograd_cache_miss",
    "aot_autograd.autograd_cache_saved",
    "kernels_built",
)
"""Counters that stay 0 in a warm start, whatever the data says: each is something compiled or saved anew."""

_COMPARISON = re.compile(r"(<=|>=|==|!=|<|>)\s*(?:(\d{1,6})|layers(?:\s*/\s*([1-9]\d{0,2}))?)")


def _value(value: Any, _: Any) -> Any:
    """A union would be reported member by member; this says it once."""
    if type(value) is int and value >= 0:
        return value
    if isinstance(value, str) and _COMPARISON.fullmatch(value):
        return value
    raise PydanticCustomError(
        "count", 'must be a whole number, or a comparison such as "<= 3", "> 0" or "<= layers / 2"'
    )


Counter = Annotated[str, Field(strict=True, pattern=r"^[a-z][a-z0-9_]{0,79}(\.[a-z][a-z0-9_]{0,79})?$")]
Count = Annotated[int | str, WrapValidator(_value)]


def meets(found: int, comparison: str, layers: int) -> bool:
    """Whether a counter meets a comparison of this file: ``meets(3, "<= layers / 2", 8)``."""
    parts = _COMPARISON.fullmatch(comparison)
    assert parts is not None, comparison  # the type has seen to it
    sign, number, divisor = parts.groups()
    # Multiplied out, so that no division rounds.
    left, right = (found, int(number)) if number is not None else (found * int(divisor or 1), layers)
    return {
        "<": left < right,
        "<=": left <= right,
        "==": left == right,
        "!=": left != right,
        ">=": left >= right,
        ">": left > right,
    }[sign]


class _Where(SpecModel):
    """Where something holds.

    Attributes:
        id: its key in the file.
        vllm, torch: ranges of releases (PEP 440); all by default.
        kind: the platform.
        models: ids of ``models.yaml``; all by default.
        source: who found it out, and how.
    """

    id: str
    vllm: Range = ""
    torch: Range = ""
    kind: Kind
    models: Ids | None = None
    source: Text

    def holds(self, *, vllm: str, torch: str, kind: str, model: str) -> bool:
        """Whether it speaks of this engine (development builds and pre-releases included)."""
        return (
            self.kind == kind
            and (self.models is None or model in self.models)
            and SpecifierSet(self.vllm).contains(Version(vllm), prereleases=True)
            and SpecifierSet(self.torch).contains(Version(torch), prereleases=True)
        )


class StartExpectation(_Where):
    """What starts count.

    Attributes:
        cold, warm: by counter, the value or a comparison with a number or with the model's layers.
    """

    cold: dict[Counter, Count] = Field(default_factory=dict)
    warm: dict[Counter, Count] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _something_and_nothing_saved(self) -> StartExpectation:
        if not (self.cold or self.warm):
            raise ValueError("expects nothing: give cold, warm or both")
        if bad := [name for name in NEVER_WARM if self.warm.get(name, 0) != 0]:
            raise ValueError(
                f"a warm start has no {bad[0]}: nothing is compiled or saved anew. A known defect is an "
                "entry of exceptions, with a reason and an end"
            )
        return self


class StartException(_Where):
    """A known defect of some releases: what a warm start counts though it should not.

    Attributes:
        warm: by counter, the value that is let pass beside 0, or a comparison where it is not the same in
            every run.
        loads_nothing: whether a warm start that loads nothing from the cache is let pass.
        reason: one sentence for a reader of the certificate.
        until: the last day on which it holds (``2026-12-31``, UTC): an exception is looked at again, or ends.
    """

    warm: dict[Counter, Count] = Field(default_factory=dict)
    loads_nothing: Flag = False
    reason: Text
    until: Day

    @model_validator(mode="after")
    def _of_a_rule(self) -> StartException:
        if not (self.warm or self.loads_nothing):
            raise ValueError("lets nothing pass: give warm, or loads_nothing: true")
        if bad := [name for name in self.warm if name not in NEVER_WARM]:
            raise ValueError(f"{bad[0]} needs no exception. Counters that do: {', '.join(NEVER_WARM)}")
        # Anything else would let every number pass.
        if bad := [name for name, n in self.warm.items() if isinstance(n, str) and not n.startswith("<=")]:
            raise ValueError(f'{bad[0]}: an exception has a number, or an upper bound such as "<= 30"')
        return self

    def expired(self, today: date) -> bool:
        """Whether its last day is over."""
        return today > date.fromisoformat(self.until)


class StartupFile(SpecModel):
    """The whole of ``expected.yaml``.

    Attributes:
        expectations: all that hold for an engine are judged; where two speak of one counter, both must hold.
        exceptions: see there.
    """

    expectations: dict[Id, StartExpectation] = Field(default_factory=dict)
    exceptions: dict[Id, StartException] = Field(default_factory=dict)
