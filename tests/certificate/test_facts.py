"""Facts against what they have to be, and the control that they need."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from bi_harness.certificate.facts import facts_differ, facts_weakness
from bi_harness.certificate.records import Fact

RIGHT = Fact(name="kernel", found="Emulation", expected=("Emulation", "Cutlass"))
WRONG = RIGHT.model_copy(update={"found": "Marlin"})
TOLD = Fact(name="version", found="0.32.0")


def test_a_wrong_fact_is_named_with_what_it_has_to_be() -> None:
    assert facts_differ([RIGHT, TOLD]) == ""
    said = "1 of 2 facts are not as expected: kernel is Marlin, not Emulation or Cutlass"
    assert facts_differ([RIGHT.model_copy(update={"name": "other"}), WRONG, TOLD]) == said


def test_what_is_told_is_not_judged() -> None:
    assert (TOLD.judged, TOLD.wrong) == (False, False)
    assert facts_differ([TOLD]) == ""
    assert facts_weakness([TOLD], [TOLD]) == "no fact was judged"
    assert facts_weakness([], []) == "no fact was judged"


def test_the_control_must_have_other_facts() -> None:
    assert facts_weakness([RIGHT], [WRONG]) == ""
    same = facts_weakness([RIGHT], [RIGHT])
    assert same == "the control has the same facts, so that they tell nothing"
    # Another one that is right, too, tells no more.
    assert facts_weakness([RIGHT], [RIGHT.model_copy(update={"found": "Cutlass"})]) == same


def test_the_control_must_have_all_of_them() -> None:
    other = RIGHT.model_copy(update={"name": "other"})
    assert facts_weakness([RIGHT, other], [WRONG]) == "the control has no other"
    assert facts_weakness([RIGHT], []) == "the control of the facts did not run"
    assert facts_weakness([RIGHT, RIGHT], [WRONG]) == "a fact is there twice"


_facts = st.lists(
    st.builds(
        Fact,
        name=st.sampled_from("abcd"),
        found=st.sampled_from("xyz"),
        expected=st.lists(st.sampled_from("xyz"), max_size=2).map(tuple),
    ),
    max_size=5,
)


@given(_facts, _facts)
def test_right_facts_are_strong_exactly_when_the_control_has_a_wrong_one(
    facts: list[Fact], control: list[Fact]
) -> None:
    told = {fact.name: fact.found for fact in control}
    judged = [fact for fact in facts if fact.judged]
    strong = (
        bool(judged)
        and len({fact.name for fact in facts}) == len(facts)
        and all(fact.name in told for fact in judged)
        and any(told[fact.name] not in fact.expected for fact in judged)
    )
    assert (facts_weakness(facts, control) == "") == strong
    assert bool(facts_differ(facts)) == any(fact.wrong for fact in facts)
