"""pydantic's errors → what a person can act on: the line, the key, what is wrong, what would be right."""

from __future__ import annotations

import re
import types
import typing
from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from bi_harness.spec.suggest import did_you_mean, listed
from bi_harness.spec.yamlsource import MAX_PROBLEMS, Route, YamlSource, at_most, shortened

_KEY = "[key]"

_EXPECTED = {
    "string_type": "must be text",
    "int_type": "must be a whole number",
    "float_type": "must be a number",
    "bool_type": "must be true or false",
    "dict_type": "must be a mapping",
    "tuple_type": "must be a list",
    "list_type": "must be a list",
    "model_type": "must be a mapping",
    "model_attributes_type": "must be a mapping",
}


def problems(error: ValidationError, source: YamlSource, model: type[BaseModel]) -> list[str]:
    """One block for each thing that is wrong, in the file's order.

    Args:
        error: what pydantic raised on ``source.data``.
        source: the file.
        model: the model of the whole file.
    """
    details = error.errors(include_url=False)
    # Before they are put into words, which takes time: a file can hold ten thousand mistakes.
    details.sort(key=lambda one: _line(one, source))
    shown = details[:MAX_PROBLEMS]
    found = [_problem(one, source, model) for one in shown]
    return at_most([text for _, text in sorted(found, key=lambda item: item[0])], len(details) - len(shown))


def _line(details: ErrorDetails, source: YamlSource) -> int:
    """About where it is: exact enough to leave out the last ones of very many."""
    return source.value_at(tuple(step for step in details["loc"] if step != _KEY)).line


def block(source: YamlSource, route: Route, what: str, *, key: bool = False) -> str:
    """``models.yaml:12: models.qwen3: what``.

    Args:
        key: whether the line is the key's; the value's otherwise.
    """
    mark = source.key_at(route) if key else source.value_at(route)
    # A key may hold anything that YAML can escape; no control character of it may reach the terminal.
    path = ".".join(shortened(str(step)) for step in route)
    return f"{source.name}:{mark.line}: {path}: {what}" if path else f"{source.name}:{mark.line}: {what}"


def _problem(
    details: ErrorDetails, source: YamlSource, model: type[BaseModel]
) -> tuple[tuple[int, int], str]:
    route: Route = tuple(details["loc"])
    kind = details["type"]
    at_key = False
    if route and route[-1] == _KEY:
        route = route[:-1]
        what = f"{_shown(route[-1])} cannot be a key: {_plain(details)}"
        at_key = True
        if kind == "literal_error":
            what = f"unknown key {_shown(route[-1])}; {_choice(details)}"
    elif kind == "extra_forbidden":
        at_key = True
        valid = keys_at(model, route[:-1])
        name = str(route[-1])
        what = f'unknown key "{shortened(name)}".{did_you_mean(name, valid)} Valid keys: {listed(valid)}'
    elif kind == "missing":
        at_key = True
        what = f'required key "{route[-1]}" is missing'
        route = route[:-1]
    elif kind == "literal_error":
        what = _choice(details)
    elif kind in _EXPECTED:
        what = f"{_EXPECTED[kind]}, not {_shown(details['input'])}"
        if kind == "string_type" and isinstance(details["input"], int | float):
            what += "; put it in quotes"
    else:
        what = _plain(details)
        if not isinstance(details["input"], dict):
            what = f"{what} (it is {_shown(details['input'])})"
    mark = source.key_at(route) if at_key else source.value_at(route)
    return (mark.line, mark.column), block(source, route, what, key=at_key)


def _plain(details: ErrorDetails) -> str:
    text = details["msg"].removeprefix("Value error, ")[:500]
    text = text.replace("Input should", "must").replace("String should", "must")
    return text[0].lower() + text[1:] if text[:2].istitle() or text[:1].islower() else text


def _choice(details: ErrorDetails) -> str:
    valid = re.findall(r"'([^']*)'", str(details.get("ctx", {}).get("expected", "")))
    wrong = details["input"]
    near = did_you_mean(wrong, valid) if isinstance(wrong, str) else ""
    return f"{_shown(wrong)} is not one of {listed(valid)}.{near}".rstrip()


def _shown(value: Any) -> str:
    """The value in a few characters."""
    if isinstance(value, str):
        # repr() keeps control characters of a file out of the terminal.
        inner = repr(value[:60])[1:-1]
        return f'"{inner}{"..." if len(value) > 60 else ""}"'
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list | tuple):
        return "a list"
    return "nothing" if value is None else repr(value)[:60]


def keys_at(model: type[BaseModel], route: Route) -> Sequence[str]:
    """The keys that are valid at a place below ``model``; none where any key is."""
    here: Any = model
    for step in route:
        here = _child(here, step)
    here = _bare(here)
    if not (isinstance(here, type) and issubclass(here, BaseModel)):
        return ()
    # An id is the entry's key in the file; it is never written inside again.
    hidden = {"id"} if route and isinstance(route[-1], str) else set()
    return [field.alias or name for name, field in here.model_fields.items() if name not in hidden]


def _child(annotation: Any, step: str | int) -> Any:
    here = _bare(annotation)
    if isinstance(here, type) and issubclass(here, BaseModel):
        field = here.model_fields.get(str(step))
        return field.annotation if field else None
    arguments = typing.get_args(here)
    if typing.get_origin(here) is dict:
        return arguments[1]
    if typing.get_origin(here) in (tuple, list):
        return arguments[0]
    return None


def _bare(annotation: Any) -> Any:
    """Without ``Annotated`` and ``| None``."""
    while True:
        origin = typing.get_origin(annotation)
        if origin is typing.Annotated:
            annotation = typing.get_args(annotation)[0]
        elif origin in (typing.Union, types.UnionType):
            members = [a for a in typing.get_args(annotation) if a is not type(None)]
            if len(members) != 1:
                return annotation
            annotation = members[0]
        else:
            return annotation
