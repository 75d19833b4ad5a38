"""Mutations by structure: each class is made, and a planted traceback or greener verdict is seen."""

from __future__ import annotations

import json
import random
from collections import Counter
from typing import Any

import pytest

from benchmarks.trust import __main__ as trust
from benchmarks.trust import structural, structure
from benchmarks.trust.structural import (
    CERTIFICATE_CLASSES,
    CHANGES,
    EVENT_CHANGES,
    JOURNAL_CLASSES,
    RAW_VALUES,
    mutate_certificate,
    mutate_journal,
    places,
    spelled_certificate,
)
from bi_harness.certificate.repeated_keys import repeated_key
from bi_harness.errors import EngineError

VALUE: dict[str, Any] = {"a": [1, "two", {"b": 3.5, "c": None}], "d": {"e": True, "f": "six"}, "g": [7, 8]}
OTHER: dict[str, Any] = {"a": ["other"], "d": {"e": False, "z": 26}, "g": [9]}


def changed(name: str, seed: int) -> Any:
    value = json.loads(json.dumps(VALUE))
    assert CHANGES[name](value, random.Random(seed), OTHER)
    return value


def test_places_are_at_any_depth() -> None:
    assert [key for _, key in places(VALUE)] == ["a", 0, 1, 2, "b", "c", "d", "e", "f", "g", 0, 1]


@pytest.mark.parametrize("name", CHANGES)
def test_each_class_changes_one_place_at_every_depth(name: str) -> None:
    found = [changed(name, seed) for seed in range(300)]
    texts = {json.dumps(one) for one in found}
    assert len(texts - {json.dumps(VALUE)}) >= 5
    # Below the first level, too.
    assert any(one.keys() == VALUE.keys() and one["a"] != VALUE["a"] for one in found)
    assert all(sum(one.get(key) != VALUE[key] for key in VALUE) <= 2 for one in found)


def test_classes_do_what_they_are_called() -> None:
    def sizes(name: str) -> set[int]:
        return {len(list(places(changed(name, seed)))) - 12 for seed in range(200)}

    assert max(sizes("drop a key or element")) < 0
    assert min(sizes("duplicate an element")) > 0
    assert sizes("swap two values") == {0}
    assert sizes("a neighbouring value") == {0}
    assert sizes("rename a key") == {0}
    kinds = {
        type(one["g"][0])
        for one in (changed("retype a value", s) for s in range(500))
        if isinstance(one["g"], list)
    }
    assert kinds >= {int, str, float, bool, type(None), list, dict}
    assert any(one["d"] == OTHER["d"] for one in (changed("a value of another run", s) for s in range(200)))
    numbers = {changed("an extreme value", seed)["g"] is None for seed in range(2_000)}
    assert numbers == {True, False}


JOURNALS = [journal for journal, _ in structure.journals()]
CERTIFICATES = [certificate for certificate, _ in structure.certificates()]


def test_seeds_have_each_verdict_and_kind_of_event() -> None:
    assert {verdict for _, verdict in structure.journals()} == {"CERTIFIED", "INCONCLUSIVE", "NOT_CERTIFIED"}
    kinds = {json.loads(line)["type"] for journal in JOURNALS for line in journal.splitlines()}
    assert kinds == {
        *("run_started", "unit_started", "engine_ready", "check_started", "check_progress"),
        *("check_finished", "unit_finished", "localized", "run_resumed", "run_finished"),
    }
    keys = {key for one in CERTIFICATES for _, key in places(json.loads(one)["predicate"]["bi_harness"])}
    assert keys >= {
        "waivers",
        "axes",
        "shard",
        "resumed",
        "localized",
        "planted_control",
        "ops",
        "lost",
        "endpoint",
    }


def test_a_certificate_is_spelled_as_bi_harness_spells_it() -> None:
    """Or each mutation would be refused for its spelling, and nothing else of it looked at."""
    for certificate in CERTIFICATES:
        assert spelled_certificate(json.loads(certificate)) == certificate


@pytest.mark.parametrize("name", JOURNAL_CLASSES)
def test_each_class_of_journals_is_made(name: str) -> None:
    rng = random.Random(0)
    made = [mutate_journal(name, rng.choice(JOURNALS), rng.choice(JOURNALS), rng) for _ in range(60)]
    assert len(set(made) - set(JOURNALS)) > 20
    before = {line for journal in JOURNALS for line in journal.splitlines()}
    if name in EVENT_CHANGES and name != "a journal that is cut off":
        assert {line for one in made for line in one.splitlines()} <= before, "no line is changed"
    if name == "repeat a key":
        assert all(any(repeated_key(line) for line in one.splitlines()) for one in made)
    if name == "a journal that is cut off":
        assert {one.endswith(b"\n") for one in made} == {True, False}
    if name == "a value that is not JSON":
        assert any(not _is_json(one) for one in made)


@pytest.mark.parametrize("name", CERTIFICATE_CLASSES)
def test_each_class_of_certificates_is_made(name: str) -> None:
    rng = random.Random(0)
    made = [
        mutate_certificate(name, rng.choice(CERTIFICATES), rng.choice(CERTIFICATES), rng) for _ in range(40)
    ]
    assert len(set(made) - set(CERTIFICATES)) > 20
    if name == "repeat a key":
        assert all(repeated_key(one) for one in made)


def _is_json(lines: bytes) -> bool:
    try:
        for line in lines.splitlines():
            json.loads(line, parse_constant=lambda text: {}[text])
    except (ValueError, KeyError, RecursionError):
        return False
    return True


def test_raw_values_are_spelled_as_they_are() -> None:
    marked = {"x": [f"{structural._RAW}{number}" for number in range(len(RAW_VALUES))]}
    text = structural._spelled(marked, None).decode()
    assert text == '{"x":[' + ",".join(RAW_VALUES) + "]}"


@pytest.mark.parametrize("name", structure.KINDS)
def test_some_of_each_class_end_well(name: str) -> None:
    found = structure.tried(name, 340, seed=7)
    assert found.defects == []
    assert set(found.outcomes) == set(structure.KINDS[name].classes)
    assert len({counter.total() for counter in found.outcomes.values()}) == 1, "the same number of each"
    outcomes = sum(found.outcomes.values(), Counter())
    assert outcomes["refused"] > 50
    assert outcomes["same"] > 0
    assert outcomes.keys() <= {"refused", "same", "worse", "borne"}


@pytest.mark.parametrize(
    "error", [AttributeError("x"), OverflowError("x"), RecursionError("x"), EngineError("")]
)
def test_a_planted_traceback_is_seen(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def broken(*args: object, **more: object) -> object:
        raise error

    structure.journals()
    monkeypatch.setattr(structure, "build", broken)
    found = structure.tried("journal", 34)
    assert sum(counter["traceback"] for counter in found.outcomes.values()) > 0
    assert found.defects
    assert not all(figure.ok for figure in structure.figures_of("journal", found, at_least=1))


def test_a_planted_traceback_of_a_report_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(statement: object) -> None:
        raise KeyError("x")

    monkeypatch.setattr(structure.targets, "see_reports", broken)
    found = structure.tried("journal", 170)
    assert any("traceback" in defect and "KeyError" in defect for defect in found.defects)


def test_a_planted_greener_verdict_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    structure.journals()
    monkeypatch.setattr("bi_harness.certificate.build.verdict", lambda *a, **k: ("CERTIFIED", "all is well"))
    found = structure.tried("journal", 170)
    assert any("greener" in defect and "without the evidence" in defect for defect in found.defects)
    assert not all(figure.ok for figure in structure.figures_of("journal", found, at_least=1))


def test_a_planted_inconclusive_failure_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    structure.journals()
    monkeypatch.setattr("bi_harness.certificate.build.verdict", lambda *a, **k: ("INCONCLUSIVE", "who knows"))
    found = structure.tried("journal", 170)
    assert any("INCONCLUSIVE beside a failure" in defect for defect in found.defects)


def test_a_changed_certificate_that_passes_beside_the_journal_is_seen(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(structure, "_genuine_beside", lambda data, seed: True)
    found = structure.tried("certificate", 300)
    assert any("genuine beside the journal of another certificate" in defect for defect in found.defects)


def test_fewer_mutations_than_a_release_needs_are_not_enough() -> None:
    found = structure.tried("journal", 17)
    enough = structure.figures_of("journal", found, at_least=17)
    assert all(figure.ok for figure in enough)
    assert not next(figure.ok for figure in structure.figures_of("journal", found))
    named = " ".join(figure.name for figure in enough)
    assert all(name in named for name in JOURNAL_CLASSES)


def test_the_number_of_mutations_can_be_given(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def measured(mutations: int) -> dict[str, object]:
        asked.append(mutations)
        return {"figures": [{"name": "x", "value": "1", "bound": "1", "ok": True}]}

    monkeypatch.setattr(structure, "measure", measured)
    assert trust.main(["structure", "--mutations", "123"]) == 0
    assert trust.main(["structure"]) == 0
    assert asked == [123, 10_000]
