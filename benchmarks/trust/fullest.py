"""A value for every field that a certificate has, made from its schema: a new field is in it by itself."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from bi_harness.certificate.statement import Statement

_PATTERNS = {
    r"^sha256:[0-9a-f]{64}$": "sha256:" + "ab" * 32,
    r"^0x[0-9a-f]{8}$": "0x3f800001",
    r"^[0-9]{4}-[0-9]{2}-[0-9]{2}$": "2026-12-31",
}
_ITEMS = 6
"""Of each list: as many as a check has statuses, so that each of them is there."""


def fullest(text: str, *, verdict: str = "NOT_CERTIFIED", names: Iterator[str] | None = None) -> Statement:
    """A certificate in which every text that is free is ``text``.

    Args:
        text: goes into every field whose type is any text, into every key of a free mapping, and into every
            place of a free value.
        verdict: its own.
        names: gives what goes there in place of ``text``, one after the other.
    """
    schema = Statement.model_json_schema()
    maker = _Maker(schema.get("$defs", {}), text, names)
    data = maker.value(schema, 0)
    data["predicate"]["bi_harness"]["verdict"] = verdict
    return Statement.model_validate(data)


class _Maker:
    def __init__(self, definitions: dict[str, Any], text: str, names: Iterator[str] | None) -> None:
        self._definitions = definitions
        self._text = text
        self._names = names

    def text(self) -> str:
        return self._text if self._names is None else next(self._names)

    def value(self, schema: dict[str, Any], turn: int) -> Any:
        if "$ref" in schema:
            return self.value(self._definitions[schema["$ref"].rpartition("/")[2]], turn)
        if "const" in schema:
            return schema["const"]
        if "enum" in schema:
            return schema["enum"][turn % len(schema["enum"])]
        if "anyOf" in schema:
            some = [one for one in schema["anyOf"] if one.get("type") != "null"]
            return self.value(some[0], turn)
        kind = schema.get("type")
        if kind == "string":
            if "pattern" in schema:
                return _PATTERNS[schema["pattern"]]
            return self.text() or ("-" if schema.get("minLength") else "")
        if kind == "integer":
            return max(1, schema.get("minimum", 1))
        if kind == "number":
            return 0.5
        if kind == "boolean":
            return turn % 2 == 0
        if kind == "array":
            if "prefixItems" in schema:
                return [self.value(one, turn) for one in schema["prefixItems"]]
            return [self.value(schema["items"], i) for i in range(_ITEMS)]
        if kind == "object" and "properties" in schema:
            return {name: self.value(one, turn) for name, one in schema["properties"].items()}
        if kind == "object":
            inner = schema.get("additionalProperties")
            return self._mapping(self.value(inner, turn) if isinstance(inner, dict) else self._free())
        return self.text()

    def _free(self) -> Any:
        return {self.text(): [self.text(), {self.text(): self.text()}]}

    def _mapping(self, value: Any) -> dict[str, Any]:
        known = ("id", "name", "title", "vllm", "version", "kind", "host", "gpus", "planted_fault", "model")
        return {self.text(): value, **{name: self.text() for name in known}}
