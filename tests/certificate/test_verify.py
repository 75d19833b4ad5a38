"""``verify``: what is genuine stays so, and what was changed is found and named."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from bi_harness.certificate.build import build
from bi_harness.certificate.events import Event
from bi_harness.certificate.files import (
    CERTIFICATE,
    ENVELOPE,
    FILES_ENVELOPE,
    JOURNAL,
    REPORTS,
)
from bi_harness.certificate.sign import seal
from bi_harness.certificate.statement import Statement
from bi_harness.certificate.verify import Folder, examine
from bi_harness.cli.examined import read_folder, recompute
from bi_harness.errors import UsageError
from tests.certificate.journals import JOURNAL as DIGEST
from tests.certificate.journals import end, ended, ready, result, skipped, sound, started
from tests.certificate.runs import KEY, OTHER, SIGNER, looked_at, notes, said, write_run
from tests.certificate.test_any_journal import journals
from tests.kept import kept_run, kept_runs

FILES = (CERTIFICATE, JOURNAL, *REPORTS)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    write_run(tmp_path / "run", sound(), SIGNER)
    return tmp_path / "run"


@pytest.fixture
def unsigned(tmp_path: Path) -> Path:
    write_run(tmp_path / "run", sound())
    return tmp_path / "run"


@pytest.mark.parametrize("name", kept_runs())
def test_every_kept_run_verifies_without_a_key_and_not_with_one(name: str) -> None:
    found = looked_at(kept_run(name))
    assert found.genuine, said(found)
    assert found.journal
    assert "nobody signed it" in notes(found)
    assert not looked_at(kept_run(name), KEY).genuine


def test_a_signed_run_is_genuine(run: Path) -> None:
    found = looked_at(run, KEY)
    assert found.genuine, said(found)
    assert (found.signed_by, found.journal) == ((KEY.keyid,), True)
    assert "NOT" not in notes(found)
    for name in (CERTIFICATE, ENVELOPE):
        assert looked_at(run / name, KEY).signed_by == (KEY.keyid,)


def test_without_its_key_it_says_that_nobody_looked(run: Path) -> None:
    found = looked_at(run)
    assert found.genuine
    assert found.signed_by == ()
    assert "NOT checked" in notes(found)
    assert KEY.keyid in notes(found)


def test_another_key(run: Path) -> None:
    found = looked_at(run, OTHER.public_key)
    assert not found.genuine
    assert "none of the given keys signed it" in said(found)
    assert looked_at(run, OTHER.public_key, KEY).genuine, "one of the given keys is enough"
    relaxed = looked_at(run, OTHER.public_key, must_be_signed=False)
    assert relaxed.genuine
    assert relaxed.signed_by == ()


def test_an_unsigned_one_with_a_key_given(unsigned: Path) -> None:
    found = looked_at(unsigned, KEY)
    assert not found.genuine
    assert "nobody signed it" in said(found)


@pytest.mark.parametrize("name", [*FILES, ENVELOPE, FILES_ENVELOPE, "logs/unit.log"])
def test_a_changed_file_is_named(run: Path, name: str) -> None:
    data = bytearray((run / name).read_bytes())
    data[len(data) // 2] ^= 1
    (run / name).write_bytes(data)
    found = looked_at(run, KEY)
    assert not found.genuine
    pair = {CERTIFICATE, ENVELOPE}
    assert {problem.where.partition(":")[0] for problem in found.problems} & (
        pair if name in pair else {name}
    )


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Folder, Folder]:
    root = tmp_path_factory.mktemp("runs")
    write_run(root / "a", [*sound(result("pass"), result("fail", "other"))])
    write_run(root / "b", sound(), SIGNER)
    return read_folder(root / "a"), read_folder(root / "b")


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_every_changed_byte_is_found(folders: tuple[Folder, Folder], data: st.DataObject) -> None:
    """``benchmarks/trust/tamper.py`` measures the same over a real run."""
    signed = data.draw(st.booleans())
    folder, keys = (folders[1], [KEY]) if signed else (folders[0], [])
    name = data.draw(st.sampled_from(sorted(folder.contents)))
    content = bytearray(folder.contents[name])
    how = data.draw(st.sampled_from(["flip", "cut", "insert"]))
    place = data.draw(st.integers(0, len(content) - 1))
    if how == "flip":
        content[place] ^= data.draw(st.integers(1, 255))
    elif how == "cut":
        del content[place]
    else:
        content.insert(place, data.draw(st.integers(0, 255)))
    changed = Folder("x", {**folder.contents, name: bytes(content)}, folder.others)
    assume(changed.contents != folder.contents)
    assert not examine(changed, keys, recompute()).genuine


@given(journals())
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_whatever_a_journal_says_its_certificate_is_consistent(events: list[Event]) -> None:
    try:
        statement = build(events, DIGEST)
    except UsageError:
        return
    # Without a waiver in the journal nothing is waived; verify says so.
    assume(not any(check.status == "waived" for check in statement.predicate.bi_harness.checks))
    found = examine(Folder("x", {CERTIFICATE: statement.to_json().encode()}, whole=False), [], recompute())
    assert found.genuine, said(found)


def edit(statement: Statement, change: Callable[[dict[str, Any], dict[str, Any]], object]) -> bytes:
    """A forged certificate, spelled as bi-harness would: by someone who knows how."""
    data = json.loads(statement.to_json())
    change(data, data["predicate"]["bi_harness"])
    return Statement.model_validate(data).to_json().encode()


def certified(data: dict[str, Any], told: dict[str, Any]) -> None:
    told["verdict"], told["why"] = "CERTIFIED", "all is well"
    data["predicate"]["result"] = "PASSED"


def all_pass(data: dict[str, Any], told: dict[str, Any]) -> None:
    certified(data, told)
    for check in told["checks"]:
        check["status"] = "pass"


FORGED: dict[str, tuple[list[Event], Callable[[dict[str, Any], dict[str, Any]], object], str]] = {
    "the verdict of a failure": (sound(result("fail")), certified, "verdict"),
    "the verdict of an error": (sound(result("error")), certified, "verdict"),
    "the verdict of what is inconclusive": (sound(result("inconclusive")), certified, "verdict"),
    "the verdict of an interrupted run": ([*sound()[:-1], end(interrupted=True)], certified, "verdict"),
    "the verdict of a run that was cut off": (sound()[:-1], certified, "verdict"),
    "a failure as a pass": (sound(result("fail")), all_pass, "reads pass, but"),
    "a pass without a control": (
        sound(result("pass", control=None)),
        all_pass,
        "reads pass, but",
    ),
    "a failure as inconclusive": (
        sound(result("fail")),
        lambda d, t: t.update(verdict="INCONCLUSIVE"),
        "verdict",
    ),
    "passed, and not certified": (
        sound(result("error")),
        lambda d, t: d["predicate"].update(result="PASSED"),
        "result",
    ),
    "counts": (sound(), lambda d, t: t["totals"].update(passed=2), "totals"),
    "a failure that is not listed": (
        sound(result("fail")),
        lambda d, t: d["predicate"].update(failedTests=[]),
        "failedTests",
    ),
    "a pass that is listed twice": (
        sound(),
        lambda d, t: d["predicate"].update(passedTests=d["predicate"]["passedTests"] * 2),
        "passedTests",
    ),
    "a check that is there twice": (
        sound(),
        lambda d, t: t.update(checks=t["checks"] * 2),
        "contradicts itself",
    ),
    "another vLLM": (sound(), lambda d, t: d["subject"][0].update(name="vllm-9"), "subject"),
    "another digest": (
        sound(),
        lambda d, t: d["predicate"]["configuration"][0]["digest"].update(sha256="0" * 64),
        "configuration",
    ),
    "engines that do not agree": (
        sound(),
        lambda d, t: t["provenance"].update(disagreements=["two vLLMs"]),
        "do not agree",
    ),
    "a planted fault": (
        sound(),
        lambda d, t: t["effective"][0]["config"].update(planted_fault="atomics"),
        "verdict",
    ),
    "a skip without a rule": (
        sound(),
        lambda d, t: t["checks"][0].update(status="skip", evidence=None, control=None),
        "checks",
    ),
    "no digests": (sound(), lambda d, t: t["provenance"].pop("digests"), "contradicts itself"),
    "digests that are none": (sound(), lambda d, t: t["provenance"].update(digests=7), "contradicts itself"),
    "a vLLM that is none": (sound(), lambda d, t: t["provenance"].update(vllm=[]), "contradicts itself"),
}


@pytest.mark.parametrize(("events", "change", "message"), FORGED.values(), ids=FORGED.keys())
def test_a_forged_certificate_alone(
    events: list[Event], change: Callable[[dict[str, Any], dict[str, Any]], object], message: str
) -> None:
    """Without journal or signature: what its own checks contradict is found all the same."""
    honest = build(events, DIGEST)
    alone = Folder("x", {CERTIFICATE: honest.to_json().encode()}, whole=False)
    assert examine(alone, [], recompute()).genuine
    forged = Folder("x", {CERTIFICATE: edit(honest, change)}, whole=False)
    found = examine(forged, [], recompute())
    assert not found.genuine
    assert message in said(found)


def test_a_lowered_verdict_is_the_journals_word_alone() -> None:
    """A unit that crashed after its passes: INCONCLUSIVE, though every check it lists passed."""
    events = [*sound()[:-2], ended("crashed", message="died"), end()]
    statement = build(events, DIGEST)
    assert statement.predicate.bi_harness.verdict == "INCONCLUSIVE"
    alone = Folder("x", {CERTIFICATE: statement.to_json().encode()}, whole=False)
    assert examine(alone, [], recompute()).genuine
    raised = edit(statement, certified)
    # Alone this cannot be told from a sound run; with its journal it can.
    assert not examine(Folder("x", {CERTIFICATE: raised, JOURNAL: b""}, whole=False), [], recompute()).genuine


def test_a_forged_certificate_beside_its_journal(unsigned: Path) -> None:
    """Consistent in itself, with another seed: its journal says otherwise."""
    statement = Statement.model_validate_json((unsigned / CERTIFICATE).read_bytes())
    (unsigned / CERTIFICATE).write_bytes(edit(statement, lambda d, t: t["scope"].update(seed=9)))
    found = looked_at(unsigned)
    assert not found.genuine
    assert "does not follow from the journal" in said(found)


SCHEMAS = ["bi-harness/certificate/2", "bi-harness/certificate/1 ", "", None, 1, {"a": 1}]


@pytest.mark.parametrize("schema", SCHEMAS, ids=repr)
def test_an_unknown_schema_is_refused_with_a_message(unsigned: Path, schema: object) -> None:
    data = json.loads((unsigned / CERTIFICATE).read_text())
    data["predicate"]["bi_harness"]["schema"] = schema
    (unsigned / CERTIFICATE).write_text(json.dumps(data))
    found = looked_at(unsigned)
    assert found.statement is None
    assert "its schema is" in said(found)
    assert "knows bi-harness/certificate/1 alone" in said(found)


@pytest.mark.parametrize(
    "text",
    [b"", b"{", b"null", b"[]", b"\xff\xfe", b"{}", b"[" * 100_000, b'{"predicate": {"bi_harness": []}}'],
)
def test_what_is_no_certificate(tmp_path: Path, text: bytes) -> None:
    (tmp_path / CERTIFICATE).write_bytes(text)
    found = looked_at(tmp_path / CERTIFICATE)
    assert found.statement is None
    assert not found.genuine


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace('"seed": 0', '"seed": 0.0'),
        lambda text: text.replace('"seed": 0', '"seed": "0"'),
        lambda text: text.replace('"seed": 0', '"seed": 0, "extra": 1'),
        lambda text: text.replace('"seed": 0', '"seed": 0, "seed": 0'),
        lambda text: text.replace("\n", ""),
        lambda text: text + " ",
    ],
    ids=["float", "text", "unknown key", "twice", "other spelling", "trailing"],
)
def test_the_schema_is_strict_and_the_spelling_the_only_one(
    unsigned: Path, change: Callable[[str], str]
) -> None:
    text = (unsigned / CERTIFICATE).read_text()
    assert change(text) != text
    (unsigned / CERTIFICATE).write_text(change(text))
    assert not looked_at(unsigned / CERTIFICATE).genuine


def test_what_is_missing(run: Path, tmp_path: Path) -> None:
    for name in REPORTS:
        (run / name).unlink()
    shutil.rmtree(run / "logs")
    found = looked_at(run, KEY)
    assert found.genuine, "reports and logs may be left behind"
    assert "cells.parquet" in notes(found)
    assert "5 files that were signed are not there" in notes(found)
    (run / JOURNAL).unlink()
    assert "events.jsonl: is not there" in said(looked_at(run, KEY)), "of a run's folder it is asked for"
    alone = looked_at(run / CERTIFICATE, KEY)
    assert alone.genuine
    assert not alone.journal
    (run / CERTIFICATE).unlink()
    assert not looked_at(run, KEY).genuine
    assert looked_at(run / ENVELOPE, KEY).genuine
    (run / ENVELOPE).unlink()
    assert "is not there" in said(looked_at(run, KEY))
    with pytest.raises(UsageError):
        read_folder(run / CERTIFICATE)


def test_a_certificate_by_another_name_stands_alone(run: Path, tmp_path: Path) -> None:
    shutil.copy(run / CERTIFICATE, tmp_path / "cert.json")
    shutil.copy(run / ENVELOPE, tmp_path / "cert.dsse")
    assert looked_at(tmp_path / "cert.json").genuine
    assert not looked_at(tmp_path / "cert.json", KEY).genuine
    assert looked_at(tmp_path / "cert.dsse", KEY).genuine


def test_another_versions_rendering_is_told_from_a_change_by_the_signature(tmp_path: Path) -> None:
    """A report of other bytes that the key vouches for was rendered by another version; one it does not was
    changed, as far as anybody can tell."""
    statement = write_run(tmp_path / "run", sound())
    (tmp_path / "run" / "certificate.html").write_text("as an older version rendered it")
    found = looked_at(tmp_path / "run")
    assert "certificate.html: is not what this version" in said(found)
    from bi_harness.report.sealed import write_sealed

    write_sealed(statement, tmp_path / "run", SIGNER)
    found = looked_at(tmp_path / "run", KEY)
    assert found.genuine, said(found)
    assert "another version of bi-harness rendered it" in notes(found)
    assert not looked_at(tmp_path / "run").genuine, "nobody checked the signature"
    assert not looked_at(tmp_path / "run", OTHER.public_key, must_be_signed=False).genuine
    (tmp_path / "run" / "certificate.html").write_text("changed since")
    assert "certificate.html: was changed" in said(looked_at(tmp_path / "run", KEY))


def test_the_signed_list_of_another_run_is_not_taken(run: Path, tmp_path: Path) -> None:
    write_run(tmp_path / "other", sound(result("fail")), SIGNER)
    for name in (FILES_ENVELOPE, ENVELOPE):
        before = (run / name).read_bytes()
        shutil.copy(tmp_path / "other" / name, run / name)
        assert not looked_at(run, KEY).genuine
        (run / name).write_bytes(before)
    assert looked_at(run, KEY).genuine


def test_signed_things_that_are_no_such_things(run: Path) -> None:
    for name in (ENVELOPE, FILES_ENVELOPE):
        before = (run / name).read_bytes()
        (run / name).write_bytes(seal(b"nonsense", SIGNER))
        assert not looked_at(run, KEY).genuine
        (run / name).write_bytes(before)


def test_reports_of_what_cannot_be_rendered_are_not_shown_good(unsigned: Path) -> None:
    def broken(statement: Statement) -> bytes:
        raise ValueError("no")

    honest = recompute()
    from dataclasses import replace

    reports = {**honest.reports, "junit.xml": broken}
    found = examine(read_folder(unsigned), [], replace(honest, reports=reports))
    assert "junit.xml: cannot be rendered" in said(found)


def test_what_cannot_be_read(unsigned: Path) -> None:
    (unsigned / "junit.xml").unlink()
    (unsigned / "junit.xml").mkdir()
    assert "junit.xml: cannot be read: it is not a file" in said(looked_at(unsigned))


def test_a_skipped_cell_and_a_dirty_harness_are_as_genuine(tmp_path: Path) -> None:
    plan = (started().plan[0], skipped())
    dirty = started(
        *plan,
        provenance={**started().provenance, "harness": {"version": "0.1", "dirty": True}},
    )
    statement = write_run(tmp_path / "run", [dirty, *sound()[1:]])
    told = statement.predicate.bi_harness
    assert told.verdict == "CERTIFIED"
    assert "dirty" in told.why
    for name in ("certificate.html", "certificate.md"):
        assert "dirty" in (tmp_path / "run" / name).read_text()
    assert looked_at(tmp_path / "run").genuine


def test_engines_that_do_not_agree_are_as_genuine(tmp_path: Path) -> None:
    events = sound()
    events.insert(3, ready("control", vllm={"version": "0.33.0"}))
    write_run(tmp_path / "run", events)
    assert looked_at(tmp_path / "run").genuine
