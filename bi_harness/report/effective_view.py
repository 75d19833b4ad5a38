"""The effective configuration: once what all engines share, then by unit what is its own."""

from __future__ import annotations

from dataclasses import dataclass

from bi_harness.certificate.statement import EffectiveArm, Statement
from bi_harness.report.text import clean, duration
from bi_harness.report.tree import entries, leaves

ABSENT = "—"


@dataclass(frozen=True, slots=True)
class Setting:
    """One key with its value in each arm of a unit; ``differs`` where the arms do not agree."""

    key: str
    values: tuple[str, ...]
    differs: bool


@dataclass(frozen=True, slots=True)
class UnitSettings:
    """One unit: its arms (the columns) and the settings that are not common to all engines."""

    unit: str
    arms: tuple[str, ...]
    starts: tuple[str, ...]
    settings: tuple[Setting, ...]


@dataclass(frozen=True, slots=True)
class EffectiveView:
    """What the engines said of themselves."""

    common: tuple[tuple[str, str], ...]
    units: tuple[UnitSettings, ...]
    engines: int


def effective_view(statement: Statement) -> EffectiveView:
    """The configuration of every engine of the run, without repeating what they all share."""
    arms = statement.predicate.bi_harness.effective
    flat = [dict(leaves(entries(arm.config))) if arm.config else {} for arm in arms]
    common: dict[str, str] = {}
    if len(flat) > 1:
        common = {
            key: value for key, value in flat[0].items() if all(other.get(key) == value for other in flat[1:])
        }
    by_unit: dict[str, list[int]] = {}
    for index, arm in enumerate(arms):
        by_unit.setdefault(arm.unit, []).append(index)
    return EffectiveView(
        common=tuple(common.items()),
        units=tuple(
            _unit(
                clean(unit, 300) or "(unnamed)",
                [arms[i] for i in members],
                [flat[i] for i in members],
                common,
            )
            for unit, members in by_unit.items()
        ),
        engines=len(arms),
    )


def _unit(
    unit: str, arms: list[EffectiveArm], flat: list[dict[str, str]], common: dict[str, str]
) -> UnitSettings:
    keys = dict.fromkeys(key for one in flat for key in one if key not in common)
    settings = []
    for key in keys:
        values = tuple(one.get(key, ABSENT) for one in flat)
        settings.append(Setting(key, values, len(set(values)) > 1))
    return UnitSettings(
        unit=unit,
        arms=tuple(f"{arm.arm} ({clean(arm.engine, 80)})" if arm.engine else arm.arm for arm in arms),
        starts=tuple(duration(arm.start_s) for arm in arms),
        settings=tuple(settings),
    )
