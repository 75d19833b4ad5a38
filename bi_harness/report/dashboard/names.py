"""File names of a site, made of names that anybody may have chosen."""

from __future__ import annotations

import hashlib
import re
from typing import Final

_OTHER: Final = re.compile(r"[^a-z0-9]+")
_PLAIN: Final = re.compile(r"[a-z0-9]([a-z0-9-]{0,58}[a-z0-9])?")
_RESERVED: Final = frozenset(
    ("con", "prn", "aux", "nul", *(f"{name}{i}" for name in ("com", "lpt") for i in range(10)))
)


def _digest(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode("utf-8", "surrogatepass")).hexdigest()[:20]


def page_name(cell: str, variant: str) -> str:
    """A cell's page: readable, of ``a-z0-9-`` alone, and another one for every other cell."""
    slug = _OTHER.sub("-", cell.lower()).strip("-")[:70].strip("-") or "cell"
    return f"{slug}-{_digest(cell, variant)}.html"


def badge_name(text: str) -> str:
    """A device's or a model's part of its badge's name: itself where it is plain, for links to it.

    A dot is a dash, with a digest, so that no file is in another's way.
    """
    if _PLAIN.fullmatch(text) and text not in _RESERVED:
        return text
    slug = _OTHER.sub("-", text.lower()).strip("-")[:40].strip("-") or "unnamed"
    return f"{slug}-{_digest(text)}"
