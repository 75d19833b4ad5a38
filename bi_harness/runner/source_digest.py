"""Digests of Python and YAML files that depend on what the files do, and not on how they are worded."""

from __future__ import annotations

import ast
import hashlib
import json
from collections.abc import Iterator, Sequence
from typing import Any, Final

_NO_EFFECT: Final = frozenset({"ctx", "kind", "type_comment", "type_ignores"})
"""Fields of syntax nodes that the interpreter ignores, or that follow from the rest of the tree."""

ANY: Final = "*"
"""In a route of ``yaml_digest``: any key or list item."""


def python_digest(tree: ast.Module) -> str:
    """SHA-256 in hex of a Python file's syntax tree.

    Comments, formatting, ``pass``, docstrings and all other constants that are a statement by themselves do
    not count. Everything else does, names and annotations included. The digest does not depend on the version
    of Python; the text of ``ast.dump`` does.
    """
    total = hashlib.sha256()
    for token in _tokens(tree):
        total.update(f"{token}\n".encode("ascii"))
    return total.hexdigest()


def yaml_digest(data: Any, ignored: Sequence[Sequence[str]] = ()) -> str:
    """SHA-256 in hex of a YAML document's values, whatever the order of its keys.

    Args:
        data: the document, as ``spec.yamlsource`` loads it.
        ignored: routes of the values that do not count, with ``ANY`` for any key or list item.
    """
    for route in ignored:
        data = _without(data, route)
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode("ascii")).hexdigest()


def _without(data: Any, route: Sequence[str]) -> Any:
    """A copy of ``data`` without the values at ``route``."""
    first, *rest = route
    if isinstance(data, list):
        return [_without(item, rest) if rest else item for item in data] if first == ANY else data
    if not isinstance(data, dict):
        return data
    if not rest:
        return {key: value for key, value in data.items() if key != first}
    return {key: _without(value, rest) if first in (ANY, key) else value for key, value in data.items()}


class _Marker(str):
    """A token that is ready to be written, as opposed to a string of the source."""


def _tokens(tree: ast.AST) -> Iterator[str]:
    """The tree in pre-order, one token for each node, field, list and constant, and one for each end.

    Without recursion: an expression may be nested more deeply than Python's stack allows.
    """
    left: list[Any] = [tree]
    while left:
        item = left.pop()
        if isinstance(item, _Marker):
            yield item
        elif isinstance(item, ast.AST):
            yield f"({type(item).__name__}"
            left.append(_Marker(")"))
            for name in sorted(item._fields, reverse=True):
                value = _normalized(item, name)
                # Newer versions of Python add fields, which are empty in code that older versions can parse.
                if value is not None and value != []:
                    left += [value, _Marker(f".{name}")]
        elif isinstance(item, list):
            yield "["
            left += [_Marker("]"), *reversed(item)]
        elif isinstance(item, int) and not isinstance(item, bool):
            yield f"int {item:x}"  # not in decimal, which Python limits to 4300 digits
        else:
            yield f"{type(item).__name__} {item!a}"  # which characters repr() escapes differs by version


def _normalized(node: ast.AST, name: str) -> Any:
    """A node's field, in a form that all versions of Python agree on; ``None`` if it has no effect."""
    if name in _NO_EFFECT:
        return None
    value = getattr(node, name, None)
    if isinstance(node, ast.FormattedValue) and name == "format_spec" and value is not None:
        return value if _joined(value.values) else None
    if isinstance(node, ast.JoinedStr):
        return _joined(node.values)
    if isinstance(value, list):
        return [item for item in value if not _does_nothing(item)]
    return value


def _does_nothing(item: object) -> bool:
    return isinstance(item, ast.Pass) or (isinstance(item, ast.Expr) and isinstance(item.value, ast.Constant))


def _joined(values: list[ast.expr]) -> list[ast.expr]:
    """The parts of an f-string, with constants that follow each other as one, and without empty ones."""
    parts: list[ast.expr] = []
    for value in values:
        last = parts[-1] if parts else None
        if isinstance(value, ast.Constant) and isinstance(last, ast.Constant):
            parts[-1] = ast.Constant(str(last.value) + str(value.value))
        elif not isinstance(value, ast.Constant) or value.value:
            parts.append(value)
    return parts
