"""Finding certificates and making rows of them: what is not genuine never counts."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from bi_harness.certificate.sign import load_signing_key, seal
from bi_harness.certificate.statement import Statement
from bi_harness.cli import dashboard
from bi_harness.cli import main as cli
from bi_harness.errors import UsageError
from bi_harness.report.dashboard.collect import collect, dump_stats, load_stats, sources
from bi_harness.report.dashboard.rows import Row, _starts, identity
from bi_harness.report.read import read_certificate
from tests.kept import kept_run

CPU = kept_run("cpu/20261121T110032Z-796804")
H200 = kept_run("h200/0.25.1/20261121T090556Z-b9ea69")
PART = kept_run("h200/0.25.1/20261121T090857Z-dcb970")

look = partial(dashboard._look, keys=(), signed_only=False)


def rows(*paths: Path) -> tuple[Row, ...]:
    return collect([str(path) for path in paths], look).rows


def copy(source: Path, to: Path, *names: str) -> Path:
    to.mkdir(parents=True)
    for name in names or ("certificate.json", "events.jsonl"):
        shutil.copy(source / name, to / name)
    return to


def test_a_kept_run() -> None:
    (one,) = rows(H200)
    assert one.counts
    assert one.journal
    assert (one.device, one.vllm, one.night, one.verdict) == ("h200", "0.25.1", "2026-11-21", "NOT_CERTIFIED")
    assert one.variant == "synthetic weights"
    assert not one.partial
    run = next(cell for cell in one.cells if "f" in cell.statuses)
    assert len(run.statuses) == len(run.checks.split("\n")) == 14
    (told,) = json.loads(one.told)
    assert told["check"] == "sampling"
    assert told["where"].startswith("First at prompt")
    assert "-k sampling" in told["command"]
    assert {start.mode for start in one.starts} == {"compile"}


@pytest.mark.parametrize(
    ("config", "kind"),
    [
        ({"enforce_eager": True, "compilation_mode": "NONE"}, "eager"),
        ({"enforce_eager": False, "compilation_mode": "VLLM_COMPILE"}, "compile"),
        ({"enforce_eager": False, "compilation_mode": "DYNAMO_TRACE_ONCE"}, "compile"),
        # Mode default with breakable CUDA graphs.
        ({"enforce_eager": False, "compilation_mode": "NONE", "cudagraph_mode": "FULL"}, "graphs"),
        # Certificates from before the compilation mode was read back.
        ({"enforce_eager": False}, "compile"),
        ({"enforce_eager": "no"}, None),
        ({}, None),
    ],
)
def test_start_is_counted_by_what_the_engine_ran(config: dict[str, object], kind: str | None) -> None:
    result = read_certificate(H200 / "certificate.json").predicate.bi_harness
    arm = result.effective[0].model_copy(update={"config": config, "start_s": 5.0})
    starts = _starts(result.model_copy(update={"effective": (arm,)}))
    assert [(start.mode, start.seconds) for start in starts] == ([] if kind is None else [(kind, 5.0)])


def test_a_part_of_a_suite() -> None:
    (one,) = rows(PART)
    assert one.partial


def test_the_certificate_alone(tmp_path: Path) -> None:
    (one,) = rows(copy(CPU, tmp_path / "run", "certificate.json"))
    assert one.counts
    assert not one.journal


def _flip(data: bytes) -> bytes:
    at = len(data) // 2
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


def _pass(data: bytes) -> bytes:
    return data.replace(b'"status": "fail"', b'"status": "pass"', 1)


def _verdict(data: bytes) -> bytes:
    return data.replace(b'"verdict": "NOT_CERTIFIED"', b'"verdict": "CERTIFIED"')


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda data: b"",
    "cut off": lambda data: data[: len(data) // 2],
    "a flipped bit": _flip,
    "a failure that reads pass": _pass,
    "another verdict": _verdict,
    "another schema": lambda data: data.replace(b"bi-harness/certificate/1", b"bi-harness/certificate/9"),
    "no certificate": lambda data: b'{"hello": "world"}',
    "a list": lambda data: b"[]",
    "nesting": lambda data: b"[" * 200_000,
    "not UTF-8": lambda data: b"\xff\xfe" + data,
    "spelled otherwise": lambda data: data.replace(b"\n", b"\r\n", 1),
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("journal", [True, False])
def test_what_is_damaged_or_changed_does_not_count(tmp_path: Path, damage: str, journal: bool) -> None:
    names = ("certificate.json", *(("events.jsonl",) if journal else ()))
    run = copy(H200, tmp_path / "run", *names)
    file = run / "certificate.json"
    file.write_bytes(DAMAGES[damage](file.read_bytes()))
    (one,) = rows(run)
    assert not one.counts
    assert one.why
    assert one.cells == ()


def test_a_journal_of_another_run(tmp_path: Path) -> None:
    run = copy(H200, tmp_path / "run")
    shutil.copy(CPU / "events.jsonl", run / "events.jsonl")
    (one,) = rows(run)
    assert "journal" in one.why or "events.jsonl" in one.why


def test_a_journal_without_a_certificate(tmp_path: Path) -> None:
    (one,) = rows(copy(CPU, tmp_path / "run", "events.jsonl"))
    assert "a journal without a certificate" in one.why


def test_a_planted_fault_says_nothing(tmp_path: Path) -> None:
    from bi_harness.certificate.build import build
    from bi_harness.certificate.events import EngineReady
    from bi_harness.runner.journal import read

    events, digest = read(CPU / "events.jsonl")
    planted = [
        event.model_copy(
            update={
                "arm": event.arm.model_copy(update={"config": {**event.arm.config, "planted_fault": "ulp"}})
            }
        )
        if isinstance(event, EngineReady)
        else event
        for event in events
    ]
    (tmp_path / "certificate.json").write_text(build(planted, digest).to_json())
    (one,) = rows(tmp_path)
    assert "planted" in one.why


def test_pipes_links_and_folders(tmp_path: Path) -> None:
    for name in ("pipe", "folder", "loop", "device"):
        (tmp_path / name).mkdir()
    os.mkfifo(tmp_path / "pipe" / "certificate.json")
    (tmp_path / "folder" / "certificate.json").mkdir()
    (tmp_path / "loop" / "certificate.json").symlink_to("certificate.json")
    (tmp_path / "device" / "certificate.json").symlink_to("/dev/zero")
    (tmp_path / "circle").symlink_to(tmp_path)
    found = rows(tmp_path)
    assert len(found) == 3, "a folder of that name is no file"
    assert all("cannot be read" in one.why for one in found)


def test_what_is_found(tmp_path: Path) -> None:
    copy(CPU, tmp_path / "a" / "b" / "run", "certificate.json")
    copy(H200, tmp_path / "a" / "other", "certificate.json")
    copy(CPU, tmp_path / "a" / ".work" / "x", "certificate.json")
    shutil.copy(CPU / "certificate.json", tmp_path / "mine.json")
    a = tmp_path / "a"
    assert [one.shown for one in sources([str(a)])] == ["a/b/run", "a/other"]
    assert len(sources([str(a), str(a / "other"), str(a / "*")])) == 2
    assert len(sources([f"{tmp_path}/**/run"])) == 1
    assert len(rows(tmp_path / "mine.json")) == 1
    for none in ("nowhere", "no*where", "a\0b"):
        with pytest.raises(UsageError, match="no file or folder"):
            sources([str(tmp_path / none)])


def test_an_envelope_by_itself(tmp_path: Path) -> None:
    assert cli.main(["key", "new", "--out", str(tmp_path / "k.pem")]) == 0
    signer = load_signing_key(tmp_path / "k.pem")
    (tmp_path / "mine.json").write_bytes(seal((CPU / "certificate.json").read_bytes(), signer))
    (one,) = rows(tmp_path / "mine.json")
    assert one.counts, one.why
    assert one.signatures == (signer.public_key.keyid,)
    assert one.signed_by == ()


def test_known_is_not_looked_at_again(tmp_path: Path) -> None:
    run = copy(CPU, tmp_path / "run")
    first = collect([str(tmp_path)], look)

    def never(*_: object) -> Row:
        raise AssertionError("it was examined again")

    (digest,) = (row.digest for row in first.rows)
    again = collect([str(tmp_path)], never, known=[digest], stats=first.stats)
    assert again.rows == ()
    assert dict(again.known) == {digest: f"{tmp_path.name}/run"}
    # By its bytes, where the file system tells something else.
    os.utime(run / "certificate.json")
    assert collect([str(tmp_path)], never, known=[digest], stats=first.stats).rows == ()
    # A file that was changed in place, its time set back, is seen.
    before = (run / "certificate.json").stat()
    (run / "certificate.json").write_bytes(_flip((run / "certificate.json").read_bytes()))
    os.utime(run / "certificate.json", ns=(before.st_atime_ns, before.st_mtime_ns))
    (changed,) = collect([str(tmp_path)], look, known=[digest], stats=first.stats).rows
    assert not changed.counts


def test_stats_of_another_form_are_none(tmp_path: Path) -> None:
    path = tmp_path / "s"
    assert load_stats(path) == {}
    for text in ("", "[]", "[" * 100_000, '{"a": 1, "b": ["x", 2], "c": ["x"]}', "\xff"):
        path.write_text(text, encoding="latin-1")
        assert load_stats(path) == {}
    path.write_bytes(dump_stats({"a": ("s", "d")}))
    assert load_stats(path) == {"a": ("s", "d")}


@pytest.mark.alone
def test_many_in_processes_of_their_own(tmp_path: Path) -> None:
    for i in range(26):
        copy(PART, tmp_path / f"run{i:02}", "certificate.json")
    file = tmp_path / "run07" / "certificate.json"
    file.write_bytes(_verdict(_pass(file.read_bytes())) + b" ")
    one, many = (collect([str(tmp_path)], look, jobs=jobs) for jobs in (1, 2))
    assert one.rows == many.rows
    assert [not row.counts for row in many.rows].count(True) == 1


def test_names_stay_apart() -> None:
    assert identity("h200/m/x") == "h200/m/x"
    texts = ["a" * 300, "a" * 301, "a\x1b[31m", "a\u202e", "", " ", "a  b", "a b", "\ud800"]
    assert len({identity(text) for text in texts}) == len(texts)
    assert all(len(identity(text)) < 300 and identity(text).isprintable() for text in texts)


def test_times_that_are_none() -> None:
    statement = read_certificate(CPU)
    for text in ("", "yesterday", "9999-99-99", "x" * 100_000):
        assert _row(statement, text).why == "it does not tell when its run began"
    assert _row(statement, "2026-11-21T23:30:00-05:00").night == "2026-11-22"


def _row(statement: Statement, started: str) -> Row:
    from bi_harness.certificate.verify import Examined
    from bi_harness.report.dashboard.rows import row_of

    result = statement.predicate.bi_harness.model_copy(update={"started": started})
    predicate = statement.predicate.model_copy(update={"bi_harness": result})
    other = statement.model_copy(update={"predicate": predicate})
    return row_of(Examined("x", other, "d", (), (), (), journal=False), "d", "x")


def test_what_was_not_read_is_listed(tmp_path: Path) -> None:
    reports = tmp_path / "reports"
    copy(CPU, reports / "good")
    copy(H200, tmp_path / "elsewhere" / "bad")
    (reports / "h200").symlink_to(tmp_path / "elsewhere")
    (reports / "gone").symlink_to("/nowhere")
    copy(H200, reports / "good" / ".work" / "bad")
    found = collect([str(reports)], look)
    assert [row.counts for row in found.rows] == [True]
    assert [(row.path, row.counts) for row in found.unread] == [
        ("reports/gone", False),
        ("reports/good/.work", False),
        ("reports/h200", False),
    ]
    assert all(row.why.startswith("not read: ") for row in found.unread)
    both = collect([str(reports), str(tmp_path / "elsewhere")], look)
    assert len(both.rows) == 2
    assert [row.path for row in both.unread] == ["reports/gone", "reports/good/.work"]


def test_link_and_pattern_that_were_given_are_followed(tmp_path: Path) -> None:
    copy(CPU, tmp_path / "mnt" / "run")
    (tmp_path / "link").symlink_to(tmp_path / "mnt")
    (tmp_path / "dangling").symlink_to("/nowhere")
    assert len(rows(tmp_path / "link")) == 1
    found = collect([f"{tmp_path}/*"], look)
    assert found.unread == ()
    assert sorted(row.counts for row in found.rows) == [False, True], "the dangling one is named"
