"""Lines over the nights, as the numbers of an inline SVG. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import floor, log10
from typing import Final

from bi_harness.report.text import duration

WIDTH: Final = 460
HEIGHT: Final = 160
LEFT: Final = 62
TOP: Final = 8
BOTTOM: Final = 26
RIGHT: Final = 6


@dataclass(frozen=True, slots=True)
class Line:
    """One line: an SVG path, single nights as dots, and its figures in words."""

    name: str
    kind: str
    path: str
    dots: tuple[tuple[float, float], ...]
    words: str


@dataclass(frozen=True, slots=True)
class Chart:
    """A chart with its axes' labels: ``(position, text)``."""

    title: str
    lines: tuple[Line, ...]
    across: tuple[tuple[float, str], ...]
    up: tuple[tuple[float, str], ...]


def chart(
    title: str, nights: Sequence[str], values: Sequence[tuple[str, str, Sequence[float | None]]]
) -> Chart | None:
    """A chart of seconds over the nights, from 0; ``None`` where there is nothing to show.

    Args:
        values: name, class and a value for each night.
    """
    top = max((value for _, _, line in values for value in line if value is not None), default=0.0)
    if top <= 0:
        return None
    step = _step(top)
    ceiling = step * (floor(top / step) + 1)
    span = max(1, len(nights) - 1)

    def x(night: int) -> float:
        return round(LEFT + (WIDTH - LEFT - RIGHT) * (night / span if len(nights) > 1 else 0.5), 1)

    def y(value: float) -> float:
        return round(TOP + (HEIGHT - TOP - BOTTOM) * (1 - value / ceiling), 1)

    lines = []
    for name, kind, line in values:
        known = [(i, value) for i, value in enumerate(line) if value is not None]
        if not known:
            continue
        path, dots = _path([(x(i), y(v)) if v is not None else None for i, v in enumerate(line)])
        low, high = min(v for _, v in known), max(v for _, v in known)
        words = f"{name}: {duration(known[-1][1])} last, {duration(low)} to {duration(high)}"
        lines.append(Line(name, kind, path, dots, words))
    ticks = [step * i for i in range(int(ceiling / step + 0.5) + 1)]
    return Chart(
        title=title,
        lines=tuple(lines),
        across=tuple((x(i), label) for i, label in _dates(nights)),
        up=tuple((y(value), _seconds(value, step)) for value in ticks),
    )


def _path(points: Sequence[tuple[float, float] | None]) -> tuple[str, tuple[tuple[float, float], ...]]:
    """A path that is broken where a night is missing: nothing is drawn for what nobody measured."""
    words: list[str] = []
    dots = []
    for i, point in enumerate(points):
        if point is None:
            continue
        before = points[i - 1] if i else None
        after = points[i + 1] if i + 1 < len(points) else None
        words.append(f"{'L' if before is not None else 'M'}{point[0]:g} {point[1]:g}")
        if before is None and after is None:
            dots.append(point)
    return "".join(words), tuple(dots)


def _step(top: float) -> float:
    """The distance of two lines: 1, 2, 5 or 10 seconds, or minutes, or hours, so that there are 2 to 5."""
    unit = 3600.0 if top >= 7200 else 60.0 if top >= 120 else 1.0
    rough = top / unit / 4
    power = 10.0 ** floor(log10(rough)) if rough > 0 else 1.0
    return unit * next(power * nice for nice in (1, 2, 5, 10) if power * nice >= rough)


def _seconds(value: float, step: float) -> str:
    """A label, in the unit in which all of them are short."""
    for unit, name in ((3600.0, "h"), (60.0, "min")):
        if step % (unit / 2) == 0:
            return f"{value / unit:g} {name}"
    return f"{value:g} s"


def _dates(nights: Sequence[str]) -> list[tuple[int, str]]:
    if len(nights) < 3:
        return [(0, nights[0])]
    return [(i, nights[i]) for i in (0, (len(nights) - 1) // 2, len(nights) - 1)]
