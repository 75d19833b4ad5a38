"""A check's control in words, with and without a planted difference."""

from __future__ import annotations

from typing import get_args

from bi_harness.certificate.records import PlantedControl
from bi_harness.report.findings import PLANTED_WORDS, control_outcome, control_sentence
from bi_harness.workload.requests import Planted
from tests.compare.made import diverged


def test_every_kind_of_planted_difference_has_words() -> None:
    assert set(PLANTED_WORDS) == set(get_args(Planted))
    assert set(PLANTED_WORDS) == set(get_args(PlantedControl.model_fields["requests"].annotation))


def test_a_control_that_diverges_by_itself_has_its_figure_alone() -> None:
    assert control_outcome(diverged(8)) == "8 of 8"
    assert control_sentence(diverged(8)).endswith("differ, so the workload can tell.")
    assert control_sentence(diverged(0)).endswith("differ, so a pass would prove nothing.")


def test_a_planted_difference_is_named_with_the_controls_own_figure() -> None:
    planted = PlantedControl(requests="preempted", evidence=diverged(8))
    assert control_outcome(diverged(0), planted) == "0 of 8, planted 8 of 8"
    assert control_sentence(diverged(0), planted) == (
        "With invariance off, 0 of 8 prompts differ. With the lowest bit of each logprob flipped in requests "
        "that were preempted, the comparison sees 8 of 8 prompts differ."
    )
