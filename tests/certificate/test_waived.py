"""Waived checks before ``verify`` and the gate."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from bi_harness.certificate import records
from bi_harness.certificate.build import build
from bi_harness.certificate.events import Event
from bi_harness.certificate.files import CERTIFICATE
from bi_harness.certificate.statement import Statement
from bi_harness.certificate.verify import Folder, examine
from bi_harness.cli.examined import recompute
from bi_harness.errors import UsageError
from tests.certificate.journals import JOURNAL, result, sound
from tests.certificate.policies import certificate, held, policy, run
from tests.certificate.runs import said
from tests.certificate.test_any_journal import journals

pytestmark = pytest.mark.skipif(not hasattr(records, "Waiver"), reason="this checkout has no waivers")


def waiver(expires: str = "2026-02-01", check: str = "alone", cell: str = "*") -> Any:
    made: Any = records.Waiver(  # type: ignore[attr-defined]
        cell=cell, check=check, reason="known", link="https://example.org/1", owner="me", expires=expires
    )
    return made


WITH_A_PASS = (result("fail"), result("pass", "spread"))


def test_a_waived_failure_is_met_only_where_waivers_are_allowed() -> None:
    one = certificate(sound(*WITH_A_PASS), waivers=(waiver(),))
    assert one.statement is not None
    assert one.statement.predicate.bi_harness.verdict == "CERTIFIED"
    assert [r.state for r in held(policy(), one).requirements] == ["failed"]
    assert held(policy(allow_waivers=True), one).passed
    later = held(policy(allow_waivers=True), one, later=timedelta(days=60))
    assert not later.passed
    assert "its waiver expired on 2026-02-01" in later.requirements[0].why[0]
    alone = certificate(sound(result("fail")), waivers=(waiver(),))
    assert not held(policy(allow_waivers=True), alone).passed, "a waived failure is no pass"


@pytest.mark.parametrize(
    ("events", "expires"),
    [
        (sound(*WITH_A_PASS), "2025-01-01"),
        (sound(result("pass")), "2026-02-01"),
        (sound(result("error")), "2026-02-01"),
    ],
    ids=["expired", "stale", "without an answer"],
)
def test_a_waiver_that_does_not_hold_meets_nothing(events: list[Event], expires: str) -> None:
    one = certificate(events, waivers=(waiver(expires),))
    assert not held(policy(allow_waivers=True), one).passed


@pytest.mark.parametrize(
    "change",
    [
        lambda told: told.pop("waivers"),
        lambda told: told["checks"][0].update(status="pass"),
        lambda told: told["checks"][0].update(status="fail"),
        lambda told: told["waivers"][0]["waiver"].update(expires="2027-01-01"),
        lambda told: told["waivers"][0].update(state="stale"),
        lambda told: told["checks"][0]["waiver"].update(owner="you"),
    ],
    ids=["none given", "as a pass", "as a failure", "prolonged", "stale", "another's"],
)
def test_forged_waivers(change: Callable[[dict[str, Any]], object]) -> None:
    honest = build(run(sound(*WITH_A_PASS), waivers=(waiver(),)), JOURNAL)
    data = json.loads(honest.to_json())
    change(data["predicate"]["bi_harness"])
    try:
        forged = Statement.model_validate(data).to_json().encode()
    except ValidationError:
        return
    folder = Folder("x", {CERTIFICATE: forged}, whole=False)
    assert not examine(folder, [], recompute()).genuine


@given(
    journals(),
    st.lists(
        st.builds(
            waiver,
            st.sampled_from(["2026-02-01", "2025-01-01"]),
            st.sampled_from(["alone", "spread"]),
            st.sampled_from(["*", "*/core", "nothing"]),
        ),
        max_size=3,
    ),
)
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_whatever_was_waived_the_certificate_is_consistent(events: list[Event], waivers: list[Any]) -> None:
    assume(events)
    start = events[0].model_copy(update={"waivers": tuple(waivers)})
    try:
        statement = build([start, *events[1:]], JOURNAL)
    except UsageError:
        return
    found = examine(Folder("x", {CERTIFICATE: statement.to_json().encode()}, whole=False), [], recompute())
    assert found.genuine, said(found)
