"""The types that the spec's models share. Strict: a number in quotes is no number, ``1`` is not true."""

from __future__ import annotations

import re
from datetime import date
from typing import Annotated, Any, Literal

from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.version import InvalidVersion, Version
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

Profile = Literal["smoke", "nightly", "release"]
PROFILES: tuple[Profile, ...] = ("smoke", "nightly", "release")

Attention = Literal["mha", "mla", "hybrid"]
"""``mha`` is every kind with a plain KV cache (GQA and MQA too); ``hybrid`` has linear-attention layers
between such ones."""

Kind = Literal["cpu", "cuda"]
Weights = Literal["named", "synthetic"]
WEIGHTS: tuple[Weights, ...] = ("named", "synthetic")

Mode = Literal["default", "compile", "eager"]
"""``default`` is what a bare ``vllm serve`` takes, ``compile`` has torch.compile on, ``eager`` has neither
torch.compile nor CUDA graphs."""
MODES: tuple[Mode, ...] = ("default", "compile", "eager")


class SpecModel(BaseModel):
    """Base of everything that a user writes: frozen, closed, without infinities."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


def _id(value: str) -> str:
    if not re.fullmatch(r"[a-z0-9][a-z0-9._-]{0,79}", value):
        raise ValueError("an id is lower-case letters, digits and . _ - (80 at most, no punctuation first)")
    return value


def _specifier(value: str) -> str:
    try:
        SpecifierSet(value)
    except InvalidSpecifier:
        raise ValueError('not a version range; write one like ">=0.13,<0.22" (PEP 440)') from None
    return value


def _version(value: str) -> str:
    try:
        Version(value)
    except InvalidVersion:
        raise ValueError('not a version; write one like "0.32.0" (PEP 440)') from None
    return value


def _regex(value: str) -> str:
    try:
        re.compile(value)
    # What Python raises on "((((..." and on "a{9999999999}".
    except (re.error, RecursionError, OverflowError) as e:
        raise ValueError(f"not a regular expression: {e}") from None
    return value


def _date(value: str) -> str:
    try:
        # fromisoformat alone also takes 20261231 and 2026-W53-4.
        if not re.fullmatch(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", value):
            raise ValueError
        date.fromisoformat(value)
    except ValueError:
        raise ValueError("not a date; write one like 2026-12-31") from None
    return value


def _as_list(value: Any) -> Any:
    """One name stands for a list of one."""
    return [value] if isinstance(value, str) else value


def _as_comparison(value: Any) -> Any:
    return f"=={value}" if type(value) is int else value


def _unique(values: tuple[Any, ...]) -> tuple[Any, ...]:
    seen = set()
    for value in values:
        if value in seen:
            raise ValueError(f"{str(value)[:80]} is listed twice")
        seen.add(value)
    return values


Text = Annotated[str, Field(strict=True, min_length=1, max_length=2000)]
Id = Annotated[str, Field(strict=True), AfterValidator(_id)]
Flag = Annotated[bool, Field(strict=True)]
Size = Annotated[int, Field(strict=True, ge=1)]
Number = Annotated[int, Field(strict=True, ge=0)]
Positive = Annotated[float, Field(strict=True, gt=0)]
Fraction = Annotated[float, Field(strict=True, ge=0, le=1)]
Day = Annotated[str, Field(strict=True), AfterValidator(_date)]
"""``"2026-12-31"``."""

Backend = Annotated[str, Field(strict=True, pattern=r"^[A-Z][A-Z0-9_]{0,79}$")]
Range = Annotated[str, Field(strict=True, max_length=200), AfterValidator(_specifier)]
Release = Annotated[str, Field(strict=True, max_length=100), AfterValidator(_version)]
Regex = Annotated[str, Field(strict=True, max_length=200), AfterValidator(_regex)]
Capability = Annotated[str, Field(strict=True, pattern=r"^\d{1,3}\.\d$")]
EnvName = Annotated[str, Field(strict=True, pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]
Environment = dict[EnvName, Annotated[str, Field(strict=True)]]

Comparison = Annotated[
    str,
    BeforeValidator(_as_comparison),
    Field(strict=True, pattern=r"^(<=|>=|==|!=|<|>)\s*\d{1,9}$"),
]
"""``">1"``, ``"<=4"``; a bare number means ``==``."""

CapabilityComparison = Annotated[str, Field(strict=True, pattern=r"^(<=|>=|==|!=|<|>)\s*\d{1,3}\.\d$")]
"""``"<9.0"``."""

Ids = Annotated[tuple[Id, ...], BeforeValidator(_as_list), AfterValidator(_unique), Field(min_length=1)]
Backends = Annotated[tuple[Backend, ...], BeforeValidator(_as_list), AfterValidator(_unique)]
Sizes = Annotated[tuple[Size, ...], AfterValidator(_unique), Field(min_length=1, max_length=32)]
Modes = Annotated[tuple[Mode, ...], AfterValidator(_unique), Field(min_length=1)]
SomeModes = Annotated[
    tuple[Mode, ...], BeforeValidator(_as_list), AfterValidator(_unique), Field(min_length=1)
]
"""One name stands for a list of one."""
Profiles = Annotated[tuple[Profile, ...], AfterValidator(_unique)]

PathPattern = Annotated[str, Field(strict=True, pattern=r"^!?[^/!\s\\][^\s\\]{0,198}$")]
"""A file of a repository, or a folder that stands for all below it; ``*`` and ``?`` stay within a name,
``**`` does not; ``!`` takes out."""
PathPatterns = Annotated[
    tuple[PathPattern, ...],
    BeforeValidator(_as_list),
    AfterValidator(_unique),
    Field(min_length=1, max_length=200),
]


class DeviceConditions(SpecModel):
    """On which devices something holds: every condition that is given must be met.

    Attributes:
        device: one id or a list of which one must match.
        kind: ``cpu`` or ``cuda``.
        capability: compared with the device's compute capability; never met on a CPU.
    """

    device: Ids | None = None
    kind: Kind | None = None
    capability: CapabilityComparison | None = None


class Conditions(DeviceConditions):
    """Where something holds: every condition that is given must be met; none given means everywhere.

    Attributes:
        device, kind, capability: see ``DeviceConditions``.
        model, suite, backend: one id or a list of which one must match.
        attention: the model's.
        mode: one mode or a list of which one must match.
        tp, dp: compared with the cell's parallel sizes.
    """

    model: Ids | None = None
    attention: Attention | None = None
    suite: Ids | None = None
    backend: Backends | None = None
    mode: SomeModes | None = None
    tp: Comparison | None = None
    dp: Comparison | None = None


class CheckConditions(Conditions):
    """Where a check holds.

    Attributes:
        profile: the run profile.
    """

    profile: Profile | None = None
