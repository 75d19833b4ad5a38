"""Nested values of unknown shape (provenance, engine configuration) as something a template can walk."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeGuard

from bi_harness.report.text import clean

MAX_DEPTH = 6
MAX_ITEMS = 400
VALUE_LIMIT = 2_000


@dataclass(frozen=True, slots=True)
class Entry:
    """A key with either a text or entries below it.

    Attributes:
        children: the entries below; a key that has some has an empty ``value``.
    """

    key: str
    value: str
    children: tuple[Entry, ...] = ()


def entries(value: object, depth: int = 0) -> tuple[Entry, ...]:
    """The entries of a mapping or a list, in its own order; a list's keys are its positions from 1."""
    if isinstance(value, Mapping):
        pairs = [(clean(key, 120) or "(empty)", item) for key, item in value.items()]
    elif _is_list(value):
        pairs = [(str(index), item) for index, item in enumerate(value, start=1)]
    else:
        return (Entry("value", clean(value, VALUE_LIMIT)),)
    shown = tuple(_entry(key, item, depth) for key, item in pairs[:MAX_ITEMS])
    if len(pairs) > MAX_ITEMS:
        shown += (Entry("…", f"{len(pairs) - MAX_ITEMS:,} more in certificate.json"),)
    return shown


def _entry(key: str, value: object, depth: int) -> Entry:
    if isinstance(value, Mapping) or _is_list(value):
        if not value:
            return Entry(key, "none")
        if _is_list(value) and not any(isinstance(item, Mapping) or _is_list(item) for item in value):
            # A list of plain values reads best on one line: an argv, a set of backends.
            texts = [clean(item, VALUE_LIMIT) for item in value]
            return Entry(key, clean(shlex.join(texts) if key == "command" else ", ".join(texts), VALUE_LIMIT))
        if depth >= MAX_DEPTH:
            return Entry(key, "… (nested deeper; see certificate.json)")
        return Entry(key, "", entries(value, depth + 1))
    return Entry(key, clean(value, VALUE_LIMIT) or "(empty)")


def _is_list(value: object) -> TypeGuard[Sequence[object]]:
    return isinstance(value, Sequence) and not isinstance(value, str | bytes | bytearray)


def leaves(items: tuple[Entry, ...], prefix: str = "") -> Iterator[tuple[str, str]]:
    """The texts of a tree under dotted keys: ``parallel.tp`` → ``1``."""
    for item in items:
        path = f"{prefix}{item.key}"
        if item.children:
            yield from leaves(item.children, f"{path}.")
        else:
            yield path, item.value
