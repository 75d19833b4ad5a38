"""Single operators: from what was measured to facts that are judged, and what a pass of them needs. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from bi_harness.certificate.records import Fact, OpResult

HOLDS = "invariant and right"
"""What is found of an operator whose rows have the bits that they have alone, and are near float64's."""


SKIP = "skip: "
"""How an operator is told that there is not."""
PLANTED = "planted: "
"""How a control is told in which stock operators do not differ by themselves, and one was made to."""


def planted_controls(control: Sequence[Fact]) -> int:
    """Of how many operators the control differs by a planted difference alone."""
    return sum(fact.found.startswith(PLANTED) for fact in control)


def name(op: OpResult) -> str:
    """Of its fact; each is there once in a check."""
    if op.missing:
        return f"{op.op} {op.dtype}"
    return f"{op.op} {op.dtype}, {'drawn shapes' if op.drawn else op.shape}"


def found(op: OpResult) -> str:
    """What was found, in words; ``HOLDS`` where nothing is wrong."""
    if op.missing:
        return f"{SKIP}{op.missing}"
    if not op.rows:
        return "nothing was compared"
    if op.differing or op.first is not None:
        at = f" (place {op.first.place}, beside {op.first.beside})" if op.first is not None else ""
        least = op.first.rows if op.first is not None else 0
        shape = f" at {op.shape}" if op.drawn else ""
        return (
            f"differs from M = {least}{shape}{at}: {op.differing:,} of {op.rows:,} {op.unit}, "
            f"by up to {op.max_ulp:,} ULP"
        )
    if op.unequal:
        return f"differs from itself: {op.unequal:,} of {op.repeated:,} rows computed twice"
    if not op.distance <= 1:
        return f"wrong: {op.distance:.3g} times as far from float64 as allowed ({op.bound})"
    return HOLDS


def fact(op: OpResult) -> Fact:
    """Of an operator, judged where it is to be."""
    judged = op.judged and not op.missing
    return Fact(
        name=name(op),
        found=found(op),
        expected=(HOLDS,) if judged else (),
        source=op.where if judged else "",
    )


def ops_weakness(ops: Sequence[OpResult], facts: Sequence[Fact], control: Sequence[Fact]) -> str:
    """Why operators that all read right would prove nothing; empty when they would, or there are none.

    Facts are what is judged, so each operator's must say what was measured; each judged operator must have
    been seen to differ in the control, by itself or by a planted difference; and one that is missing must be
    so in both arms.
    """
    told = {fact.name: fact for fact in facts}
    elsewhere = {fact.name: fact.found for fact in control}
    for op in ops:
        own = fact(op)
        if told.get(own.name) != own:
            return f"the fact of {own.name} is not what was measured"
        if own.judged and elsewhere.get(own.name, HOLDS) == HOLDS:
            return f"nothing was seen to differ in the control of {own.name}"
        if op.judged and op.missing and not elsewhere.get(own.name, "").startswith(SKIP):
            return f"{own.name} is missing, and is there with invariance off"
    return ""
