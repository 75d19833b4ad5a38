"""A certificate of a server that was running already says what was not verified, wherever it is read."""

from __future__ import annotations

import json
from typing import Any

import pytest

from bi_harness.certificate.build import build
from bi_harness.certificate.events import Event, RunStarted
from bi_harness.certificate.statement import EffectiveArm, EndpointScope, Scope, Statement
from tests.certificate.journals import JOURNAL, ready, result, sound

URL = "http://127.0.0.1:8000"
SAID = f"endpoint {URL}: invariance mode and configuration not verified by bi-harness"


def of_endpoint(events: list[Event], control: str | None = None) -> list[Event]:
    """The same journal, of a server that was running already."""
    start = events[0]
    assert isinstance(start, RunStarted)
    scope = start.scope.model_copy(update={"endpoint": EndpointScope(url=URL, control=control)})
    arm = EffectiveArm(
        unit=ready().arm.unit,
        arm="treatment",
        config={"endpoint": URL, "verified": False},
        start_s=0.1,
    )
    said = ready().model_copy(
        update={"arm": arm, "provenance": {"vllm": {"version": "0.32.0 (as the endpoint says)"}}}
    )
    own = ready("control").model_copy(update={"provenance": {"control": {"vllm": {"version": "0.32.0"}}}})
    return [start.model_copy(update={"scope": scope}), events[1], said, own, *events[4:]]


def built(events: list[Event]) -> Statement:
    return build(events, JOURNAL)


@pytest.mark.parametrize(
    ("status", "verdict"),
    [("pass", "CERTIFIED"), ("fail", "NOT_CERTIFIED"), ("error", "INCONCLUSIVE")],
)
def test_whatever_the_verdict_it_says_so(status: Any, verdict: str) -> None:
    found = built(of_endpoint(sound(result(status=status, reason="" if status == "pass" else "why"))))
    told = found.predicate.bi_harness
    assert told.verdict == verdict
    assert told.why.endswith(SAID)
    assert told.scope.endpoint == EndpointScope(url=URL)


def test_it_is_not_about_a_vllm_or_weights_that_nobody_looked_at() -> None:
    found = built(of_endpoint(sound()))
    assert [(s.name, s.uri, s.digest) for s in found.subject] == [(f"endpoint:{URL}", URL, {})]
    assert "checkpoints" not in found.predicate.bi_harness.provenance["digests"]


def test_the_control_may_be_somebody_elses_too() -> None:
    scope = built(of_endpoint(sound(), "http://h:1")).predicate.bi_harness.scope
    assert json.loads(scope.model_dump_json())["endpoint"] == {"url": URL, "control": "http://h:1"}


def test_a_certificate_of_our_own_engines_has_no_word_of_it() -> None:
    told = built(sound())
    assert '"endpoint"' not in told.to_json()
    assert Statement.model_validate_json(told.to_json()) == told
    assert Scope.model_validate_json(told.predicate.bi_harness.scope.model_dump_json()).endpoint is None


def test_an_engine_that_nobody_verified_is_not_certified_as_ours() -> None:
    events = of_endpoint(sound())
    start = events[0]
    assert isinstance(start, RunStarted)
    hidden = [
        start.model_copy(update={"scope": start.scope.model_copy(update={"endpoint": None})}),
        *events[1:],
    ]
    told = built(hidden).predicate.bi_harness
    assert told.verdict == "INCONCLUSIVE"
    assert "was not verified" in told.why
