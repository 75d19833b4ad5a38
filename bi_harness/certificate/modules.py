"""The modules of a loaded model: from what was audited to facts, and what a pass of them needs. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from bi_harness.certificate.ops import PLANTED
from bi_harness.certificate.records import Fact, ModuleResult

HOLDS = "rows do not depend on the batch"
"""What is found of a module whose rows have the bits that they have alone."""
NOT_AUDITED = "not audited: "
"""How a module is told that could not be audited; why follows."""


def found(module: ModuleResult) -> str:
    """What was found, in words; ``HOLDS`` where nothing is wrong."""
    if module.missing:
        return f"{NOT_AUDITED}{module.missing}"
    if module.through:
        return f"audited through {module.through}"
    if module.unrepeatable:
        said = (
            f"not repeatable: {module.unrepeatable:,} of {module.alone:,} rows alone differ from themselves"
        )
        return f"{said}{_where(module)}"
    if not module.rows:
        return "nothing was compared"
    if module.differing or module.first is not None:
        first = module.first
        at = f" (place {first.place}, beside {first.beside})" if first is not None else ""
        amount = (
            f", {module.values:,} values, by up to {module.max_ulp:,} ULP" if module.how == "rows" else ""
        )
        return (
            f"differs from M = {first.rows if first is not None else 0}{at}: "
            f"{module.differing:,} of {module.rows:,} rows{amount}{_where(module)}"
        )
    if module.unequal:
        said = (
            f"not repeatable: {module.unequal:,} of {module.repeated:,} rows computed twice in a batch differ"
        )
        return f"{said}{_where(module)}"
    if module.changed:
        return f"calls change its {module.changed}{_where(module)}"
    if module.failing:
        return f"fails{_where(module)}"
    return HOLDS


def _where(module: ModuleResult) -> str:
    if not module.failing:
        return ""
    more = f" and {len(module.failing) - 1} more" if len(module.failing) > 1 else ""
    return f", in {module.failing[0]}{more} of {module.audited}"


def names(modules: Sequence[ModuleResult]) -> tuple[str, ...]:
    """Of their facts, in that order; each is there once."""
    base = [_name(module) for module in modules]
    counts = Counter(base)
    return tuple(
        f"{name} ({module.name})" if counts[name] > 1 else name
        for name, module in zip(base, modules, strict=True)
    )


def _name(module: ModuleResult) -> str:
    weights = " ".join(module.weights[:1])
    called = f" of {module.form}" if module.form else ""
    return f"{module.type}{f' {weights}' if weights else ''}{called}"


def facts(modules: Sequence[ModuleResult]) -> tuple[Fact, ...]:
    """Of each module type, judged where it was audited by itself."""
    made = []
    for name, module in zip(names(modules), modules, strict=True):
        judged = judged_of(module)
        made.append(
            Fact(
                name=name,
                found=found(module),
                expected=(HOLDS,) if judged else (),
                source=module.name if judged else "",
            )
        )
    return tuple(made)


def judged_of(module: ModuleResult) -> bool:
    """Whether something was found that is right or wrong."""
    return not module.missing and not module.through


def control_facts(
    modules: Sequence[ModuleResult], planted: Mapping[str, tuple[str, ModuleResult]]
) -> tuple[Fact, ...]:
    """The same with invariance off: where no row differs, of a planted difference, and says so.

    Args:
        planted: by the fact's name: what was planted, and what was then found.
    """
    made = []
    for name, module in zip(names(modules), modules, strict=True):
        told = found(module)
        if judged_of(module) and not module.differing:
            what, other = planted.get(name, ("", None))
            told = f"{PLANTED}{what}: {found(other)}" if other is not None and other.differing else HOLDS
        made.append(Fact(name=name, found=told))
    return tuple(made)


def modules_weakness(modules: Sequence[ModuleResult], facts_: Sequence[Fact], control: Sequence[Fact]) -> str:
    """Why modules that all read right would prove nothing; empty when they would, or there are none.

    Facts are what is judged, so each module's must say what was found; those with weights and the norms must
    all have been audited; each audited one must have been seen to differ in the control, by itself or by a
    planted difference, and one at least by itself.
    """
    if not modules:
        return ""
    told = {fact.name: fact for fact in facts_}
    if len(told) < len(facts_):
        return "a module's fact is there twice"
    elsewhere = {fact.name: fact.found for fact in control}
    for module, own in zip(modules, facts(modules), strict=True):
        if told.get(own.name) != own:
            return f"the fact of {own.name} is not what was found"
        if module.missing and (module.parameters or "norm" in module.type.lower()):
            who = f"{module.type} ({module.name})"
            return f"{who} has weights or is a norm, and was not audited: {module.missing}"
        if own.judged and elsewhere.get(own.name, HOLDS) == HOLDS:
            return f"nothing was seen to differ in the control of {own.name}"
    audited = {name for name, module in zip(names(modules), modules, strict=True) if judged_of(module)}
    if not audited:
        return "no module was audited"
    if not any(elsewhere[name].startswith("differs ") for name in audited):
        return "no module differs with invariance off, but by a planted difference"
    return ""
