"""``verify`` with a key and a run's folder: what was signed is there as it was, and the rest is named."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from bi_harness.certificate.files import CERTIFICATE, ENVELOPE, FILES_ENVELOPE, JOURNAL, REPORTS
from bi_harness.certificate.sign import open_envelope, seal
from bi_harness.cli.job import content_for_test_engine, write_test_engine
from bi_harness.errors import UsageError
from bi_harness.report.sealed import write_sealed
from bi_harness.runner.run import from_journal
from tests.certificate.journals import result, sound
from tests.certificate.runs import KEY, OTHER, SIGNER, looked_at, notes, said, write_run
from tests.kept import kept_run

LOG = "logs/unit.log"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    write_run(tmp_path / "run", sound(), SIGNER)
    return tmp_path / "run"


def add_log(run: Path, name: str = "logs/deep/a.log") -> None:
    """One more signed log, in a folder of its own."""
    (run / name).parent.mkdir(parents=True, exist_ok=True)
    (run / name).write_text("a line\n")
    write_sealed(from_journal(run), run, SIGNER)


def relisted(run: Path, change: Callable[[str], str], signer: object = SIGNER) -> None:
    """Sign the list of files with an edited text: what a signer with a defect could have written."""
    payload = open_envelope((run / FILES_ENVELOPE).read_bytes()).payload.decode()
    assert change(payload) != payload
    (run / FILES_ENVELOPE).write_bytes(seal(change(payload).encode(), signer))  # type: ignore[arg-type]


# An envelope is missing, or is of another key.


@pytest.mark.parametrize("must_be_signed", [True, False], ids=["verify", "gate"])
def test_missing_files_envelope_is_a_problem(run: Path, must_be_signed: bool) -> None:
    (run / FILES_ENVELOPE).unlink()
    (run / LOG).write_text("forged")
    found = looked_at(run, KEY, must_be_signed=must_be_signed)
    assert not found.genuine
    assert found.signed_by == ()
    assert "files.dsse.json: is not there" in said(found)


@pytest.mark.parametrize("must_be_signed", [True, False], ids=["verify", "gate"])
def test_missing_certificate_envelope_does_not_count_as_signed(run: Path, must_be_signed: bool) -> None:
    (run / ENVELOPE).unlink()
    found = looked_at(run, KEY, must_be_signed=must_be_signed)
    assert not found.genuine
    assert found.signed_by == ()
    assert ENVELOPE in said(found)


def test_a_certificate_alone_needs_no_files_envelope(run: Path, tmp_path: Path) -> None:
    (run / FILES_ENVELOPE).unlink()
    for name in (CERTIFICATE, ENVELOPE):
        alone = looked_at(run / name, KEY)
        assert alone.genuine, said(alone)
        assert alone.signed_by == (KEY.keyid,)
    shutil.copy(run / ENVELOPE, tmp_path / "alone.json")
    assert looked_at(tmp_path / "alone.json", KEY).genuine


def test_missing_envelopes_without_a_key_are_noted(run: Path) -> None:
    (run / FILES_ENVELOPE).unlink()
    found = looked_at(run)
    assert found.genuine
    assert "files.dsse.json: is not there" in notes(found)


@pytest.mark.parametrize("must_be_signed", [True, False], ids=["verify", "gate"])
def test_both_envelopes_need_a_signature_of_one_given_key(run: Path, must_be_signed: bool) -> None:
    payload = open_envelope((run / FILES_ENVELOPE).read_bytes()).payload
    (run / FILES_ENVELOPE).write_bytes(seal(payload, OTHER))
    for keys in ([KEY], [OTHER.public_key], [KEY, OTHER.public_key]):
        found = looked_at(run, *keys, must_be_signed=must_be_signed)
        assert not found.genuine, keys
        assert found.signed_by == ()
    assert not looked_at(run).genuine, "the two name different keys, which needs no key to see"


def test_signatures_of_unknown_keys_leave_a_run_unsigned(tmp_path: Path) -> None:
    write_run(tmp_path / "run", sound(), OTHER)
    relaxed = looked_at(tmp_path / "run", KEY, must_be_signed=False)
    assert relaxed.genuine, said(relaxed)
    assert relaxed.signed_by == ()
    assert not looked_at(tmp_path / "run", KEY).genuine


def test_a_bad_signature_of_the_files_is_a_problem_for_the_gate_too(run: Path) -> None:
    import json

    data = json.loads((run / FILES_ENVELOPE).read_text())
    data["signatures"] = json.loads((run / ENVELOPE).read_text())["signatures"]
    (run / FILES_ENVELOPE).write_text(json.dumps(data, indent=2) + "\n")
    found = looked_at(run, KEY, must_be_signed=False)
    assert not found.genuine
    assert found.signed_by == ()


# Something else stands where a signed file was.


def outside(run: Path, name: str) -> Path:
    """The same content, elsewhere."""
    place = run.parent / "elsewhere" / name
    place.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(run / name, place)
    return place


def to_link(run: Path, name: str) -> None:
    target = outside(run, name)
    (run / name).unlink()
    (run / name).symlink_to(target)


def to_pipe(run: Path, name: str) -> None:
    (run / name).unlink()
    os.mkfifo(run / name)


def to_folder(run: Path, name: str) -> None:
    (run / name).unlink()
    (run / name).mkdir()


def to_dangling_link(run: Path, name: str) -> None:
    (run / name).unlink()
    (run / name).symlink_to("nowhere")


def to_loop(run: Path, name: str) -> None:
    (run / name).unlink()
    (run / name).symlink_to(Path(name).name)


NOT_FILES = [to_link, to_pipe, to_folder, to_dangling_link, to_loop]


@pytest.mark.parametrize("change", NOT_FILES)
@pytest.mark.parametrize("name", [LOG, "certificate.html", "cells.parquet", JOURNAL, CERTIFICATE])
def test_signed_file_that_is_no_regular_file_is_a_problem(
    run: Path, name: str, change: Callable[[Path, str], None]
) -> None:
    change(run, name)
    found = looked_at(run, KEY)
    assert not found.genuine
    assert name in said(found)


@pytest.mark.parametrize("name", [ENVELOPE, FILES_ENVELOPE])
def test_linked_envelope_is_a_problem(run: Path, name: str) -> None:
    to_link(run, name)
    assert f"{name}: " in said(looked_at(run, KEY))


@pytest.mark.parametrize("folder", ["logs", "logs/deep"])
@pytest.mark.parametrize("kind", ["link", "file", "pipe"])
def test_folder_of_signed_files_that_is_no_folder_is_a_problem(run: Path, folder: str, kind: str) -> None:
    add_log(run)
    assert looked_at(run, KEY).genuine
    shutil.move(run / folder, run.parent / "moved")
    if kind == "link":
        (run / folder).symlink_to(run.parent / "moved")
    elif kind == "file":
        (run / folder).write_text("")
    else:
        os.mkfifo(run / folder)
    found = looked_at(run, KEY)
    assert not found.genuine
    assert "logs/deep/a.log" in said(found)


def test_logs_and_reports_may_be_left_behind(run: Path) -> None:
    add_log(run)
    shutil.rmtree(run / "logs")
    for name in REPORTS:
        (run / name).unlink()
    found = looked_at(run, KEY)
    assert found.genuine, said(found)
    assert "6 files that were signed are not there" in notes(found)


# Files that nobody signed.


@pytest.mark.parametrize(
    "name",
    ["notes.txt", ".hidden", "deep/.er/x.json", "logs/evil.log", "logs/.evil", ".work/attempt-1/unit"],
)
@pytest.mark.parametrize("signed", [True, False])
def test_foreign_file_is_named_in_a_note(tmp_path: Path, name: str, signed: bool) -> None:
    run = tmp_path / "run"
    write_run(run, sound(), SIGNER if signed else None)
    (run / name).parent.mkdir(parents=True, exist_ok=True)
    (run / name).write_text("x")
    found = looked_at(run, *([KEY] if signed else []))
    assert found.genuine, said(found)
    assert signed is False or name in notes(found)
    assert name.startswith("logs/") or name in notes(found)


def test_foreign_link_is_named_and_not_followed(run: Path) -> None:
    (run / "logs" / "more.log").symlink_to("/etc/passwd")
    (run / "out").symlink_to("/etc")
    found = looked_at(run, KEY)
    assert found.genuine, said(found)
    assert "logs/more.log (a link)" in notes(found)
    assert "out" in notes(found)
    assert "passwd" not in notes(found).replace("/etc/passwd", "")


def test_names_that_are_not_utf_8_are_named(run: Path) -> None:
    (run / "logs" / os.fsdecode(b"\xff.log")).write_text("x")
    (run / os.fsdecode(b"\xfe")).write_text("x")
    found = looked_at(run, KEY)
    assert found.genuine, said(found)
    assert "\\udcff.log" in notes(found)


@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("name", ["test-engine.json", "test-engine-2.json", "expected.proposal.yaml"])
def test_own_file_that_the_certificate_does_not_give_is_a_problem(
    tmp_path: Path, name: str, signed: bool
) -> None:
    write_run(tmp_path / "run", sound(), SIGNER if signed else None)
    (tmp_path / "run" / name).write_text("{}")
    assert f"{name}: " in said(looked_at(tmp_path / "run", *([KEY] if signed else [])))


@pytest.mark.parametrize(
    "name", ["Certificate.html", "CERTIFICATE.JSON", "Events.jsonl", "TEST-ENGINE.json", "Logs/unit.log"]
)
def test_own_name_in_other_case_is_a_problem_in_a_signed_folder(run: Path, name: str) -> None:
    (run / name).parent.mkdir(exist_ok=True)
    (run / name).write_text("x")
    assert name in said(looked_at(run, KEY))


@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("name", ["test-engine.json", "expected.proposal.yaml"])
def test_linked_file_beside_the_reports_is_a_problem(tmp_path: Path, name: str, signed: bool) -> None:
    run = tmp_path / "run"
    statement = write_run(run, sound(), SIGNER if signed else None)
    write_test_engine(statement, run)
    shutil.move(run / "test-engine.json", tmp_path / "elsewhere")
    (run / name).symlink_to(tmp_path / "elsewhere")
    assert f"{name}: " in said(looked_at(run, *([KEY] if signed else [])))


def test_report_that_nobody_signed_is_a_problem_in_a_signed_folder(run: Path) -> None:
    page = (run / "junit.xml").read_bytes()
    (run / "junit.xml").unlink()
    write_sealed(from_journal(run), run, SIGNER)
    assert looked_at(run, KEY).genuine
    (run / "junit.xml").write_bytes(page)
    assert "junit.xml: " in said(looked_at(run, KEY))


def test_test_engine_file_is_what_the_journal_gives_or_what_was_signed(run: Path) -> None:
    statement = from_journal(run)
    write_test_engine(statement, run)
    found = looked_at(run, KEY)
    assert found.genuine, "a job writes it after the signature"
    assert "test-engine.json" in notes(found)
    write_sealed(statement, run, SIGNER, content_for_test_engine(statement, run))
    found = looked_at(run, KEY)
    assert found.genuine, said(found)
    assert "test-engine.json" not in notes(found)
    (run / "test-engine.json").write_text("{}")
    assert "test-engine.json: was changed" in said(looked_at(run, KEY))


def test_signing_refuses_a_test_engine_file_of_other_content(tmp_path: Path) -> None:
    statement = write_run(tmp_path / "run", sound())
    (tmp_path / "run" / "test-engine.json").write_text("{}")
    beside = content_for_test_engine(statement, tmp_path / "run")
    with pytest.raises(UsageError, match=r"test-engine\.json"):
        write_sealed(statement, tmp_path / "run", SIGNER, beside)


@pytest.mark.parametrize("name", ["logs", JOURNAL, "certificate.md"])
def test_signing_refuses_links(tmp_path: Path, name: str) -> None:
    statement = write_run(tmp_path / "run", sound())
    shutil.move(tmp_path / "run" / name, tmp_path / "moved")
    (tmp_path / "run" / name).symlink_to(tmp_path / "moved")
    with pytest.raises(UsageError, match="is a link"):
        write_sealed(statement, tmp_path / "run", SIGNER)


def test_signing_refuses_names_that_are_not_utf_8(tmp_path: Path) -> None:
    statement = write_run(tmp_path / "run", sound())
    (tmp_path / "run" / "logs" / os.fsdecode(b"\xff")).write_text("x")
    with pytest.raises(UsageError, match="UTF-8"):
        write_sealed(statement, tmp_path / "run", SIGNER)


# The signed list itself.


ENTRY = '    {\n      "name": "logs/unit.log",'


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace('"logs/unit.log"', '"../logs/unit.log"'),
        lambda text: text.replace('"logs/unit.log"', '"/etc/passwd"'),
        lambda text: text.replace('"logs/unit.log"', '"logs/../logs/unit.log"'),
        lambda text: text.replace('"logs/unit.log"', '"logs//unit.log"'),
        lambda text: text.replace('"logs/unit.log"', '"./logs/unit.log"'),
        lambda text: text.replace('"logs/unit.log"', '"logs/"'),
        lambda text: text.replace('"logs/unit.log"', '"logs/a\\u0000b"'),
        lambda text: text.replace('"logs/unit.log"', '""'),
        lambda text: text.replace('"logs/unit.log"', '"junit.xml"'),
        lambda text: text.replace('"junit.xml"', '"JUNIT.xml"'),
        lambda text: text.replace('"logs/unit.log"', '"notes.txt"'),
        lambda text: text.replace('"sha256"', '"sha512"'),
        lambda text: text.replace('"events.jsonl"', '"logs/events.jsonl"'),
        lambda text: text.replace("\n", " "),
        lambda text: text.replace(hashlib.sha256(b"a line\n").hexdigest(), "x"),
        lambda text: text.replace(
            hashlib.sha256(b"a line\n").hexdigest(), hashlib.sha256(b"a line\n").hexdigest().upper()
        ),
        lambda text: text[: text.index('"subject": [') + 12] + text[text.index("  ],\n") + 2 :],
    ],
)
def test_signed_list_that_no_run_has_is_a_problem(run: Path, change: Callable[[str], str]) -> None:
    relisted(run, change)
    assert not looked_at(run, KEY).genuine


def test_list_of_another_run_is_a_problem(run: Path, tmp_path: Path) -> None:
    write_run(tmp_path / "other", sound(result("fail")), SIGNER)
    shutil.copy(tmp_path / "other" / FILES_ENVELOPE, run / FILES_ENVELOPE)
    assert not looked_at(run, KEY, must_be_signed=False).genuine


# Which run it is.


def test_folder_of_another_name_than_the_runs_id_is_noted(run: Path, tmp_path: Path) -> None:
    assert "20260114T091500Z-abcdef" in notes(looked_at(run, KEY))
    shutil.copytree(run, tmp_path / "20260114T091500Z-abcdef")
    named = tmp_path / "20260114T091500Z-abcdef"
    assert "its run is" not in notes(looked_at(named, KEY))
    (tmp_path / "latest").symlink_to(named)
    assert "its run is" in notes(looked_at(tmp_path / "latest", KEY))
    assert "its run is" not in notes(looked_at(named / CERTIFICATE, KEY))


# Signing again.


def test_signing_again_refuses_a_log_of_other_content(run: Path) -> None:
    (run / LOG).write_text("forged")
    with pytest.raises(UsageError, match="not the one that was signed"):
        write_sealed(from_journal(run), run, SIGNER)
    (run / FILES_ENVELOPE).unlink()
    write_sealed(from_journal(run), run, SIGNER)
    assert looked_at(run, KEY).genuine


def test_signed_test_engine_file_of_another_version_is_kept(run: Path) -> None:
    """A step that reports without the key must not break the signature."""
    statement = from_journal(run)
    (run / "test-engine.json").write_text("as another version wrote it")
    write_sealed(statement, run, SIGNER, {"test-engine.json": b"as another version wrote it"})
    found = looked_at(run, KEY)
    assert found.genuine, said(found)
    assert "another version of bi-harness wrote it" in notes(found)
    with pytest.raises(UsageError, match="is signed, and is of other content"):
        write_test_engine(statement, run)
    assert looked_at(run, KEY).genuine
    assert not looked_at(run).genuine, "nobody checked the signature"


def test_proposal_of_a_recorded_run_is_right(tmp_path: Path) -> None:
    from bi_harness.cli.run import write_proposal

    run = tmp_path / "20261121T173347Z-364118"
    shutil.copytree(kept_run("cpu/20261121T173347Z-364118"), run)
    statement = from_journal(run)
    write_sealed(statement, run, SIGNER)
    write_proposal(statement, run)
    assert (run / "expected.proposal.yaml").is_file()
    found = looked_at(run, KEY)
    assert found.genuine, said(found)
    write_sealed(statement, run, SIGNER)
    assert looked_at(run, KEY).genuine
    with (run / "expected.proposal.yaml").open("a") as file:
        file.write("# more\n")
    assert "expected.proposal.yaml: " in said(looked_at(run, KEY))
