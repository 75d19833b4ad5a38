"""What engines say of themselves, against what they have to say. Pure decisions.

The same rules as for bits: a wrong fact is a failure, and right ones are a pass only when there are some and
when the control, in which what is checked is switched off, has others. A table that reads the same either way
shows nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

from bi_harness.certificate.records import Fact


def facts_differ(facts: Sequence[Fact]) -> str:
    """One sentence on what is not as expected; empty when all is."""
    if not (found := [fact for fact in facts if fact.wrong]):
        return ""
    judged = sum(fact.judged for fact in facts)
    first = found[0]
    return (
        f"{len(found)} of {judged} facts are not as expected: {first.name} is {first.found}, "
        f"not {' or '.join(first.expected)}"
    )


def facts_weakness(facts: Sequence[Fact], control: Sequence[Fact]) -> str:
    """Why facts that are as expected would prove nothing; empty when they would.

    Args:
        control: facts of the same names; what is expected there is not looked at.
    """
    judged = {fact.name: fact for fact in facts if fact.judged}
    if not judged:
        return "no fact was judged"
    if len({fact.name for fact in facts}) < len(facts):
        return "a fact is there twice"
    elsewhere = {fact.name: fact.found for fact in control}
    if missing := judged.keys() - elsewhere.keys():
        return f"the control has no {min(missing)}" if elsewhere else "the control of the facts did not run"
    if all(elsewhere[name] in fact.expected for name, fact in judged.items()):
        return "the control has the same facts, so that they tell nothing"
    return ""
