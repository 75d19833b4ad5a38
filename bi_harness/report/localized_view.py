"""Where failures begin, as text that every format can place: sentences, and a map of the model's modules."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from bi_harness.certificate.localized import Localization, Sent, State
from bi_harness.certificate.statement import Statement
from bi_harness.report.text import clean, count, duration, number, plural

MAX_SHOWN = 100
"""Localizations that a report tells."""

MAX_LAYERS = 200
MAX_IN_LAYER = 200

SYMBOLS: Final[dict[State, str]] = {"culprit": "✗", "differs": "≠", "equal": "=", "unseen": "·"}
WORDS: Final[dict[State, str]] = {
    "culprit": "culprit",
    "differs": "differs, downstream or around it",
    "equal": "equal in all rows",
    "unseen": "not called with the request's rows",
}
_ORDER: Final[tuple[State, ...]] = ("culprit", "differs", "equal", "unseen")
_LAYER = re.compile(r"(.*?\.\d+)\.(.+)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class ModuleMark:
    """One module of the map."""

    name: str
    class_: str
    state: State


@dataclass(frozen=True, slots=True)
class Layer:
    """Modules of one layer, or what lies outside of layers; ``worst`` is the state to be seen first."""

    name: str
    worst: State
    modules: tuple[ModuleMark, ...]
    left: int
    summary: str


@dataclass(frozen=True, slots=True)
class LocalizedView:
    """One localization, ready to be shown.

    Attributes:
        heading: the culprit, or what there is in its place.
        lines: what else there is to say, by label.
        outputs: of the culprit: path, dtype, shapes, rows, values, largest distance, histogram.
        inputs: of it: path, dtype and shapes.
        ran_alone, ran_batch: operators and kernels of its call.
        options: what was tried with torch.compile or CUDA graphs: name, what came of it, note.
        layers: the map.
        layers_left: layers that are not shown.
    """

    anchor: str
    cell: str
    check: str
    outcome: str
    found: bool
    heading: str
    lines: tuple[tuple[str, str], ...]
    outputs: tuple[tuple[str, ...], ...]
    inputs: tuple[tuple[str, ...], ...]
    ran_alone: tuple[str, ...]
    ran_batch: tuple[str, ...]
    options: tuple[tuple[str, str, str], ...]
    layers: tuple[Layer, ...]
    layers_left: int


def localized_views(statement: Statement) -> tuple[LocalizedView, ...]:
    """Those of a certificate."""
    told = statement.predicate.bi_harness.localized[:MAX_SHOWN]
    return tuple(localized_view(one, i) for i, one in enumerate(told, start=1))


def localized_left(statement: Statement) -> int:
    """How many are not shown."""
    return max(0, len(statement.predicate.bi_harness.localized) - MAX_SHOWN)


def localized_view(told: Localization, index: int = 1) -> LocalizedView:
    """One of them; ``index`` makes its anchor."""
    layers = _layers(told)
    return LocalizedView(
        anchor=f"localized-{index}",
        cell=clean(told.cell, 300) or "(unnamed)",
        check=clean(told.check, 160) or "(unnamed)",
        outcome=told.outcome.replace("_", " "),
        found=told.outcome == "module",
        heading=heading(told),
        lines=tuple((label, value) for label, value in _lines(told) if value),
        outputs=tuple(
            (
                clean(t.path, 80),
                clean(t.dtype, 60),
                _shape(t.shape_alone),
                _shape(t.shape_batch),
                f"{count(t.differing_rows)} of {count(t.rows)}",
                f"{count(t.differing_values)} of {count(t.values)}",
                f"{count(t.max_ulp)} ULP",
                ", ".join(f"{_band(b.first, b.last)}: {count(b.values)}" for b in t.ulps),
            )
            for t in told.outputs[:20]
        ),
        inputs=tuple(
            (clean(t.path, 80), clean(t.dtype, 60), _shape(t.shape_alone), _shape(t.shape_batch))
            for t in told.inputs[:20]
        ),
        ran_alone=tuple(clean(line, 400) for line in told.ran_alone[:100]),
        ran_batch=tuple(clean(line, 400) for line in told.ran_batch[:100]),
        options=tuple((clean(o.name, 120), _tried(o.differs), clean(o.note, 400)) for o in told.options[:20]),
        layers=layers[:MAX_LAYERS],
        layers_left=max(0, len(layers) - MAX_LAYERS),
    )


def heading(told: Localization) -> str:
    """What was found, in a few words."""
    if told.outcome == "module":
        return f"{clean(told.module, 300)} ({clean(told.class_name, 120)})"
    if told.outcome in ("elsewhere", "compiled", "unproven"):
        return clean(told.where, 600)
    if told.outcome == "not_reproduced":
        return "the eager rerun does not differ" if told.eager is False else "the rerun does not differ"
    return "could not be localized"


def sentences(told: Localization) -> list[str]:
    """All of it but the map, a sentence a line, for a terminal or a summary."""
    view = localized_view(told)
    lines = [f"{view.outcome}: {view.heading}"]
    lines += [f"{label}: {value}" for label, value in view.lines]
    for path, dtype, alone, batch, rows, values, ulp, bands in view.outputs:
        lines.append(
            f"output {path}: {dtype}, {alone} alone and {batch} in company; {rows} rows and {values} values "
            f"differ, by up to {ulp}{f' ({bands})' if bands else ''}"
        )
    lines += [
        f"input {path}: {dtype}, {alone} alone and {batch} in company, equal bits"
        for path, dtype, alone, batch in view.inputs
    ]
    if view.ran_alone or view.ran_batch:
        lines.append(f"runs alone: {'; '.join(view.ran_alone[:8])}")
        lines.append(f"runs in company: {'; '.join(view.ran_batch[:8])}")
    lines += [f"{name}: {what}{f' ({note})' if note else ''}" for name, what, note in view.options]
    return lines


def _lines(told: Localization) -> list[tuple[str, str]]:
    cost = told.cost
    return [
        ("Where", clean(told.where, 600) if told.outcome == "module" else ""),
        ("Why", clean(told.reason, 2_000)),
        (
            "Eager",
            "" if told.eager is None else "the rerun differs" if told.eager else "the rerun does not differ",
        ),
        (
            "First at",
            ""
            if told.position is None or told.step is None
            else f"step {count(told.step)} of the request, position {count(told.position)} of its tokens",
        ),
        (
            "Request",
            ""
            if told.request is None
            else f"{count(told.request)}, {clean(told.arm, 200)}"
            + (f", tensor parallel rank {count(told.rank)}" if told.rank else ""),
        ),
        ("Sent by the check", _sent(told.planned)),
        ("Smallest that differs", _sent(told.smallest)),
        (
            "Cost",
            ""
            if cost is None
            else f"{duration(cost.seconds)}, {plural(cost.starts, 'engine start')}, "
            f"{plural(cost.tries, 'pair')} tried",
        ),
        (
            "Hooks",
            ""
            if cost is None or not cost.watched_s
            else f"{_seconds(cost.watched_s)} in place of {_seconds(cost.plain_s)} for the smallest pair; "
            f"{_mebibytes(cost.kept)} of digests, process {_mebibytes(cost.rss_before)} before and "
            f"{_mebibytes(cost.rss_after)} after"
            + (f", device at most {_mebibytes(cost.device_peak)}" if cost.device_peak is not None else ""),
        ),
    ]


def _sent(sent: Sent | None) -> str:
    if sent is None:
        return ""
    before = f", after {plural(sent.bursts_before, 'burst')}" if sent.bursts_before else ""
    return (
        f"a prompt of {plural(sent.prompt_tokens, 'token')} and {plural(sent.steps, 'step')}, beside "
        f"{plural(sent.neighbours, 'neighbour')} with {plural(sent.neighbour_tokens, 'token')}{before}"
    )


def _seconds(value: float) -> str:
    return f"{number(round(value, 3))} s"


def _mebibytes(value: int) -> str:
    return f"{count(value >> 20)} MiB"


def _shape(shape: tuple[int, ...]) -> str:
    return f"[{', '.join(count(n) for n in shape[:8])}]"


def _band(first: int, last: int) -> str:
    if first == last:
        return f"{count(first)} ULP"
    return f"{count(first)} to {count(last)} ULP" if last < 2**62 else f"from {count(first)} ULP"


def _tried(differs: bool | None) -> str:
    return "not tried" if differs is None else "differs" if differs else "does not differ"


def _layers(told: Localization) -> tuple[Layer, ...]:
    groups: dict[str, list[ModuleMark]] = {}
    for module in told.modules:
        within = _LAYER.fullmatch(module.name)
        group, name = (within[1], within[2]) if within else ("", module.name)
        if not within and re.search(r"\.\d+$", module.name):
            group, name = module.name, "(all of it)"
        groups.setdefault(clean(group, 200), []).append(
            ModuleMark(clean(name, 200) or "(unnamed)", clean(module.class_name, 120), module.state)
        )
    return tuple(_layer(name, marks) for name, marks in groups.items())


def _layer(name: str, marks: list[ModuleMark]) -> Layer:
    have = {state: sum(mark.state == state for mark in marks) for state in _ORDER}
    worst = next(state for state in _ORDER if have[state])
    if len(marks) > MAX_IN_LAYER:
        marks.sort(key=lambda mark: _ORDER.index(mark.state))
    return Layer(
        name=name or "outside of layers",
        worst=worst,
        modules=tuple(marks[:MAX_IN_LAYER]),
        left=max(0, len(marks) - MAX_IN_LAYER),
        summary=", ".join(f"{have[state]} {_SHORT[state]}" for state in _ORDER if have[state]),
    )


_SHORT: Final[dict[State, str]] = {
    "culprit": "culprit",
    "differs": "differ",
    "equal": "equal",
    "unseen": "not called",
}
