"""Which unit an engine's name stands for."""

from __future__ import annotations

from bi_harness.certificate.by_unit import unit_names
from bi_harness.certificate.events import PlannedChecks
from tests.certificate.journals import started

SHARED = "cpu/m/CPU_ATTN/tp1-dp1/eager"


def test_a_unit_of_its_own_does_not_take_the_name_of_the_shared_one() -> None:
    plan = (
        PlannedChecks(cell=f"{SHARED}/core", unit=SHARED, checks=("one",)),
        PlannedChecks(cell=f"{SHARED}/online", unit=f"{SHARED}/online", checks=("two",)),
    )
    names = unit_names(started(*plan))
    assert names[SHARED] == names[f"{SHARED}/core"] == SHARED
    assert names[f"{SHARED}/online"] == f"{SHARED}/online"
