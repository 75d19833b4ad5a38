"""Which unit an event of a journal is of. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from bi_harness.certificate.events import (
    CheckFinished,
    CheckProgress,
    CheckStarted,
    EngineReady,
    Event,
    Localized,
    RunStarted,
    UnitFinished,
    UnitStarted,
)


def unit_names(start: RunStarted) -> dict[str, str]:
    """A unit by its own name, and by those of its cells: engines are told by either."""
    running = [p for p in start.plan if p.rule is None]
    return {**{p.cell: p.unit for p in running}, **{p.unit: p.unit for p in running}}


def unit_of(event: Event, units: Mapping[str, str]) -> str | None:
    """The unit that an event is of; empty for none of the plan, ``None`` where it is of the whole run."""
    if isinstance(event, UnitStarted | UnitFinished):
        return units.get(event.unit, "")
    if isinstance(event, EngineReady):
        # An engine that several suites share bears the unit's name, one of a cell its own.
        return units.get(event.arm.unit, "")
    if isinstance(event, CheckStarted | CheckProgress):
        return units.get(event.cell, "")
    if isinstance(event, CheckFinished):
        return units.get(event.result.cell, "")
    if isinstance(event, Localized):
        return units.get(event.localization.cell, "")
    return None
