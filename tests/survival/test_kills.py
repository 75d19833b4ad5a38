"""The benchmark of random kills: that it would see what must not be, and that there is nothing to see."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.trust.kills import Figures, _kind, _Watch, measure
from bi_harness.certificate.build import build
from bi_harness.certificate.essence import essence
from bi_harness.certificate.events import Event
from bi_harness.report.write import write_reports
from bi_harness.runner.journal import JOURNAL, Journal
from bi_harness.runner.run import from_journal
from tests.certificate import journals
from tests.certificate.journals import evidence, result, sound


def write(folder: Path, events: list[Event]) -> Path:
    (folder / JOURNAL).unlink(missing_ok=True)
    with Journal(folder / JOURNAL, new=True) as journal:
        for event in events:
            journal.write(event)
    return folder


@pytest.fixture
def figures() -> Figures:
    return Figures()


def test_a_sound_course_is_seen_as_one(tmp_path: Path, figures: Figures) -> None:
    watch = _Watch(figures)
    for size in range(1, len(sound()) + 1):
        watch.look(write(tmp_path, sound()[:size]))
    write_reports(from_journal(tmp_path), tmp_path)
    watch.look(tmp_path)
    watch.compare(tmp_path, essence(build(sound(), journals.JOURNAL)))
    assert figures == Figures()


def test_a_result_that_is_gone_is_seen(tmp_path: Path, figures: Figures) -> None:
    watch = _Watch(figures)
    watch.look(write(tmp_path, sound()))
    watch.look(write(tmp_path, sound()[:2]))
    assert figures.lost == 1
    write_reports(from_journal(tmp_path), tmp_path)
    watch.compare(tmp_path, essence(build(sound(), journals.JOURNAL)))
    assert (figures.lost, figures.different) == (2, 1)


def test_a_result_that_is_another_now_is_seen(tmp_path: Path, figures: Figures) -> None:
    watch = _Watch(figures)
    watch.look(write(tmp_path, sound()))
    other = sound(result(evidence=evidence(digest="sha256:" + "00" * 32)))
    write_reports(from_journal(write(tmp_path, other)), tmp_path)
    watch.compare(tmp_path, essence(build(sound(), journals.JOURNAL)))
    assert (figures.lost, figures.changed, figures.different) == (0, 1, 1)


@pytest.mark.parametrize(
    "events", [sound()[:-1], sound()[:4], [*sound()[:-1], journals.end(interrupted=True)]]
)
def test_a_false_certificate_is_seen(tmp_path: Path, figures: Figures, events: list[Event]) -> None:
    write_reports(build(sound(), journals.JOURNAL), tmp_path)
    _Watch(figures).look(write(tmp_path, events))
    assert figures.false_certificates == 1


def test_a_certificate_that_is_none_is_no_false_one(tmp_path: Path, figures: Figures) -> None:
    write_reports(build(sound()[:-1], journals.JOURNAL), tmp_path)
    _Watch(figures).look(write(tmp_path, sound()[:-1]))
    assert figures.false_certificates == 0


class Process:
    """As much of one as is looked at."""

    def __init__(self, pid: int, *words: str) -> None:
        self.pid, self.words = pid, list(words)

    def cmdline(self) -> list[str]:
        return self.words


def test_victims() -> None:
    found = [
        _kind(process, 1)  # type: ignore[arg-type]
        for process in (
            Process(1, "python", "-m", "bi_harness.cli"),
            Process(2, "python", "-m", "pytest", "--bi-unit-file", "x"),
            Process(3, "python", "-m", "bi_harness.engine.worker"),
            Process(4, "python", "-m", "bi_harness.engine.serve"),
            Process(5, "VLLM::EngineCore"),
        )
    ]
    assert found == ["runner", "unit", "worker", "worker", "core"]


@pytest.mark.long
def test_random_kills_of_a_stand_in(tmp_path: Path) -> None:
    told = measure(20, seed=7, work=tmp_path)
    assert told["ok"], told
    assert (told["kills"], told["real_kills"], told["standin_kills"]) == (20, 0, 20)
    assert told["engine"] == "stand-in"
