"""``merge --sign-key``: nothing is signed that this merge did not write, and unchecked shards are told."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from bi_harness.certificate.files import ENVELOPE, FILES_ENVELOPE
from bi_harness.certificate.sign import load_signing_key, new_key
from bi_harness.cli import main as cli
from bi_harness.exits import ExitCode
from tests.certificate.runs import looked_at, said, write_run
from tests.certificate.shards import whole
from tests.cli.test_merge import folders, merged_to, refused
from tests.runner.fleet import files


@pytest.fixture
def key(tmp_path: Path) -> Path:
    new_key(tmp_path / "k.pem")
    return tmp_path / "k.pem"


def signing(key: Path) -> tuple[str, ...]:
    return ("--public-key", f"{key}.pub", "--sign-key", str(key))


def extra_log(merged: Path) -> None:
    (merged / "logs" / "evil.log").write_text("x")


def changed_log(merged: Path) -> None:
    (merged / "logs" / "unit.log").write_text("x")


def missing_log(merged: Path) -> None:
    (merged / "logs" / "unit.log").unlink()


def linked_log(merged: Path) -> None:
    shutil.copy(merged / "logs" / "unit.log", merged.parent / "copy")
    (merged / "logs" / "unit.log").unlink()
    (merged / "logs" / "unit.log").symlink_to(merged.parent.parent / "cpu" / "copy")


def linked_logs(merged: Path) -> None:
    shutil.move(merged / "logs", merged.parent.parent / "moved")
    (merged / "logs").symlink_to(merged.parent.parent / "moved")


def extra_shard(merged: Path) -> None:
    (merged / "logs" / "shards" / "4-of-3.dsse.json").write_text("{}")


def hidden(merged: Path) -> None:
    (merged / ".hidden").write_text("x")


def foreign(merged: Path) -> None:
    (merged / "notes").mkdir()
    (merged / "notes" / "x").write_text("x")


def pipe(merged: Path) -> None:
    os.mkfifo(merged / "logs" / "pipe")


def journal_alone(merged: Path) -> None:
    """As somebody could have made it beforehand: id and journal follow from the shards."""
    data = (merged / "events.jsonl").read_bytes()
    shutil.rmtree(merged)
    (merged / "logs").mkdir(parents=True)
    (merged / "events.jsonl").write_bytes(data)
    (merged / "logs" / "evil.log").write_text("x")


CHANGES = [
    extra_log,
    changed_log,
    missing_log,
    linked_log,
    linked_logs,
    extra_shard,
    hidden,
    foreign,
    pipe,
    journal_alone,
]


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("signed", [True, False])
def test_existing_folder_of_other_content_is_refused(
    tmp_path: Path,
    key: Path,
    change: Callable[[Path], None],
    signed: bool,
    capsys: pytest.CaptureFixture[str],
) -> None:
    runs = folders(tmp_path, signer=load_signing_key(key))
    merged = merged_to(tmp_path, runs)
    change(merged)
    told = refused(runs, capsys, *(signing(key) if signed else ()))
    assert "is there already" in told
    assert not (merged / ENVELOPE).exists()
    assert sorted(path.name for path in (tmp_path / "merged" / "cpu").iterdir() if path.is_dir()) == [
        merged.name
    ], "nothing is left beside it"


def test_existing_folder_of_a_link_is_refused(
    tmp_path: Path, key: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = folders(tmp_path, signer=load_signing_key(key))
    merged = merged_to(tmp_path, runs)
    shutil.move(merged, tmp_path / "moved")
    merged.symlink_to(tmp_path / "moved")
    assert "is there already" in refused(runs, capsys, *signing(key))


def test_existing_folder_of_the_same_content_is_signed(
    tmp_path: Path, key: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = folders(tmp_path, signer=load_signing_key(key))
    merged = merged_to(tmp_path, runs)
    (merged / "certificate.html").write_text("forged")
    (merged / "test-engine.json").write_text("forged")
    assert merged_to(tmp_path, runs, *signing(key)) == merged
    before = files(merged)
    assert {ENVELOPE, FILES_ENVELOPE} <= before.keys()
    assert merged_to(tmp_path, runs, *signing(key)) == merged
    assert merged_to(tmp_path, runs, "--public-key", f"{key}.pub") == merged
    assert files(merged) == before
    capsys.readouterr()
    assert cli.main(["verify", str(merged), "--key", f"{key}.pub"]) == 0, capsys.readouterr().out
    assert "forged" not in (merged / "test-engine.json").read_text()


@pytest.mark.parametrize("sign", [True, False])
@pytest.mark.parametrize("stripped", [(), (ENVELOPE,), (FILES_ENVELOPE,), (ENVELOPE, FILES_ENVELOPE)])
def test_unchecked_signatures_are_always_a_warning(
    tmp_path: Path, key: Path, stripped: tuple[str, ...], sign: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = folders(tmp_path, signer=load_signing_key(key))
    for name in stripped:
        (runs[1] / name).unlink()
    capsys.readouterr()
    merged_to(tmp_path, runs, *(("--sign-key", str(key)) if sign else ()))
    told = capsys.readouterr().err
    assert "warning: the shards' signatures were NOT checked" in told
    assert ("nobody signed" in told) is (ENVELOPE in stripped)
    if stripped:
        shutil.rmtree(tmp_path / "merged")
        assert str(runs[1]) in refused(runs, capsys, *signing(key))


def test_unsigned_whole_run_is_a_warning(
    tmp_path: Path, key: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_run(tmp_path / "run", whole(2))
    merged_to(tmp_path, [tmp_path / "run"], "--sign-key", str(key))
    assert "signatures were NOT checked" in capsys.readouterr().err


def test_verify_reads_shards_up_to_a_size_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    merged = merged_to(tmp_path, folders(tmp_path))
    journals = sorted((merged / "logs" / "shards").glob("*.jsonl"))
    monkeypatch.setattr("bi_harness.cli.examined.MAX_BYTES", 2**20)
    for path in journals:
        with path.open("ab") as file:
            file.truncate(2**19)
    assert "3-of-3.jsonl: cannot be read: it and the journals before it are" in said(looked_at(merged))


@pytest.mark.parametrize("name", ["logs/evil.log", "logs/deep/evil.log", "logs/.evil"])
def test_log_that_no_shard_signed_is_refused(
    tmp_path: Path, key: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = folders(tmp_path, signer=load_signing_key(key))
    (runs[1] / name).parent.mkdir(exist_ok=True)
    (runs[1] / name).write_text("x")
    assert f"{name}" in refused(runs, capsys, *signing(key))
    merged = merged_to(tmp_path, runs)
    assert looked_at(merged).genuine, said(looked_at(merged))


def test_checked_shards_give_a_run_that_verifies(
    tmp_path: Path, key: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = folders(tmp_path, signer=load_signing_key(key))
    merged = merged_to(tmp_path, runs, *signing(key))
    assert "NOT checked" not in capsys.readouterr().err
    assert cli.main(["verify", str(merged), "--key", f"{key}.pub"]) == ExitCode.CERTIFIED
