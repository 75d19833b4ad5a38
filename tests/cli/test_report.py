"""``bi-harness report``: a run's files anew, from its journal alone."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from bi_harness.certificate.events import Event
from bi_harness.cli import main as cli
from bi_harness.exits import ExitCode
from bi_harness.runner.journal import JOURNAL, Journal
from tests.certificate.journals import end, result, sound
from tests.cli.test_run import standin  # noqa: F401 - a fixture
from tests.runner.standin import Standin, certificates

FILES = ("certificate.json", "certificate.html", "certificate.md", "junit.xml", "cells.parquet")


def folder(root: Path, events: list[Event]) -> Path:
    with Journal(root / JOURNAL, new=True) as journal:
        for event in events:
            journal.write(event)
    return root


def digests(run: Path) -> dict[str, str]:
    return {name: hashlib.sha256((run / name).read_bytes()).hexdigest() for name in FILES}


@pytest.mark.parametrize(
    ("events", "code"),
    [
        (sound(), ExitCode.CERTIFIED),
        (sound(result("fail")), ExitCode.NOT_CERTIFIED),
        (sound(result("error")), ExitCode.INCONCLUSIVE),
        (sound(result("inconclusive")), ExitCode.INCONCLUSIVE),
        (sound()[:-1], ExitCode.INTERRUPTED),
        (sound()[:1], ExitCode.INTERRUPTED),
        ([*sound()[:-1], end(interrupted=True)], ExitCode.INTERRUPTED),
        ([*sound(result("fail"))[:-1], end(interrupted=True)], ExitCode.NOT_CERTIFIED),
    ],
)
def test_it_ends_as_the_run_did(
    tmp_path: Path, events: list[Event], code: ExitCode, capsys: pytest.CaptureFixture[str]
) -> None:
    run = folder(tmp_path, events)
    assert cli.main(["report", str(run), "--json"]) == code
    told = json.loads(capsys.readouterr().out)
    assert told["run"] == str(run)
    assert told["certificate"] == json.loads((run / "certificate.json").read_text())
    first = digests(run)
    (run / "certificate.html").write_text("someone was here")
    (run / "junit.xml").unlink()
    assert cli.main(["report", str(run)]) == code
    assert digests(run) == first


def test_the_same_bytes_as_the_run_wrote(standin: Standin) -> None:  # noqa: F811
    standin.write(one="good(check, workload)", two="bad(check, workload)", three="os._exit(3)")
    code, _, err = standin.finish("run")
    assert code == ExitCode.NOT_CERTIFIED, err
    (run,) = standin.root.glob("out/cpu/*")
    before = digests(run)
    for name in FILES:
        (run / name).unlink()
    assert standin.finish("report", str(run))[0] == code
    assert digests(run) == before


def damaged(text: bytes) -> bytes:
    lines = text.splitlines(keepends=True)
    return b"".join([*lines[:2], b"nonsense\n", *lines[2:]])


DAMAGE = {
    "missing": (None, "cannot read the journal"),
    "empty": (lambda text: b"", "does not begin with run_started"),
    "blank": (lambda text: b"\n", "events.jsonl:1: not an event"),
    "a torn last line": (lambda text: text[:-5], "the last line is cut off"),
    "nonsense in the middle": (damaged, "events.jsonl:3: not an event"),
    "its first line is lost": (
        lambda text: text.split(b"\n", 1)[1],
        "does not begin with run_started",
    ),
    "told twice": (lambda text: text + text, "goes on after run_finished"),
    "a verdict of its own": (
        lambda text: text.replace(b'"interrupted":false', b'"interrupted":false,"verdict":"CERTIFIED"'),
        "not an event",
    ),
    "binary": (lambda text: bytes(range(256)), "events.jsonl:"),
}


@pytest.mark.parametrize(("change", "message"), DAMAGE.values(), ids=DAMAGE.keys())
def test_a_journal_that_is_no_use(
    tmp_path: Path, change: object, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run = folder(tmp_path, sound())
    journal = run / JOURNAL
    if change is None:
        journal.unlink()
    else:
        journal.write_bytes(change(journal.read_bytes()))  # type: ignore[operator]
    assert cli.main(["report", str(run), "--json"]) == ExitCode.USAGE
    captured = capsys.readouterr()
    assert captured.out == ""
    assert message in captured.err
    assert "Traceback" not in captured.err
    assert not certificates(run)


def test_a_folder_that_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for place in (tmp_path / "nowhere", Path("/dev/null")):
        assert cli.main(["report", str(place)]) == ExitCode.USAGE
        assert "cannot read the journal" in capsys.readouterr().err
    assert cli.main(["report"]) == ExitCode.USAGE
