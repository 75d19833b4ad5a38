"""What changed between two certificates: nothing from one to itself, and a swap mirrors it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bi_harness.certificate.build import build
from bi_harness.certificate.diff import Difference, compare_certificates, environment_changes, vllm_of
from bi_harness.certificate.records import CheckResult, Fact, Waiver
from bi_harness.certificate.statement import Statement
from tests.certificate.journals import CELL, JOURNAL, ended, evidence, ready, result, sound, waiver
from tests.kept import kept_run, kept_runs
from tests.report import samples
from tests.report.strategies import statements

OTHER = "sha256:" + "77" * 32
MIRRORED = {"regression": "fixed", "fixed": "regression", "new": "gone", "gone": "new", "changed": "changed"}


def kept(name: str) -> Statement:
    return Statement.model_validate_json((kept_run(name) / "certificate.json").read_bytes())


def of(*results: CheckResult, waivers: tuple[Waiver, ...] = (), **changes: Any) -> Statement:
    events = sound(*results)
    events[0] = events[0].model_copy(update={"waivers": waivers, **changes})
    return build(events, JOURNAL)


def kinds(difference: Difference) -> list[tuple[str, str]]:
    return [(change.kind, change.check) for change in difference.checks]


def mirrored(difference: Difference) -> dict[str, Counter[Any]]:
    """As if the two had been swapped; as bags, since what comes first depends on the kind."""

    def swap(entry: dict[str, Any]) -> dict[str, Any]:
        new = {**entry, "before": entry["after"], "after": entry["before"]}
        if "kind" in entry:
            new |= {
                "kind": MIRRORED[entry["kind"]],
                "before_reason": entry["after_reason"],
                "after_reason": entry["before_reason"],
            }
        return new

    return {name: Counter(repr(swap(e)) for e in entries) for name, entries in lists(difference)}


def as_bags(difference: Difference) -> dict[str, Counter[Any]]:
    keys = ("kind", "before_reason", "after_reason")
    return {
        name: Counter(
            repr({**e, "before": e["before"], "after": e["after"], **{k: e[k] for k in keys if k in e}})
            for e in entries
        )
        for name, entries in lists(difference)
    }


def lists(difference: Difference) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    for name in Difference.model_fields:
        value = getattr(difference, name)
        if isinstance(value, tuple):
            yield name, [entry.model_dump() for entry in value]


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(statements())
def test_nothing_differs_from_itself(statement: Statement) -> None:
    difference = compare_certificates(statement, statement)
    assert difference.empty
    assert not difference.matters
    again = Statement.model_validate_json(statement.to_json())
    assert compare_certificates(statement, again).empty, "nor from what its file says"


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_a_swap_mirrors_it(data: st.DataObject) -> None:
    one = data.draw(statements())
    # Two at random share nothing: half of the time the other is made of the first one's parts.
    other = data.draw(statements())
    if data.draw(st.booleans()):
        ours = one.predicate.bi_harness.model_copy(
            update={"checks": (*one.predicate.bi_harness.checks[1:], *other.predicate.bi_harness.checks)}
        )
        other = one.model_copy(update={"predicate": one.predicate.model_copy(update={"bi_harness": ours})})
    there, back = compare_certificates(one, other), compare_certificates(other, one)
    assert mirrored(there) == as_bags(back)
    assert (there.matters, there.empty) == (back.matters, back.empty)
    assert Difference.model_validate_json(there.model_dump_json()) == there


@pytest.mark.parametrize("run", kept_runs())
def test_kept_certificates_of_any_age(run: str) -> None:
    assert compare_certificates(kept(run), kept(run)).empty
    # With the next one alone: all pairs would take a minute.
    other = kept_runs()[(kept_runs().index(run) + 1) % len(kept_runs())]
    there = compare_certificates(kept(run), kept(other))
    assert mirrored(there) == as_bags(compare_certificates(kept(other), kept(run)))
    assert not there.empty


def test_kinds_of_changes_regressions_first() -> None:
    before = of(
        *(result(check=name) for name in ("breaks", "dies", "stays", "is_waived")),
        result("fail", "heals"),
        result("error", "fails_now"),
        result(check="leaves"),
    )
    after = of(
        result("fail", "breaks"),
        result("error", "dies"),
        result(check="stays"),
        result("fail", "is_waived"),
        result(check="heals"),
        result("fail", "fails_now"),
        result("fail", "comes"),
        waivers=(waiver("is_waived"),),
    )
    assert kinds(compare_certificates(before, after)) == [
        ("regression", "breaks"),
        ("regression", "dies"),
        ("regression", "is_waived"),
        ("gone", "leaves"),
        ("changed", "fails_now"),
        ("new", "comes"),
        ("fixed", "heals"),
    ]


def test_a_failure_that_is_waived_is_not_fixed() -> None:
    before = of(result(), result("fail", "sampling"))
    after = of(result(), result("fail", "sampling"), waivers=(waiver("sampling"),))
    difference = compare_certificates(before, after)
    assert kinds(difference) == [("changed", "sampling")]
    assert [(v.path, v.before, v.after) for v in difference.verdict] == [
        (("result",), "FAILED", "WARNED"),
        (("verdict",), "NOT_CERTIFIED", "CERTIFIED"),
    ]
    told = {v.path: v.after for v in difference.environment}
    assert told["waivers", CELL, "sampling", "owner"] == "A. Reviewer"


def test_other_bits_though_both_pass() -> None:
    after = of(result(evidence=evidence(digest=OTHER), control=evidence(3, digest=OTHER)))
    difference = compare_certificates(of(result()), after)
    assert [(d.arm, d.both_pass) for d in difference.digests] == [("treatment", True), ("control", True)]
    assert difference.matters
    assert not difference.verdict
    assert not difference.checks
    control = compare_certificates(of(result()), of(result(control=evidence(3, digest=OTHER))))
    assert [d.arm for d in control.digests] == ["control"]
    assert not control.matters, "the control's bits are no promise"
    assert not control.empty


def test_what_gives_a_check_its_power() -> None:
    facts = (Fact(name="kernel", found="a", expected=("a", "b")), Fact(name="start", found="9 s"))
    other = tuple(f.model_copy(update={"found": "b"}) for f in facts)
    control = tuple(f.model_copy(update={"found": "c"}) for f in facts)
    before = of(result(facts=facts, control_facts=control))
    after = of(result(evidence=evidence(steps=8), control=evidence(1), facts=other, control_facts=control))
    difference = compare_certificates(before, after)
    assert {(f.name, f.before, f.after) for f in difference.figures} == {
        ("steps", "16", "8"),
        ("control differing prompts", "3", "1"),
        ("control differing steps", "3", "1"),
        ("control differing values", "3", "1"),
        ("fact kernel", "a", "b"),
    }
    assert not difference.matters


def test_the_first_divergence() -> None:
    moved = evidence(2)
    first = moved.first_divergence
    assert first is not None
    moved = moved.model_copy(update={"first_divergence": first.model_copy(update={"step": 9})})
    difference = compare_certificates(of(result("fail")), of(result("fail", evidence=moved)))
    (change,) = difference.divergences
    assert change.before is not None
    assert change.after is not None
    assert (change.before.step, change.after.step) == (1, 9)
    assert difference.matters
    assert compare_certificates(of(result("fail")), of(result())).divergences[0].after is None


def test_the_effective_configuration_of_several_engines_is_told_once() -> None:
    events = sound()
    for index in (2, 3):
        arm = events[index].arm  # type: ignore[union-attr]
        config = {**arm.config, "threads": 2, "backends": {"X": 1}, "list": ["a", "b"]}
        events[index] = events[index].model_copy(update={"arm": arm.model_copy(update={"config": config})})
    difference = compare_certificates(build(sound(), JOURNAL), build(events, JOURNAL))
    assert [(s.path, s.before, s.after, len(s.engines)) for s in difference.settings] == [
        (("config", "backends", "X"), None, "1", 2),
        (("config", "list"), None, '["a", "b"]', 2),
        (("config", "threads"), None, "2", 2),
    ]
    assert not difference.matters
    more = build([*sound()[:-2], ready(), ended(), sound()[-1]], JOURNAL)
    (alone,) = compare_certificates(build(sound(), JOURNAL), more).settings
    assert (alone.path, alone.before, alone.after) == (("engine",), None, "ran")
    assert alone.engines[0].endswith("treatment #2")


def test_the_environment() -> None:
    changed = of(
        result(),
        provenance={
            "harness": {"version": "0.2", "dirty": True},
            "digests": {"models.yaml": OTHER},
            "command": ["bi-harness", "run", "-k", "x y"],
            "a.b": {"c": 1},
            "a": {"b.c": 1},
        },
        device={"id": "cpu", "kind": "cpu", "host": {"gpus": [{"driver": "1", "memory_used_gib": 3}]}},
    )
    found = {v.path: (v.before, v.after) for v in environment_changes(of(result()), changed)}
    assert found["provenance", "harness", "version"] == ("0.1", "0.2")
    assert found["provenance", "harness", "dirty"] == (None, "true")
    assert found["provenance", "digests", "hardware.yaml"][1] is None
    assert found["provenance", "command"] == (
        '["bi-harness", "run"]',
        '["bi-harness", "run", "-k", "x y"]',
    )
    assert {("provenance", "a.b", "c"), ("provenance", "a", "b.c")} <= set(found), "one hides no other"
    assert found["device", "host", "gpus", "0", "driver"] == (None, "1")
    assert not any(path[-1] in ("journal", "memory_used_gib") for path in found)


def test_another_type_is_another_value() -> None:
    def with_value(value: object) -> Statement:
        return of(result(), provenance={"x": value, "digests": {}})

    values: list[object] = [1, 1.0, True, "true?", None, [], {}, [1], [[1]], {"a": 1}, 10**5000]
    for i, one in enumerate(values):
        for j, other in enumerate(values):
            assert bool(environment_changes(with_value(one), with_value(other))) == (i != j), (one, other)


def test_a_check_that_is_listed_twice_hides_nothing() -> None:
    once = samples.statement("CERTIFIED", (samples.check("a", "b"),))
    twice = samples.statement("CERTIFIED", (samples.check("a", "b"), samples.check("a", "b", "fail")))
    assert kinds(compare_certificates(once, twice)) == [("new", "b")]


def test_the_version_of_vllm_wherever_it_is() -> None:
    assert vllm_of(samples.certified_cpu()) == "0.32.0"
    assert vllm_of(samples.empty()) == ""
    assert vllm_of(of(result(), provenance={"vllm": "0.1", "digests": {}})) in ("0.1", "0.32.0")
