"""The one command: what is not measured, or not what it must be, never ends well."""

from __future__ import annotations

import json
import sys
from concurrent.futures import ThreadPoolExecutor
from types import ModuleType

import pytest

from benchmarks.trust import __main__ as trust
from benchmarks.trust.figures import all_of, as_dict, below, none_of


@pytest.fixture
def section(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    module = ModuleType("benchmarks.trust.hostile")
    monkeypatch.setitem(sys.modules, "benchmarks.trust.hostile", module)
    return module


def test_figures() -> None:
    assert all_of("x", 3, 3).ok
    assert not all_of("x", 2, 3).ok
    assert not all_of("x", 0, 0).ok
    assert not all_of("x", 3, 3, at_least=4).ok
    assert none_of("x", 0, 5).ok
    assert not none_of("x", 1, 5).ok
    assert not none_of("x", 0, 0).ok
    assert below("x", 1.0, 2.0, "s").ok
    assert not below("x", 3.0, 2.0, "s").ok


def test_all_is_well(section: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    section.measure = lambda: as_dict([all_of("flips found", 3, 3)], other=1)  # type: ignore[attr-defined]
    assert trust.main(["hostile", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["ok"] is True
    assert told["sections"]["hostile"]["figures"][0]["value"] == "3 of 3"


@pytest.mark.parametrize(
    "measured", [as_dict([all_of("flips found", 2, 3)]), as_dict([]), {}, {"figures": [{"name": "x"}]}]
)
def test_a_figure_that_is_not_what_it_must_be(section: ModuleType, measured: dict[str, object]) -> None:
    section.measure = lambda: measured  # type: ignore[attr-defined]
    assert trust.main(["hostile"]) == 1


def test_a_section_that_breaks(section: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    def broken() -> dict[str, object]:
        raise RuntimeError("no")

    section.measure = broken  # type: ignore[attr-defined]
    assert trust.main(["hostile"]) == 1
    assert "RuntimeError: no" in capsys.readouterr().out


def test_a_section_that_is_missing_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "benchmarks.trust.hostile", None)
    assert trust.main(["hostile"]) == 1


@pytest.fixture
def sections(monkeypatch: pytest.MonkeyPatch, section: ModuleType) -> list[str]:
    """Each tells that it was started; ``hostile`` is up to the test."""
    begun: list[str] = []
    section.measure = lambda: as_dict([all_of("x", 1, 1)])  # type: ignore[attr-defined]
    for name in ("tamper", "structure", "kills", "fuzz"):
        module = ModuleType(f"benchmarks.trust.{name}")

        def measure(name: str = name, **options: object) -> dict[str, object]:
            begun.append(name)
            return as_dict([all_of(f"{name} {options}", 1, 1)])

        module.measure = measure  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, f"benchmarks.trust.{name}", module)
    monkeypatch.setattr(trust, "READERS", {})
    return begun


def test_sections_run_side_by_side_and_are_shown_in_their_order(sections: list[str]) -> None:
    options: dict[str, dict[str, object]] = {name: {} for name in trust.SECTIONS}
    found = trust.side_by_side(options, lanes=lambda: ThreadPoolExecutor(1))
    assert list(found) == list(trust.SECTIONS)
    assert sections == ["kills", "fuzz", "structure", "tamper"], "the longest first"
    assert all(figure.ok for figures, _ in found.values() for figure in figures)


def test_a_section_whose_process_ends_is_no_good_one(
    sections: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(name: str, **options: object) -> object:
        if name == "fuzz":
            raise SystemError("killed")
        return [all_of(name, 1, 1)], {}

    monkeypatch.setattr(trust, "run", run)
    found = trust.side_by_side({"tamper": {}, "fuzz": {}}, lanes=lambda: ThreadPoolExecutor(2))
    assert [figure.ok for figure in found["fuzz"][0]] == [False]
    assert [figure.ok for figure in found["tamper"][0]] == [True]


def test_all_sections_are_started_some_time() -> None:
    assert set(trust.LONGEST) == set(trust.SECTIONS)


def test_an_unknown_section() -> None:
    assert trust.main(["nothing"]) == 4


def test_ok_is_true_and_nothing_like_it(section: ModuleType) -> None:
    section.measure = lambda: {"figures": [{"name": "x", "value": 1, "bound": 1, "ok": "no"}]}  # type: ignore[attr-defined]
    assert trust.main(["hostile"]) == 1


def test_the_figures_of_tampering() -> None:
    row = {"bytes": 5_000, "flips": 2_000, "found": 2_000}
    measured = {"flips": 2_000, "found": 2_000, "files": {"signed: junit.xml": row}}
    assert all(one.ok for one in trust.figures_of("tamper", measured))
    assert not all(one.ok for one in trust.figures_of("tamper", {**measured, "found": 1_999}))
    assert not all(one.ok for one in trust.figures_of("tamper", {**measured, "flips": 5, "found": 5}))


GOOD = {
    "kills": 200,
    "engine": "real and stand-in",
    "real_kills": 20,
    "standin_kills": 180,
    "resumed": 20,
    "ok": True,
    **dict.fromkeys(("lost_results", "changed_results", "false_certificates", "other_certificates"), 0),
    **dict.fromkeys(("refused_resumes", "orphan_processes", "shared_memory_left"), 0),
}


@pytest.mark.parametrize(
    "change", [{"lost_results": 1}, {"false_certificates": 1}, {"kills": 199}, {"resumed": 0}, {"ok": False}]
)
def test_the_figures_of_kills(change: dict[str, object]) -> None:
    assert all(one.ok for one in trust.figures_of("kills", GOOD))
    assert not all(one.ok for one in trust.figures_of("kills", {**GOOD, **change}))
