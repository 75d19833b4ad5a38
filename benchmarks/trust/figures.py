"""A measured figure beside what it must be."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass

MUTATIONS = 10_000
"""Of journals and of certificates, each, that the section ``structure`` tries at least."""


@dataclass(frozen=True, slots=True)
class Figure:
    """One figure.

    Attributes:
        name: what was counted or measured.
        value: what it came to.
        bound: what it must be.
        ok: whether it is.
    """

    name: str
    value: str
    bound: str
    ok: bool


def all_of(name: str, good: int, total: int, at_least: int = 1) -> Figure:
    """``good`` of ``total``, which must be all of them, and some: nothing is shown by none of none."""
    bound = f"all, of {at_least:,} or more" if at_least > 1 else "all"
    return Figure(name, f"{good:,} of {total:,}", bound, good == total >= at_least)


def none_of(name: str, bad: int, total: int, at_least: int = 1) -> Figure:
    """``bad`` of ``total``, which must be none."""
    bound = f"0, of {at_least:,} or more" if at_least > 1 else "0"
    return Figure(name, f"{bad:,} of {total:,}", bound, bad == 0 and total >= at_least)


def below(name: str, value: float, limit: float, unit: str) -> Figure:
    """A value and the most that it may be."""
    return Figure(name, f"{value:,.1f} {unit}", f"at most {limit:,g} {unit}", value <= limit)


def as_dict(figures: Iterable[Figure], **details: object) -> dict[str, object]:
    """What a section's ``measure`` returns: its figures, and what else a reader of the JSON may want."""
    return {"figures": [asdict(figure) for figure in figures], **details}
