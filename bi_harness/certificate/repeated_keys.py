"""A JSON object that names a key twice: two readers may take two values for it. Pure."""

from __future__ import annotations

import json
from typing import Any

from bi_harness.certificate.problems import shortened


class _Repeated(Exception):
    """Its argument is the key."""


def repeated_key(text: bytes) -> str | None:
    """A key that an object of a JSON text has twice, at any depth; ``None`` if there is none.

    Args:
        text: valid JSON. What is not valid is for a parser to refuse: it has no repeated key here.
    """
    try:
        _DECODER.decode(text.decode("utf-8"))
    except _Repeated as found:
        return shortened(repr(found.args[0]), 60)
    except (ValueError, RecursionError):
        return None
    return None


def _unique(pairs: list[tuple[str, Any]]) -> None:
    if len(pairs) > 1 and len({key for key, _ in pairs}) < len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise _Repeated(key)
            seen.add(key)


# The numbers' values do not matter here, and thousands of digits must not be converted.
_DECODER = json.JSONDecoder(object_pairs_hook=_unique, parse_int=len, parse_float=len)
