"""What changed between two certificates. Pure: the same two give the same answer, and a swap mirrors it.

Nothing here is a verdict. Texts are the certificates' own and nobody has vetted them: whoever shows them
cleans them first (``bi_harness.report.text``).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal, TypeVar

from bi_harness.certificate.records import CheckResult, Divergence, Evidence, Record, Status, Verdict
from bi_harness.certificate.statement import EffectiveArm, Statement

Kind = Literal["regression", "gone", "changed", "new", "fixed"]
"""``regression``: passed before and does not now; ``fixed``: the other way round; ``changed``: another
status, and a pass in neither; ``new``, ``gone``: in one of the two alone."""

KINDS: tuple[Kind, ...] = ("regression", "gone", "changed", "new", "fixed")

Arm = Literal["treatment", "reference", "control", "control reference"]
"""``reference``: each request alone; ``treatment``: the batches; ``control``: with invariance off."""

_K = TypeVar("_K")
_V = TypeVar("_V")

Route = tuple[str, ...]


class ValueChange(Record):
    """One value. ``None`` stands for a value that is not there; ``null`` in JSON is the text ``null``.

    Attributes:
        path: the keys down to it; a place in a list is its number, from 0.
    """

    path: tuple[str, ...]
    before: str | None
    after: str | None


class CheckChange(Record):
    """A check whose status changed, or that is in one of the two alone."""

    kind: Kind
    cell: str
    check: str
    before: Status | None
    after: Status | None
    before_reason: str = ""
    after_reason: str = ""


class DigestChange(Record):
    """The exact bits of one arm of a check that is in both.

    Attributes:
        both_pass: whether the check passed in both, so that each is right by itself.
    """

    cell: str
    check: str
    arm: Arm
    before: str | None
    after: str | None
    both_pass: bool


class DivergenceChange(Record):
    """The first place where bits differ within a check; ``None`` where none does."""

    cell: str
    check: str
    before: Divergence | None
    after: Divergence | None


class FigureChange(Record):
    """Something that gives a check its power, or what an engine said of itself in it.

    Attributes:
        name: ``prompts``, ``steps`` or ``values`` compared, ``control differing prompts``, a fact's name, ...
    """

    cell: str
    check: str
    name: str
    before: str | None
    after: str | None


class SettingChange(Record):
    """A value of the effective configuration, and the engines in which it changed.

    Attributes:
        engines: ``unit arm engine``.
        path, before, after: see ``ValueChange``; of an engine that is in one certificate alone, that it ran.
    """

    engines: tuple[str, ...]
    path: tuple[str, ...]
    before: str | None
    after: str | None


class Side(Record):
    """One of the certificates, in short."""

    name: str
    run_id: str
    device: str
    vllm: str
    verdict: Verdict
    result: str
    why: str
    started: str
    finished: str | None


class Difference(Record):
    """Everything that changed.

    Attributes:
        before, after: the two.
        verdict: the verdict, the in-toto result, whether the run was interrupted, and checks across sizes.
        checks: regressions first.
        digests: exact bits; those of the control are no promise.
        divergences: the first divergence within a check.
        figures: what was compared, how far the control diverged, and facts.
        settings: the effective configuration.
        environment: device, host, scope, versions, digests, the command, waivers.
    """

    before: Side
    after: Side
    verdict: tuple[ValueChange, ...]
    checks: tuple[CheckChange, ...]
    digests: tuple[DigestChange, ...]
    divergences: tuple[DivergenceChange, ...]
    figures: tuple[FigureChange, ...]
    settings: tuple[SettingChange, ...]
    environment: tuple[ValueChange, ...]

    @property
    def matters(self) -> bool:
        """Whether the two say different things: another verdict, another status of a check, or other bits
        with invariance on. Where, with what and how fast they came by it does not count."""
        promised = [d for d in self.digests if d.arm in ("treatment", "reference")]
        return bool(self.verdict or self.checks or promised or self.divergences)

    @property
    def empty(self) -> bool:
        """Whether nothing at all changed (but for the time it took)."""
        return not (self.matters or self.digests or self.figures or self.settings or self.environment)


def compare_certificates(
    before: Statement, after: Statement, names: tuple[str, str] = ("", "")
) -> Difference:
    """What changed from one certificate to the other.

    Args:
        names: what the reader calls them.
    """
    checks = _paired(_checks(before), _checks(after))
    return Difference(
        before=_side(before, names[0]),
        after=_side(after, names[1]),
        verdict=value_changes(_verdict_values(before), _verdict_values(after)),
        checks=_check_changes(checks),
        digests=tuple(_digest_changes(checks)),
        divergences=tuple(_divergence_changes(checks)),
        figures=tuple(_figure_changes(checks)),
        settings=_setting_changes(before, after),
        environment=environment_changes(before, after),
    )


def environment_changes(before: Statement, after: Statement) -> tuple[ValueChange, ...]:
    """What the two ran on, with what, and what was asked for; without what is another in every run."""
    return value_changes(environment_values(before), environment_values(after))


def vllm_of(statement: Statement) -> str:
    """vLLM's version; empty where the certificate does not tell."""
    told = statement.predicate.bi_harness.provenance.get("vllm")
    version = told.get("version") if isinstance(told, Mapping) else told
    return version if isinstance(version, str) else ""


def device_of(statement: Statement) -> str:
    """The device's id; empty where the certificate does not tell."""
    device = statement.predicate.bi_harness.device.get("id")
    return device if isinstance(device, str) else ""


def _side(statement: Statement, name: str) -> Side:
    result = statement.predicate.bi_harness
    return Side(
        name=name,
        run_id=result.run_id,
        device=device_of(statement),
        vllm=vllm_of(statement),
        verdict=result.verdict,
        result=statement.predicate.result,
        why=result.why,
        started=result.started,
        finished=result.finished,
    )


def _verdict_values(statement: Statement) -> dict[Route, str]:
    result = statement.predicate.bi_harness
    found: dict[Route, str] = {
        ("verdict",): result.verdict,
        ("result",): statement.predicate.result,
        ("interrupted",): _text(result.interrupted),
    }
    axes = _numbered(result.axes, lambda axis: (axis.name, axis.check, *axis.cells))
    for (name, check, low, high, nth), axis in axes.items():
        again = (f"#{nth + 1}",) if nth else ()
        found["axes", name, check, low, high, *again, "equal"] = _text(axis.equal)
    return found


Key = tuple[str, str, int]
Pairs = Sequence[tuple[Key, CheckResult | None, CheckResult | None]]


def _checks(statement: Statement) -> dict[Key, CheckResult]:
    """By cell, check and how many of that name came before: one cannot hide behind another."""
    return _numbered(statement.predicate.bi_harness.checks, lambda check: (check.cell, check.check))


def _numbered(items: Sequence[_V], key: Callable[[_V], tuple[str, ...]]) -> dict[Any, _V]:
    seen: dict[tuple[str, ...], int] = {}
    found = {}
    for item in items:
        name = key(item)
        seen[name] = seen.get(name, -1) + 1
        found[(*name, seen[name])] = item
    return found


def _paired(before: Mapping[_K, _V], after: Mapping[_K, _V]) -> list[tuple[_K, _V | None, _V | None]]:
    """By key, sorted, so that the order in which a certificate lists things changes nothing."""
    keys = sorted(before.keys() | after.keys())  # type: ignore[type-var]
    return [(key, before.get(key), after.get(key)) for key in keys]


def _check_changes(pairs: Pairs) -> tuple[CheckChange, ...]:
    found = []
    for (cell, name, _), old, new in pairs:
        before, after = old.status if old else None, new.status if new else None
        if before != after:
            found.append(
                CheckChange(
                    kind=_kind(before, after),
                    cell=cell,
                    check=name,
                    before=before,
                    after=after,
                    before_reason=old.reason if old else "",
                    after_reason=new.reason if new else "",
                )
            )
    found.sort(key=lambda change: KINDS.index(change.kind))
    return tuple(found)


def _kind(before: Status | None, after: Status | None) -> Kind:
    if before is None:
        return "new"
    if after is None:
        return "gone"
    if before == "pass":
        return "regression"
    return "fixed" if after == "pass" else "changed"


def _digest_changes(pairs: Pairs) -> Iterator[DigestChange]:
    for (cell, name, _), old, new in pairs:
        if old is None or new is None:
            continue
        one, other = _digests(old), _digests(new)
        both_pass = old.status == new.status == "pass"
        for arm in one:
            if one[arm] != other[arm]:
                yield DigestChange(
                    cell=cell, check=name, arm=arm, before=one[arm], after=other[arm], both_pass=both_pass
                )


def _digests(check: CheckResult) -> dict[Arm, str | None]:
    told, control = check.evidence, check.control
    return {
        "treatment": told.digest if told else None,
        "reference": told.reference_digest if told else None,
        "control": control.digest if control else None,
        "control reference": control.reference_digest if control else None,
    }


def _divergence_changes(pairs: Pairs) -> Iterator[DivergenceChange]:
    for (cell, name, _), old, new in pairs:
        if old is None or new is None:
            continue
        before = old.evidence.first_divergence if old.evidence else None
        after = new.evidence.first_divergence if new.evidence else None
        if before != after:
            yield DivergenceChange(cell=cell, check=name, before=before, after=after)


def _figure_changes(pairs: Pairs) -> Iterator[FigureChange]:
    for (cell, name, _), old, new in pairs:
        if old is None or new is None:
            continue
        for (figure, _), before, after in _paired(_figures(old), _figures(new)):
            if before != after:
                yield FigureChange(cell=cell, check=name, name=figure, before=before, after=after)


def _figures(check: CheckResult) -> dict[tuple[str, int], str]:
    found: dict[tuple[str, int], str] = {}
    for prefix, evidence in (
        ("", check.evidence),
        ("control ", check.control),
        ("planted control ", check.planted_evidence),
    ):
        if evidence is not None:
            found |= {(f"{prefix}{name}", -1): value for name, value in _counts(evidence).items()}
    for prefix, facts in (("fact ", check.facts), ("control fact ", check.control_facts)):
        # What is told and not judged (times, sizes of caches) is another in every run.
        judged = [fact for fact in facts if fact.judged]
        found |= {
            (f"{prefix}{key[0]}", key[1]): fact.found
            for key, fact in _numbered(judged, lambda fact: (fact.name,)).items()
        }
    return found


def _counts(evidence: Evidence) -> dict[str, str]:
    return {
        "prompts": _text(evidence.prompts),
        "steps": _text(evidence.steps),
        "values": _text(evidence.values),
        "differing prompts": _text(evidence.differing_prompts),
        "differing steps": _text(evidence.differing_steps),
        "differing values": _text(evidence.differing_values),
    }


def _setting_changes(before: Statement, after: Statement) -> tuple[SettingChange, ...]:
    """Changes that are the same in several engines are told once."""
    found: dict[tuple[Route, str | None, str | None], list[str]] = {}
    for (unit, arm, engine, nth), old, new in _paired(_arms(before), _arms(after)):
        words = [unit, arm, *([engine] if engine else []), *([f"#{nth + 1}"] if nth else [])]
        both = old is not None and new is not None
        for change in value_changes(_config(old, both), _config(new, both)):
            key = (change.path, change.before, change.after)
            found.setdefault(key, []).append(" ".join(words))
    order = sorted(found, key=lambda key: (key[0], key[1] or "", key[2] or "", found[key]))
    return tuple(
        SettingChange(engines=tuple(found[key]), path=key[0], before=key[1], after=key[2]) for key in order
    )


def _arms(statement: Statement) -> dict[tuple[str, str, str, int], EffectiveArm]:
    return _numbered(statement.predicate.bi_harness.effective, lambda arm: (arm.unit, arm.arm, arm.engine))


def _config(arm: EffectiveArm | None, both: bool) -> dict[Route, str]:
    if arm is None:
        return {}
    return dict(_leaves(arm.config, ("config",))) if both else {("engine",): "ran"}


def _of_the_run(path: Route) -> bool:
    """Whether it is another one in every run, whatever ran."""
    return path == ("provenance", "digests", "journal") or path[-1] == "memory_used_gib"


def environment_values(statement: Statement) -> dict[Route, str]:
    """Every value that ``environment_changes`` compares, by the keys down to it."""
    result = statement.predicate.bi_harness
    found = {
        **dict(_leaves(result.provenance, ("provenance",))),
        **dict(_leaves(result.device, ("device",))),
        **dict(_leaves(result.scope.model_dump(mode="json"), ("scope",))),
    }
    for use in result.waivers:
        route = ("waivers", use.waiver.cell, use.waiver.check)
        told = {**use.waiver.model_dump(exclude={"cell", "check"}), "state": use.state}
        found |= {(*route, name): value for name, value in told.items()}
    for item in statement.subject:
        for kind, value in item.digest.items():
            found[("subject", item.name, kind)] = value
    return {path: value for path, value in found.items() if not _of_the_run(path)}


def value_changes(before: Mapping[Route, str], after: Mapping[Route, str]) -> tuple[ValueChange, ...]:
    """The values that are not the same in both, by path."""
    return tuple(
        ValueChange(path=path, before=old, after=new)
        for path, old, new in _paired(before, after)
        if old != new
    )


def _leaves(value: object, path: Route) -> Iterator[tuple[Route, str]]:
    """Every value below, as text. A list of plain values (a command, a set of flags) is one value."""
    if isinstance(value, Mapping) and value:
        for key, item in value.items():
            yield from _leaves(item, (*path, str(key)))
    elif isinstance(value, list | tuple) and any(isinstance(item, Mapping | list | tuple) for item in value):
        for index, item in enumerate(value):
            yield from _leaves(item, (*path, str(index)))
    else:
        yield path, _text(value)


def _text(value: object) -> str:
    """A text as it is; anything else as JSON."""
    if isinstance(value, str):
        return value
    if isinstance(value, int) and not isinstance(value, bool) and value.bit_length() > 10_000:
        return hex(value)  # Python refuses more than 4,300 decimal digits
    if isinstance(value, list | tuple):
        return f"[{', '.join(json.dumps(v) if isinstance(v, str) else _text(v) for v in value)}]"
    return json.dumps(value, sort_keys=True)
