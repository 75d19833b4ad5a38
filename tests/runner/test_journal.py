"""The journal: what is written is read back, and what is damaged is refused."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bi_harness.certificate.events import CheckFinished, CheckProgress, Event, RunFinished, UnitFinished
from bi_harness.errors import InfrastructureError, UsageError
from bi_harness.runner.journal import JOURNAL, Journal, Tail, now, read
from tests.certificate.journals import TIME, end, result, sound

texts = st.text(st.characters(codec="utf-8"), max_size=40)
counts = st.integers(0, 2**53 - 1)
events: st.SearchStrategy[Event] = st.one_of(
    st.builds(RunFinished, time=texts, interrupted=st.booleans()),
    st.builds(
        UnitFinished,
        time=texts,
        unit=texts,
        outcome=st.sampled_from(["completed", "crashed", "timed_out", "interrupted"]),
        message=texts,
        log=st.none() | texts,
        duration_s=st.floats(allow_nan=False, allow_infinity=False),
    ),
    st.builds(CheckProgress, time=texts, cell=texts, check=texts, arm=texts, done=counts, of=counts),
    texts.map(lambda text: CheckFinished(time=TIME, result=result("error", text, text, reason=text))),
    st.sampled_from(sound()),
)


def write(path: Path, *what: Event) -> Path:
    with Journal(path, new=False) as journal:
        for event in what:
            journal.write(event)
    return path


@settings(max_examples=60, deadline=None)
@given(st.lists(events, max_size=6))
def test_what_is_written_is_read_back(tmp_path_factory: pytest.TempPathFactory, what: list[Event]) -> None:
    path = write(tmp_path_factory.mktemp("journal") / JOURNAL, *what)
    got, digest = read(path)
    assert got == what
    assert digest == hashlib.sha256(path.read_bytes()).hexdigest()
    assert list(Tail(path).read()) == what


def test_each_event_is_on_disk_at_once_and_appended(tmp_path: Path) -> None:
    path = tmp_path / JOURNAL
    with Journal(path, new=True) as journal:
        for number in range(1, 4):
            journal.write(end())
            assert len(read(path)[0]) == number
    write(path, end(interrupted=True))
    assert [e.interrupted for e in read(path)[0]] == [False, False, False, True]  # type: ignore[union-attr]


def test_two_writers_do_not_tear_each_others_lines(tmp_path: Path) -> None:
    path = tmp_path / JOURNAL
    with Journal(path, new=True) as one, Journal(path, new=False) as two:
        for number in range(50):
            (one if number % 2 else two).write(CheckFinished(time=str(number), result=result()))
    assert [e.time for e in read(path)[0]] == [str(n) for n in range(50)]


def test_a_new_journal_never_takes_an_old_ones_place(tmp_path: Path) -> None:
    path = write(tmp_path / JOURNAL, end())
    before = path.read_bytes()
    with pytest.raises(InfrastructureError, match=r"cannot write the journal.*exists"):
        Journal(path, new=True)
    assert path.read_bytes() == before


@pytest.mark.parametrize("where", ["/proc/nothing/events.jsonl", "/dev/null/events.jsonl"])
def test_a_place_that_cannot_be_written(where: str) -> None:
    with pytest.raises(InfrastructureError, match="cannot write the journal"):
        Journal(Path(where), new=True)


def test_a_full_disk() -> None:
    full = Journal(Path("/dev/full"), new=False)
    with full as journal, pytest.raises(InfrastructureError, match="No space left"):
        journal.write(end())


def test_an_empty_journal_has_no_events(tmp_path: Path) -> None:
    (tmp_path / JOURNAL).touch()
    assert read(tmp_path / JOURNAL) == ([], hashlib.sha256(b"").hexdigest())


def test_a_missing_journal(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"cannot read the journal.*No such file"):
        read(tmp_path / JOURNAL)
    with pytest.raises(UsageError, match=r"cannot read the journal.*directory"):
        read(tmp_path)


def test_a_torn_last_line_is_refused_wherever_it_is_torn(tmp_path: Path) -> None:
    path = write(tmp_path / JOURNAL, *sound())
    whole = path.read_bytes()
    last = len(whole.splitlines()[-1]) + 1
    for cut in range(1, last):
        path.write_bytes(whole[:-cut])
        with pytest.raises(UsageError, match=rf"{JOURNAL}:{len(sound())}: the last line is cut off"):
            read(path)


DAMAGE = {
    "not JSON": b"{nonsense",
    "not UTF-8": b'{"type": "run_finished", "time": "\xff", "interrupted": false}',
    "not an object": b"[1, 2]",
    "blank": b"",
    "unknown event": b'{"type": "surprise", "time": "t"}',
    "no type": b'{"time": "t", "interrupted": false}',
    "an extra key": b'{"type": "run_finished", "time": "t", "interrupted": false, "verdict": "CERTIFIED"}',
    "a missing key": b'{"type": "run_finished", "time": "t"}',
    "NaN": b'{"type": "unit_finished", "time": "t", "unit": "u", "outcome": "completed", "duration_s": NaN}',
    "two events in a line": b'{"type": "run_finished", "time": "t", "interrupted": false}{}',
    "NUL bytes": b"\0" * 40,
}


@pytest.mark.parametrize("line", DAMAGE.values(), ids=DAMAGE.keys())
@pytest.mark.parametrize("number", [1, 3, 9])
def test_a_damaged_line_is_refused_with_its_number(tmp_path: Path, line: bytes, number: int) -> None:
    lines = write(tmp_path / JOURNAL, *sound()).read_bytes().splitlines()
    lines[number - 1 : number - 1] = [line]
    (tmp_path / JOURNAL).write_bytes(b"\n".join(lines) + b"\n")
    with pytest.raises(UsageError, match=rf"^{JOURNAL}:{number}: not an event of a journal"):
        read(tmp_path / JOURNAL)


def test_any_cut_of_a_journal_is_refused_or_is_of_fewer_events(tmp_path: Path) -> None:
    path = write(tmp_path / JOURNAL, *sound())
    whole = path.read_bytes()
    ends = {i + 1 for i, byte in enumerate(whole) if byte == 10}
    for size in range(0, len(whole), 7):
        path.write_bytes(whole[:size])
        if size in ends or size == 0:
            assert read(path)[0] == sound()[: len(read(path)[0])]
        else:
            with pytest.raises(UsageError):
                read(path)


def test_a_tail_waits_for_whole_lines(tmp_path: Path) -> None:
    path = tmp_path / JOURNAL
    tail = Tail(path)
    assert list(tail.read()) == []
    lines = [event.model_dump_json().encode() + b"\n" for event in sound()]
    with open(path, "ab", buffering=0) as file:
        file.write(lines[0] + lines[1][:10])
        assert list(tail.read()) == sound()[:1]
        assert list(tail.read()) == []
        file.write(lines[1][10:-1])
        assert list(tail.read()) == []
        file.write(b"\n" + lines[2] + lines[3])
        assert list(tail.read()) == sound()[1:4]
    assert list(tail.read()) == []


def test_a_tail_reads_nothing_after_what_is_no_event(tmp_path: Path) -> None:
    path = tmp_path / JOURNAL
    lines = [event.model_dump_json().encode() + b"\n" for event in sound()]
    path.write_bytes(lines[0] + b"nonsense\n" + lines[1])
    tail = Tail(path)
    events = tail.read()
    assert next(events) == sound()[0]
    with pytest.raises(UsageError, match="not an event"):
        next(events)
    with pytest.raises(UsageError, match="not an event"):
        list(tail.read())


def test_the_time_is_utc(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(os.environ, "TZ", "Asia/Tokyo")
    assert len(now()) == len("2026-01-14T09:15:00.000Z")
    assert now().endswith("Z")


def test_a_sign_of_life_does_not_wait_for_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []
    monkeypatch.setattr(os, "fdatasync", synced.append)
    with Journal(tmp_path / JOURNAL, new=True) as journal:
        for done in range(5):
            journal.write(CheckProgress(time=TIME, cell="c", check="k", arm="treatment", done=done, of=5))
        assert synced == []
        journal.write(CheckFinished(time=TIME, result=result()))
        assert len(synced) == 1
        journal.write(end())
        assert len(synced) == 2
    assert len(read(tmp_path / JOURNAL)[0]) == 7


def test_a_line_and_a_journal_have_an_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / JOURNAL, *sound())
    monkeypatch.setattr("bi_harness.runner.journal.MAX_LINE", 300)
    with pytest.raises(UsageError, match=rf"^{JOURNAL}:1: not an event of a journal: longer than"):
        read(path)
    monkeypatch.setattr("bi_harness.runner.journal.MAX_BYTES", path.stat().st_size - 1)
    with pytest.raises(UsageError, match=r"cannot read the journal .*larger than"):
        read(path)


def test_signs_of_life_can_be_left_out_but_not_where_they_must_not_be(tmp_path: Path) -> None:
    life = CheckProgress(time=TIME, cell="c", check="k", arm="treatment", done=1, of=2)
    events_ = sound()
    path = write(tmp_path / JOURNAL, *events_[:2], life, *events_[2:], life)
    got, digest = read(path, progress=False)
    assert got == [*events_, life]
    assert digest == read(path)[1]
    path.unlink()
    assert read(write(path, life, *events_), progress=False)[0][0] == life
