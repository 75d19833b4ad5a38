"""What a journal and a certificate tell of where failures begin, and that nothing follows from it."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from bi_harness.certificate.build import build
from bi_harness.certificate.events import EVENTS, Event, Localized
from bi_harness.certificate.localized import Cost, Localization, ModuleState, TensorDifference, UlpBand
from bi_harness.certificate.statement import Statement
from bi_harness.certificate.verify import Findings, consistent
from bi_harness.errors import UsageError
from tests.certificate.journals import CELL, JOURNAL, TIME, ended, finished, ready, result, sound, started

TOLD = Localization(
    class_name="RMSNorm",
    cell=CELL,
    check="alone",
    outcome="module",
    module="model.layers.0.input_layernorm",
    eager=True,
    step=0,
    position=3,
    outputs=(
        TensorDifference(
            path="0",
            dtype="bfloat16",
            shape_alone=(40, 64),
            shape_batch=(256, 64),
            rows=40,
            values=2560,
            differing_rows=3,
            differing_values=5,
            max_ulp=1,
            ulps=(UlpBand(first=1, last=1, values=5),),
        ),
    ),
    modules=(
        ModuleState(name="(model)", class_name="Tiny", state="differs"),
        ModuleState(name="model.layers.0.input_layernorm", class_name="RMSNorm", state="culprit"),
    ),
    cost=Cost(seconds=40.5, starts=1),
)


def journal(*told: Localization, status: Any = "fail") -> list[Event]:
    *events, last = sound(result(status))
    return [*events, *(Localized(time=TIME, localization=one) for one in told), last]


def of(*told: Localization) -> Statement:
    return build(journal(*told), JOURNAL)


def test_the_certificate_carries_it_and_the_verdict_is_the_same() -> None:
    with_it, without = of(TOLD), of()
    ours = with_it.predicate.bi_harness
    assert ours.localized == (TOLD,)
    assert (ours.verdict, ours.why) == (
        without.predicate.bi_harness.verdict,
        without.predicate.bi_harness.why,
    )
    other = with_it.model_dump()
    del other["predicate"]["bi_harness"]["localized"]
    assert other == without.model_dump()


@pytest.mark.parametrize("outcome", ["module", "elsewhere", "not_reproduced", "failed"])
def test_no_outcome_makes_a_failure_anything_else(outcome: Any) -> None:
    ours = of(TOLD.model_copy(update={"outcome": outcome})).predicate.bi_harness
    assert ours.verdict == "NOT_CERTIFIED"
    assert ours.checks[0].status == "fail"


def test_certificates_without_it_are_spelled_as_they_always_were() -> None:
    assert "localized" not in of().to_json()
    assert Statement.model_validate_json(of().to_json()) == of()


def test_it_goes_to_json_and_back() -> None:
    statement = of(TOLD)
    assert Statement.model_validate_json(statement.to_json(), strict=True) == statement
    event = journal(TOLD)[-2]
    assert EVENTS.validate_json(event.model_dump_json()) == event
    assert '"class_name": "RMSNorm"' in statement.to_json()


def test_it_is_consistent() -> None:
    found = Findings()
    consistent(of(TOLD), found)
    assert [f.what for f in found if f.level == "problem"] == []


@pytest.mark.parametrize("status", ["pass", "inconclusive", "error"])
def test_what_did_not_fail_is_not_localized(status: Any) -> None:
    with pytest.raises(UsageError, match="had not failed"):
        build(journal(TOLD, status=status), JOURNAL)


def test_what_was_not_planned_is_not_localized() -> None:
    with pytest.raises(UsageError, match="had not failed"):
        of(TOLD.model_copy(update={"check": "another"}))


def test_a_failure_is_localized_once() -> None:
    with pytest.raises(UsageError, match="twice"):
        of(TOLD, TOLD.model_copy(update={"module": "lm_head"}))


def test_nothing_is_localized_after_the_end() -> None:
    events = [*sound(result("fail")), Localized(time=TIME, localization=TOLD)]
    with pytest.raises(UsageError, match="after run_finished"):
        build(events, JOURNAL)


def test_it_comes_after_its_result() -> None:
    events = [started(), ready(), Localized(time=TIME, localization=TOLD), finished(result("fail")), ended()]
    with pytest.raises(UsageError, match="had not failed"):
        build(events, JOURNAL)


def test_a_state_that_there_is_not_is_refused() -> None:
    with pytest.raises(ValidationError):
        ModuleState(name="x", class_name="Y", state="fine")
