"""Computing again what lies on disk, from input that may break whatever computes it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

from bi_harness.certificate.statement import Statement
from bi_harness.errors import HarnessError

T = TypeVar("T")

_WHY = 300
"""Characters of an error that are told."""


def _nothing(statement: Statement, journal: bytes) -> Mapping[str, bytes]:
    return {}


@dataclass(frozen=True, slots=True)
class Recompute:
    """How what lies on disk is computed again. Whatever these raise is a finding (``attempt``).

    Attributes:
        statement: from a journal's bytes; raises ``HarnessError`` for one that is damaged.
        reports: from a statement to each report's bytes, by the report's name.
        harness: digest of this version's own sources, as certificates have it.
        merged: from shards' journals, by name, to that of the whole run; raises ``HarnessError`` where they
            are not the shards of one.
        beside: from a statement and its journal to the files that a run may have next to its reports
            (``test-engine.json``), by name.
    """

    statement: Callable[[bytes], Statement]
    reports: Mapping[str, Callable[[Statement], bytes]]
    harness: str
    merged: Callable[[Mapping[str, bytes]], bytes]
    beside: Callable[[Statement, bytes], Mapping[str, bytes]] = _nothing


@dataclass(frozen=True, slots=True)
class ComputedValue(Generic[T]):
    """What was computed."""

    value: T


@dataclass(frozen=True, slots=True)
class ComputationFailure:
    """That nothing could be computed.

    Attributes:
        why: for a reader, in one line.
    """

    why: str


def attempt(compute: Callable[[], T]) -> ComputedValue[T] | ComputationFailure:
    """Compute something of input that others wrote.

    The one place that says which exceptions mean that the input cannot be computed again: all of them. What
    is computed was written for input that is right, and what others hand in can make any of it raise
    anything: a number too large for a float, a text too long for a number, a type that is another, nesting
    too deep, more than fits into memory. Who asks must treat it as a problem: nothing was shown. Only a
    signal (``KeyboardInterrupt``, ``SystemExit``) passes.
    """
    try:
        return ComputedValue(compute())
    except HarnessError as error:
        return ComputationFailure(str(error)[:_WHY])
    except Exception as error:
        return ComputationFailure(f"{type(error).__name__}: {_text(error)}")


def _text(error: Exception) -> str:
    try:
        return str(error)[:_WHY]
    except Exception:
        return "it cannot say why"  # Of a number too long to be written.
