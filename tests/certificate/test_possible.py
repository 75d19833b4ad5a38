"""Evidence that no comparison can give is refused, and evidence of every comparison is not."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bi_harness.certificate.build import build
from bi_harness.certificate.files import CERTIFICATE
from bi_harness.certificate.localized import Localization, TensorDifference, UlpBand
from bi_harness.certificate.possible import MAX_ABS, MAX_ULP, impossible_evidence
from bi_harness.certificate.records import (
    BatchReached,
    CheckResult,
    Evidence,
    ModuleResult,
    OpDifference,
    OpRange,
    OpResult,
    PlantedControl,
)
from bi_harness.certificate.statement import Power
from bi_harness.certificate.verify import Folder, examine
from bi_harness.cli.examined import recompute
from bi_harness.compare.evidence import Arm, gather
from bi_harness.compare.observations import Observations
from bi_harness.errors import UsageError
from bi_harness.runner.journal import JOURNAL as JOURNAL_NAME
from bi_harness.runner.journal import read
from tests.certificate.journals import (
    DIVERGENCE,
    JOURNAL,
    batches,
    evidence,
    finished,
    nothing_compared,
    result,
    sound,
    started,
)
from tests.compare.made import any_pair, changed, observations, reached
from tests.kept import kept_run, kept_runs

ALONE, TOGETHER = evidence().batches


def first(**changes: Any) -> dict[str, Any]:
    return {"first_divergence": DIVERGENCE.model_copy(update=changes)}


EQUAL: dict[str, dict[str, Any]] = {
    "more differing prompts than prompts": {"differing_prompts": 5, "differing_steps": 5},
    "a differing prompt without a differing step": {"differing_prompts": 1},
    "a differing step without a differing prompt": {"differing_steps": 1},
    "a differing value without a differing step": {"differing_values": 1},
    "steps without values": {"values": 0},
    "fewer values than steps": {"values": 15},
    "values without steps": {"steps": 0},
    "prompts without steps and values, and values": {"prompts": 0},
    "no batch": {"batches": ()},
    "the reference alone": {"batches": (ALONE,)},
    "a reference of other prompts": {"batches": (ALONE.model_copy(update={"prompts": 5}), TOGETHER)},
    "an arm of fewer prompts": {"batches": (ALONE, TOGETHER.model_copy(update={"prompts": 3}))},
    "tokens in no step": {"batches": (ALONE, TOGETHER.model_copy(update={"steps": 0}))},
    "a first divergence, and no difference": {"first_divergence": DIVERGENCE},
    "a distance without a difference": {"max_ulp": 1},
    "an absolute distance without a difference": {"max_abs": 0.5},
    "a negative distance": {"max_abs": -1.0},
    "a lower bound": {"upper95": 0.1},
    "a bound of 0": {"upper95": 0.0},
    "a bound of 1": {"upper95": 1.0},
    "a bound of other counts": {"steps": 15, "upper95": evidence().upper95},
}
DIFFERENT: dict[str, dict[str, Any]] = {
    "no first divergence": {"first_divergence": None},
    "more differing values than values": {"differing_values": 97},
    "more differing steps than there are": {"differing_steps": 19},
    "more differing prompts than differing steps": {"differing_steps": 1},
    "a prompt that is not there": first(prompt=4),
    "a step that is not there": first(step=16),
    "a column that is not there": first(rank=96),
    "an arm that is not there": first(arm=2),
    "the reference arm": first(arm=0),
    "the batch size of another arm": first(arm=1, batch_size=3),
    "a batch size that no arm has": first(batch_size=3),
    "equal bits": first(observed_bits=DIVERGENCE.reference_bits, observed_logprob=-1.0, ulp=0),
    "a logprob of other bits": first(observed_logprob=-1.5),
    "no logprob of finite bits": first(observed_logprob=None),
    "a logprob of bits that are not finite": first(observed_bits="0xff800000"),
    "another distance": first(ulp=2),
    "no distance": first(ulp=0),
    "a larger distance than the largest": {"max_ulp": 0},
    "a larger absolute distance than the largest": {"max_abs": 0.0},
    "a distance beyond float32": {"max_ulp": MAX_ULP + 1},
    "an absolute distance beyond float32": {"max_abs": 1e39},
    "a logprob that differs, and no differing value": {"differing_values": 0, "max_ulp": 0, "max_abs": 0.0},
}
IMPOSSIBLE = {
    **{name: evidence(**changes) for name, changes in EQUAL.items()},
    **{name: evidence(2, **changes) for name, changes in DIFFERENT.items()},
}


@pytest.mark.parametrize("what", IMPOSSIBLE.values(), ids=IMPOSSIBLE.keys())
@pytest.mark.parametrize("place", ["evidence", "control", "planted"])
def test_impossible_evidence_is_refused_wherever_it_is(what: Evidence, place: str) -> None:
    if place == "planted":
        given: dict[str, Any] = {"planted_control": PlantedControl(requests="together", evidence=what)}
    else:
        given = {place: what}
    for status in ("pass", "fail", "inconclusive"):
        with pytest.raises(UsageError, match="impossible evidence of alone on cpu/"):
            build(sound(result(status, **given)), JOURNAL)


@pytest.mark.parametrize("what", IMPOSSIBLE.values(), ids=IMPOSSIBLE.keys())
def test_a_certificate_with_impossible_evidence_is_not_genuine(what: Evidence) -> None:
    honest = build(sound(result("fail"), result(check="other")), JOURNAL)
    ours = honest.predicate.bi_harness
    checks = (ours.checks[0].model_copy(update={"evidence": what}), *ours.checks[1:])
    predicate = honest.predicate.model_copy(update={"bi_harness": ours.model_copy(update={"checks": checks})})
    data = honest.model_copy(update={"predicate": predicate}).to_json().encode()
    found = examine(Folder("x", {CERTIFICATE: data}, whole=False), [], recompute())
    assert not found.genuine
    assert any("impossible evidence" in problem.what for problem in found.problems)


def test_evidence_that_a_comparison_can_give() -> None:
    for one in (
        evidence(),
        evidence(2),
        nothing_compared(),
        evidence(4, differing_steps=16, differing_values=96),
        # All differing values may be of other tokens, which have no distance.
        evidence(2, max_ulp=0, max_abs=0.0, **first(observed_token=6, ulp=0)),
        # A distance between -0.0 and 0.0, or to a NaN, is not an absolute one.
        evidence(
            2,
            max_abs=0.0,
            **first(
                observed_bits="0x80000000",
                observed_logprob=-0.0,
                reference_bits="0x00000000",
                reference_logprob=0.0,
            ),
        ),
        # An endpoint has no step log.
        evidence(
            batches=tuple(
                BatchReached(batch_size=size, prompts=4, steps=0, max_requests=most, max_tokens=0)
                for size, most in ((1, 1), (8, 64))
            )
        ),
        # Tokens differ before a logprob does, and a request ends early.
        evidence(1, differing_values=0, max_ulp=0, max_abs=0.0, **first(rank=-1, ulp=0)),
        evidence(batches=batches((1, 1), (64, 64))),
    ):
        assert impossible_evidence(one) == ""


@settings(max_examples=200, deadline=None)
@given(st.lists(any_pair(), min_size=1, max_size=1), st.integers(1, 2))
def test_whatever_is_compared_gives_possible_evidence(
    pairs: list[tuple[Observations, Observations]], arms: int
) -> None:
    ((one, other),) = pairs
    # As engines give them: the first column is of the sampled token.
    one, other = (with_sampled_column(made) for made in (one, other))

    def arm(made: Observations, size: int) -> Arm:
        return Arm(made, reached(size, prompts=made.requests))

    found = gather(arm(one, 1), [arm(other, 2 + i) for i in range(arms)], [9] * one.requests)
    again = Evidence.model_validate_json(found.model_dump_json(), strict=True)
    assert impossible_evidence(again) == ""


def with_sampled_column(made: Observations) -> Observations:
    ids = made.ids.copy()
    ids[:, :, 0] = made.tokens
    return changed(made, ids=ids)


def test_a_request_that_ends_early_in_every_arm() -> None:
    whole, short = observations(2, 4), observations(2, 4, lengths=[0, 0])
    arms = [Arm(changed(short), reached(size, prompts=2)) for size in (2, 3)]
    found = gather(Arm(whole, reached(1, prompts=2)), arms, [9, 9])
    assert (found.steps, found.differing_steps) == (0, 4)
    assert impossible_evidence(found) == ""


def test_bounds_of_float32() -> None:
    assert np.float32(MAX_ABS / 2) == np.finfo(np.float32).max
    assert MAX_ULP == 2**32 - 1
    assert math.isfinite(MAX_ABS)


def op(**changes: Any) -> OpResult:
    return OpResult(
        **{"op": "o", "dtype": "bfloat16", "judged": False, "promised": False, "rows": 8, **changes}
    )


def module(**changes: Any) -> ModuleResult:
    base = {"type": "Linear", "name": "m", "parameters": 1, "instances": 1, "audited": 1, "rows": 8}
    return ModuleResult(**{**base, **changes})


FIRST = OpDifference(rows=2, place=0, beside="random")
RISING = (OpRange(first=1, last=4, holds=True), OpRange(first=5, last=9, holds=False))
PARTS: dict[str, dict[str, Any]] = {
    "more differing rows than rows": {"differing": 9, "first": FIRST},
    "a difference without a first one": {"differing": 1},
    "a first difference without one": {"first": FIRST},
    "more unequal repeats than repeats": {"repeated": 1, "unequal": 2},
    "a range that ends before it begins": {"ranges": (OpRange(first=4, last=2, holds=True),)},
    "ranges that overlap": {"ranges": RISING[::-1]},
}


@pytest.mark.parametrize("changes", PARTS.values(), ids=PARTS.keys())
@pytest.mark.parametrize("kind", ["ops", "modules"])
def test_impossible_operators_and_modules_are_refused(kind: str, changes: dict[str, Any]) -> None:
    make: Any = {"ops": op, "modules": module}[kind]
    with pytest.raises(UsageError, match=r"impossible evidence of alone on cpu/.*: (operator o|module m): "):
        build(sound(result("error", **{kind: (make(**changes),)})), JOURNAL)
    sane = make(differing=8, first=FIRST, repeated=2, unequal=2, ranges=RISING)
    assert build(sound(result("error", **{kind: (sane,)})), JOURNAL)


def test_more_unrepeatable_rows_than_rows_alone() -> None:
    with pytest.raises(UsageError, match="2 unrepeatable rows of 1 rows alone"):
        build(sound(result("error", modules=(module(alone=1, unrepeatable=2),))), JOURNAL)


TENSOR: dict[str, Any] = {
    "path": "0",
    "dtype": "bfloat16",
    "shape_alone": (1, 8),
    "shape_batch": (4, 8),
    "rows": 1,
    "values": 8,
    "differing_rows": 1,
    "differing_values": 8,
}


@pytest.mark.parametrize(
    "changes",
    [{"differing_rows": 2}, {"differing_values": 9}, {"ulps": (UlpBand(first=2, last=1, values=1),)}],
)
def test_impossible_localizations_are_refused(changes: dict[str, Any]) -> None:
    from bi_harness.certificate.events import Localized

    def told(**more: Any) -> list[Any]:
        failed = result("fail")
        outputs = (TensorDifference(**{**TENSOR, **more}),)
        where = Localization(cell=failed.cell, check=failed.check, outcome="module", outputs=outputs)
        events = sound(failed)
        return [*events[:-1], Localized(time=started().time, localization=where), events[-1]]

    assert build(told(), JOURNAL)
    with pytest.raises(UsageError, match=r"localizes alone on cpu/.* with impossible evidence: "):
        build(told(**changes), JOURNAL)


@pytest.mark.parametrize(("caught", "alarms"), [(3, 0), (0, 2)])
def test_impossible_selftests_are_refused(caught: int, alarms: int) -> None:
    power = Power(
        suite="core",
        faults=2,
        caught=caught,
        clean_runs=1,
        false_alarms=alarms,
        device="cpu",
        vllm="0.32.0",
        measured="2026-01-01T00:00:00Z",
        current=True,
    )
    with pytest.raises(UsageError, match="impossible self-test of core"):
        build([started(power=(power,)), *sound()[1:]], JOURNAL)


def test_a_result_that_ran_again_must_be_possible_too() -> None:
    bad = CheckResult(cell="x", check="y", status="error", evidence=evidence(differing_prompts=9))
    with pytest.raises(UsageError, match="impossible evidence of y on x"):
        build([*sound()[:-2], finished(bad), *sound()[-2:]], JOURNAL)


@pytest.mark.parametrize("name", kept_runs())
def test_kept_runs_are_possible_and_give_their_certificates(name: str) -> None:
    folder = kept_run(name)
    text = build(*read(folder / JOURNAL_NAME, progress=False)).to_json()
    assert text == (folder / CERTIFICATE).read_text()
