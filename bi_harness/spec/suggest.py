"""What someone meant who mistyped a name."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from itertools import islice

_SHOWN = 40
_COMPARED = 1_000


def did_you_mean(wrong: str, valid: Iterable[str]) -> str:
    """`` Did you mean "x"?`` with a space before it, or nothing when no name is near."""
    names = {name.lower(): name for name in islice(valid, _COMPARED)}
    near = difflib.get_close_matches(wrong.lower()[:80], names, n=1, cutoff=0.6)
    return f' Did you mean "{names[near[0]]}"?' if near else ""


def listed(names: Iterable[str]) -> str:
    """``a, b, c``; a long list is cut, and says so."""
    all_names = list(names)
    shown = ", ".join(all_names[:_SHOWN])
    return f"{shown}, ... ({len(all_names)} in all)" if len(all_names) > _SHOWN else shown or "none"
