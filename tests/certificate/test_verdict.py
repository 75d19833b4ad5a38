"""From statuses to a verdict and an exit code."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, get_args

import pytest

from bi_harness.certificate.records import (
    CheckResult,
    Evidence,
    Fact,
    PlantedControl,
    Status,
    Verdict,
)
from bi_harness.certificate.verdict import exit_code, totals, verdict, why_hollow
from bi_harness.exits import ExitCode
from tests.certificate.journals import DIVERGENCE, batches, evidence, result

STATUSES: tuple[Status, ...] = get_args(Status)


def of(status: Status, number: int) -> CheckResult:
    return result(status, f"check_{number}", rule="heads" if status == "skip" else None)


@pytest.mark.parametrize("complete", [True, False])
@pytest.mark.parametrize("size", [1, 2, 3])
def test_every_combination_of_statuses(size: int, complete: bool) -> None:
    for statuses in itertools.product(STATUSES, repeat=size):
        results = [of(status, number) for number, status in enumerate(statuses)]
        got, why = verdict(results, complete=complete)
        if "fail" in statuses:
            expected = "NOT_CERTIFIED"
        elif complete and "pass" in statuses and set(statuses) <= {"pass", "skip"}:
            expected = "CERTIFIED"
        else:
            expected = "INCONCLUSIVE"
        assert got == expected, (statuses, complete)
        assert why, "a verdict says what it rests on"


def test_nothing_is_not_a_pass() -> None:
    assert verdict([], complete=True) == ("INCONCLUSIVE", "no check ran")
    assert verdict([of("skip", 0), of("skip", 1)], complete=True) == ("INCONCLUSIVE", "no check ran")


def test_a_skip_that_no_rule_made_is_no_skip() -> None:
    got, _ = verdict([of("pass", 0), result("skip", "itself")], complete=True)
    assert got == "INCONCLUSIVE"


def test_the_sentence_names_the_first_reason() -> None:
    failed = [of("fail", 0), of("pass", 1), of("skip", 2)]
    assert verdict(failed, complete=True)[1] == "1 of 2 checks failed: bits depend on the batch"
    assert "the run did not come to its end" in verdict([of("pass", 0)], complete=False)[1]
    assert (
        "1 of 2 checks gave no answer: because error"
        in verdict([of("pass", 0), of("error", 1)], complete=True)[1]
    )


def test_a_failure_of_facts_alone_does_not_speak_of_bits() -> None:
    of_facts_alone = result("fail", "startup", facts=(OTHER,), evidence=evidence())
    said = verdict([of_facts_alone, of("pass", 1)], complete=True)[1]
    assert said.startswith("1 of 2 checks failed: 1 of 1 facts are not as expected: ")
    both = result("fail", "other", evidence=evidence(differing_prompts=1))
    assert verdict([of_facts_alone, both], complete=True)[1].endswith("bits depend on the batch")


HOLLOW: dict[str, dict[str, Any]] = {
    "no evidence": {"evidence": None},
    "prompts differ": {"evidence": evidence(differing_prompts=1)},
    "steps differ": {"evidence": evidence(differing_steps=1)},
    "values differ": {"evidence": evidence(differing_values=1)},
    "a first divergence": {"evidence": evidence(first_divergence=DIVERGENCE)},
    "no prompts": {"evidence": evidence(prompts=0)},
    "no steps": {"evidence": evidence(steps=0)},
    "no values": {"evidence": evidence(values=0)},
    "no arms": {"evidence": evidence(batches=())},
    "the reference arm alone": {"evidence": evidence(batches=batches((1, 1)))},
    "only single requests": {"evidence": evidence(batches=batches((1, 1), (1, 1)))},
    "a reference of two": {"evidence": evidence(batches=batches((1, 2), (2, 2)))},
    "a reference in batches": {"evidence": evidence(batches=batches((2, 2), (2, 2)))},
    "a batch that never formed": {"evidence": evidence(batches=batches((1, 1), (4, 3)))},
    "one of two batches never formed": {"evidence": evidence(batches=batches((1, 1), (2, 2), (4, 3)))},
    "no control": {"control": None},
    "a control that did not diverge": {"control": evidence(0)},
    "a control of other prompts": {"control": evidence(3, prompts=3)},
}


@pytest.mark.parametrize("changes", HOLLOW.values(), ids=HOLLOW.keys())
def test_a_hollow_pass_is_not_believed(changes: dict[str, Any]) -> None:
    hollow = result("pass", "hollow", **changes)
    assert why_hollow(hollow)
    for results in ([hollow], [of("pass", 0), hollow], [hollow, of("skip", 1)]):
        got, why = verdict(results, complete=True)
        assert got == "INCONCLUSIVE"
        assert "hollow" in why
        assert why_hollow(hollow) in why


def test_a_sound_pass_is_believed() -> None:
    assert why_hollow(result()) == ""


def test_a_failure_outweighs_a_hollow_pass_and_an_interruption() -> None:
    results = [result("pass", "hollow", evidence=None), of("fail", 1), of("error", 2)]
    assert verdict(results, complete=False)[0] == "NOT_CERTIFIED"


def test_the_control_may_diverge_wholly_or_in_one_prompt() -> None:
    for differing in (1, 4):
        assert verdict([result(control=evidence(differing))], complete=True)[0] == "CERTIFIED"


def test_totals_count_every_status() -> None:
    counted = totals([of(status, n) for n, status in enumerate(STATUSES) for _ in range(n + 1)])
    assert counted.model_dump() == {
        "passed": STATUSES.index("pass") + 1,
        "failed": STATUSES.index("fail") + 1,
        **{s: STATUSES.index(s) + 1 for s in ("inconclusive", "error", "skip", "waived")},
    }


@pytest.mark.parametrize(
    ("got", "interrupted", "code"),
    [
        ("CERTIFIED", False, ExitCode.CERTIFIED),
        ("CERTIFIED", True, ExitCode.INTERRUPTED),
        ("NOT_CERTIFIED", False, ExitCode.NOT_CERTIFIED),
        ("NOT_CERTIFIED", True, ExitCode.NOT_CERTIFIED),
        ("INCONCLUSIVE", False, ExitCode.INCONCLUSIVE),
        ("INCONCLUSIVE", True, ExitCode.INTERRUPTED),
    ],
)
def test_exit_codes(got: Verdict, interrupted: bool, code: ExitCode) -> None:
    assert exit_code(got, interrupted=interrupted) is code


def test_evidence_refuses_what_cannot_be() -> None:
    for wrong in (
        {"digest": "ab" * 32},
        {"digest": "sha256:" + "AB" * 32},
        {"upper95": 1.1},
        {"prompts": -1},
        {"max_abs": float("nan")},
        {"max_abs": float("inf")},
        {"surprise": 1},
    ):
        with pytest.raises(ValueError):
            Evidence(**{**evidence().model_dump(), **wrong})


KERNEL = Fact(name="kernel", found="Emulation", expected=("Emulation",))
OTHER = KERNEL.model_copy(update={"found": "Marlin"})


def of_facts(facts: Sequence[Fact], told: Sequence[Fact], **changes: Any) -> CheckResult:
    bare = {"evidence": None, "control": None}
    return result("pass", **{**bare, "facts": facts, "control_facts": told, **changes})


def test_facts_can_be_what_a_pass_rests_on() -> None:
    sound = of_facts([KERNEL], [OTHER])
    assert not why_hollow(sound)
    assert verdict([sound], complete=True)[0] == "CERTIFIED"


@pytest.mark.parametrize(
    ("facts", "control"), [([OTHER], [OTHER]), ([KERNEL], []), ([KERNEL], [KERNEL]), ([], [OTHER])]
)
def test_a_pass_on_facts_that_are_none_is_hollow(facts: list[Fact], control: list[Fact]) -> None:
    hollow = of_facts(facts, control)
    assert why_hollow(hollow)
    assert verdict([of("pass", 0), hollow], complete=True)[0] == "INCONCLUSIVE"


def test_of_bits_and_facts_both_must_hold() -> None:
    bits = {"evidence": evidence(), "control": evidence(3)}
    assert why_hollow(of_facts([KERNEL], [OTHER], **bits)) == ""
    assert why_hollow(of_facts([KERNEL], [KERNEL], **bits))
    assert why_hollow(of_facts([KERNEL], [OTHER], **{**bits, "control": evidence(0)}))


def test_a_control_with_a_planted_difference_is_named() -> None:
    control = evidence(0)
    hollow = of("pass", 1).model_copy(update={"control": control})
    assert "diverged in 0" in why_hollow(hollow)
    planted = PlantedControl(requests="together", evidence=evidence(3))
    sound = hollow.model_copy(update={"planted_control": planted})
    assert not why_hollow(sound)
    got, why = verdict([sound, of("pass", 2)], complete=True)
    assert got == "CERTIFIED"
    assert why.endswith("with invariance off (1 of them by a difference that was planted in it)")
    unseen = planted.model_copy(update={"evidence": evidence(0)})
    assert why_hollow(hollow.model_copy(update={"planted_control": unseen}))


def test_results_without_a_planted_difference_are_what_they_were() -> None:
    assert "planted_control" not in of("pass", 1).model_dump(mode="json")
