"""YAML text → plain values, and where in the file each of them stands.

The types of plain scalars are those of YAML 1.2's core schema, not PyYAML's YAML 1.1: ``on``, ``off``,
``yes`` and ``no`` are text (a key named ``on`` stays ``on``), ``1e-6`` is a number, ``1:30`` is text, and a
date is text. Source: YAML 1.2.2, section 10.3.2. Keys are always text.
"""

from __future__ import annotations

import hashlib
import math
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from bi_harness.errors import SpecError
from bi_harness.reading import read_bounded

Key = str | int
Route = tuple[Key, ...]
"""A value's place in the document: keys and list indexes from the root."""

MAX_BYTES = 256 * 1024
MAX_NODES = 40_000
"""Values and keys."""
MAX_DEPTH = 24

MAX_PROBLEMS = 100
"""Told of one file; nobody reads more, and their text must not grow with what a hostile file holds."""

MAX_KEY = 400
"""Characters of a key: it is in the place of everything below it, and so in each problem there."""

MAX_NAME = 80
"""Characters of a key in a message."""

_TAG = "tag:yaml.org,2002:"
_MERGE = _TAG + "merge"
_NULL = frozenset({"", "~", "null", "Null", "NULL"})
_TRUE = frozenset({"true", "True", "TRUE"})
_FALSE = frozenset({"false", "False", "FALSE"})
_INT = re.compile(r"[-+]?(0|[1-9][0-9]*)")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+\.[0-9]*)([eE][-+]?[0-9]+)?|[-+]?[0-9]+[eE][-+]?[0-9]+")
_MURKY = re.compile(
    r"[-+]?(0[0-9]+|0[oOxXbB][0-9a-fA-F]+|[0-9][0-9_]*_[0-9_]*)|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)"
)


class Mark(NamedTuple):
    """A place in the file; both count from 1."""

    line: int
    column: int


@dataclass(frozen=True, slots=True)
class YamlSource:
    """One file's values and their places.

    Attributes:
        name: the file as messages show it.
        data: the document: ``dict``, ``list``, ``str``, ``int``, ``float``, ``bool``, ``None``.
        digest: ``sha256:...`` of the file's bytes.
        values: where each value starts.
        keys: where the key of each mapping entry starts.
    """

    name: str
    data: Any
    digest: str
    values: dict[Route, Mark] = field(repr=False)
    keys: dict[Route, Mark] = field(repr=False)

    def value_at(self, route: Route) -> Mark:
        """Where the value stands; for one that is missing, where its nearest known parent does."""
        return self._nearest(route, self.values)

    def key_at(self, route: Route) -> Mark:
        """Where the key of the value stands; for a list item, the item."""
        return self.keys.get(route) or self._nearest(route, self.values)

    def _nearest(self, route: Route, places: dict[Route, Mark]) -> Mark:
        if route in places:
            return places[route]
        while route:
            route = route[:-1]
            # A parent is found by its key: the value of a block mapping starts a line further down.
            found = self.keys.get(route) or places.get(route)
            if found:
                return found
        return Mark(1, 1)


def load_yaml(path: Path, name: str | None = None) -> YamlSource:
    """The values of a YAML file.

    Args:
        path: the file.
        name: how messages call it; its path by default.

    Raises:
        SpecError: the file cannot be read or is no regular one, is not UTF-8, is not YAML, or is refused (too
            large, too deep, a duplicate key, a tag).
    """
    name = name or str(path)
    try:
        raw = read_bounded(path, MAX_BYTES)
    except OSError as e:
        raise SpecError(f"{name}: cannot be read: {e.strerror or e}") from e
    except ValueError as e:
        raise SpecError(f"{name}: cannot be read: {e}") from e
    if len(raw) > MAX_BYTES:
        raise SpecError(f"{name}: is larger than {MAX_BYTES // 1024} KiB; no spec needs that much")
    return parse_yaml(raw, name)


def parse_yaml(raw: bytes, name: str) -> YamlSource:
    """The values of YAML text, as ``load_yaml``.

    Raises:
        SpecError: see ``load_yaml``; one block a problem.
    """
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as e:
        line = raw[: e.start].count(b"\n") + 1
        raise SpecError(f"{name}:{line}: is not UTF-8 (byte {e.start}: {raw[e.start]:#04x})") from e
    _refuse_unprintable(text, name)
    loader = yaml.SafeLoader(text)
    reader = _Reader(name, loader)
    try:
        node = loader.get_single_node()
    except yaml.MarkedYAMLError as e:
        mark = e.problem_mark or e.context_mark
        line = mark.line + 1 if mark else 1
        what = ", ".join(shortened(part, 200) for part in (e.context, e.problem) if part)
        raise SpecError(f"{name}:{line}: is not valid YAML: {what}") from e
    except (yaml.YAMLError, ValueError, OverflowError) as e:
        what = shortened(str(e), 200)
        raise SpecError(f"{name}:{loader.line + 1}: is not valid YAML: {what}") from e
    except RecursionError as e:
        where = f"{name}:{loader.line + 1}"
        raise SpecError(f"{where}: is nested too deeply (at most {MAX_DEPTH} levels)") from e
    finally:
        loader.dispose()
    data = reader.document(node)
    digest = f"sha256:{hashlib.sha256(raw).hexdigest()}"
    return YamlSource(name=name, data=data, digest=digest, values=reader.values, keys=reader.keys)


def shortened(text: str, limit: int = MAX_NAME) -> str:
    """A text of a file as a message shows it: one line, without control characters, not at any length."""
    # repr() keeps control characters of a file out of the terminal.
    inner = repr(text[:limit])[1:-1]
    return f"{inner}..." if len(text) > limit else inner


def at_most(problems: list[str], more: int = 0) -> list[str]:
    """The first of a file's problems, and how many more there are; ``more`` were not even put into words."""
    left = len(problems) - MAX_PROBLEMS + more
    return [*problems[:MAX_PROBLEMS], f"... and {left:,} more problems"] if left > 0 else problems


def _refuse_unprintable(text: str, name: str) -> None:
    """PyYAML refuses these characters itself, but without a line.

    Raises:
        SpecError: the text has a character that YAML does not allow.
    """
    bad = yaml.reader.Reader.NON_PRINTABLE.search(text)
    if bad:
        line = text.count("\n", 0, bad.start()) + 1
        raise SpecError(f"{name}:{line}: has a character that YAML does not allow (U+{ord(bad.group()):04X})")


class _Reader:
    """From composed nodes to values. Aliases are expanded, and each expansion counts as new nodes."""

    def __init__(self, name: str, loader: yaml.SafeLoader) -> None:
        self.values: dict[Route, Mark] = {}
        self.keys: dict[Route, Mark] = {}
        self._name = name
        self._loader = loader
        self._nodes = 0
        self._problems: list[str] = []

    def document(self, node: yaml.Node | None) -> Any:
        if node is None:
            self.values[()] = Mark(1, 1)
            return None
        data = self._value(node, ())
        if self._problems:
            # A problem under an anchor is met once for each alias.
            raise SpecError("\n".join(at_most(list(dict.fromkeys(self._problems)))))
        return data

    def _value(self, node: yaml.Node, route: Route) -> Any:
        self._count(node, len(route))
        self.values[route] = _mark(node)
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node)
        if isinstance(node, yaml.SequenceNode):
            self._no_tag(node, "seq")
            return [self._value(child, (*route, i)) for i, child in enumerate(node.value)]
        assert isinstance(node, yaml.MappingNode)
        self._no_tag(node, "map")
        return self._mapping(node, route)

    def _count(self, node: yaml.Node, depth: int = 0) -> None:
        """One more value or key.

        Raises:
            SpecError: it is one too many, or too deep.
        """
        self._nodes += 1
        if self._nodes > MAX_NODES or depth > MAX_DEPTH:
            limit = (
                f"levels (at most {MAX_DEPTH})"
                if depth > MAX_DEPTH
                else f"values and keys (at most {MAX_NODES})"
            )
            raise SpecError(f"{_at(self._name, node)}: too many {limit}, aliases counted where they are used")

    def _mapping(self, node: yaml.MappingNode, route: Route) -> dict[str, Any]:
        entries: dict[str, tuple[yaml.Node, yaml.Node]] = {}
        merges: list[yaml.Node] = []
        for key, value in node.value:
            # Keys that end up nowhere count too: an alias can bring them ten thousand times.
            self._count(key)
            if key.tag == _MERGE:
                merges.append(value)
                continue
            if not isinstance(key, yaml.ScalarNode):
                self._problem(key, "a key must be a plain name")
                continue
            if len(key.value) > MAX_KEY:
                self._problem(key, f'"{shortened(key.value)}": a key of more than {MAX_KEY} characters')
                continue
            if key.value in entries:
                first = entries[key.value][0].start_mark.line + 1
                place = ".".join(shortened(str(step)) for step in (*route, key.value))
                self._problem(key, f"{place}: duplicate key; it is first given at {self._name}:{first}")
                continue
            entries[key.value] = (key, value)
        for merged in merges:
            for name, pair in self._merged(merged, len(route)).items():
                entries.setdefault(name, pair)
        result: dict[str, Any] = {}
        for name, (key, value) in entries.items():
            self.keys[(*route, name)] = _mark(key)
            result[name] = self._value(value, (*route, name))
        return result

    def _merged(self, node: yaml.Node, depth: int) -> dict[str, tuple[yaml.Node, yaml.Node]]:
        """The entries that ``<<: node`` brings: of a mapping, or of several, the earlier ones first."""
        self._nodes += 1
        if self._nodes > MAX_NODES or depth > MAX_DEPTH:
            raise SpecError(f"{_at(self._name, node)}: the merge (<<) goes too deep or round in a circle")
        found: dict[str, tuple[yaml.Node, yaml.Node]] = {}
        if isinstance(node, yaml.SequenceNode):
            for child in node.value:
                for name, pair in self._merged(child, depth + 1).items():
                    found.setdefault(name, pair)
            return found
        if not isinstance(node, yaml.MappingNode):
            self._problem(node, "<< merges a mapping (or a list of mappings), and this is none")
            return found
        inner: list[yaml.Node] = []
        for key, value in node.value:
            self._nodes += 1
            if key.tag == _MERGE:
                inner.append(value)
            elif isinstance(key, yaml.ScalarNode):
                found.setdefault(key.value, (key, value))
        for merged in inner:
            for name, pair in self._merged(merged, depth + 1).items():
                found.setdefault(name, pair)
        return found

    def _scalar(self, node: yaml.ScalarNode) -> Any:
        text: str = node.value
        if node.style is not None:
            self._no_tag(node, "str")
            return text
        if node.tag != self._implicit_tag(text):
            self._no_tag(node, "str")
            return text
        if text in _NULL:
            return None
        if text in _TRUE or text in _FALSE:
            return text in _TRUE
        # Longer than any number of a spec: int() of many digits is slow, and refused by Python itself.
        if len(text) <= 40:
            if _INT.fullmatch(text):
                return int(text)
            if _FLOAT.fullmatch(text):
                number = float(text)
                if math.isfinite(number):
                    return number
                self._problem(node, f"{text} is too large for a number")
            if _MURKY.fullmatch(text):
                self._problem(node, f"{text} differs between YAML readers: quote it, or use plain digits")
        return text

    def _implicit_tag(self, text: str) -> str:
        """What PyYAML gives a plain scalar without a written tag: any other tag was written."""
        tag: str = self._loader.resolve(yaml.ScalarNode, text, (True, False))  # type: ignore[no-untyped-call]
        return tag

    def _no_tag(self, node: yaml.Node, plain: str) -> None:
        if node.tag != _TAG + plain:
            shown = shortened(node.tag.replace(_TAG, "!!"), 60)
            self._problem(node, f"the tag {shown} is not allowed")

    def _problem(self, node: yaml.Node, what: str) -> None:
        self._problems.append(f"{_at(self._name, node)}: {what}")


def _mark(node: yaml.Node) -> Mark:
    return Mark(node.start_mark.line + 1, node.start_mark.column + 1)


def _at(name: str, node: yaml.Node) -> str:
    return f"{name}:{node.start_mark.line + 1}"
