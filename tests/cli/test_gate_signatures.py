"""``gate`` with keys and journals: a run whose signatures were taken away, or replaced, meets nothing."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from bi_harness.certificate.files import ENVELOPE, FILES_ENVELOPE
from bi_harness.certificate.sign import load_signing_key, new_key
from bi_harness.cli import main as cli
from bi_harness.exits import ExitCode
from tests.certificate.policies import run as clean_run
from tests.certificate.runs import OTHER, write_run

POLICY = """\
requires:
  - {devices: cpu, models: [tiny], suites: core, modes: eager}
vllm: ">=0.30"
keys: [k.pem.pub]
require_journal: true
"""


@pytest.fixture
def run(tmp_path: Path) -> Path:
    new_key(tmp_path / "k.pem")
    (tmp_path / "policy.yaml").write_text(POLICY)
    write_run(tmp_path / "reports" / "run", clean_run(), load_signing_key(tmp_path / "k.pem"))
    return tmp_path / "reports" / "run"


def gate(run: Path, *places: Path) -> int:
    policy = run.parent.parent / "policy.yaml"
    now = ["--now", "2026-01-15T09:00:00Z"]
    return cli.main(["gate", "--policy", str(policy), *now, *map(str, places or (run.parent,))])


def without_files(run: Path) -> None:
    (run / FILES_ENVELOPE).unlink()


def without_certificates(run: Path) -> None:
    (run / ENVELOPE).unlink()


def without_both(run: Path) -> None:
    without_files(run)
    without_certificates(run)


def forged_logs(run: Path) -> None:
    without_files(run)
    (run / "logs" / "unit.log").write_text("forged")


def linked_log(run: Path) -> None:
    (run.parent.parent / "forged").write_text("forged")
    (run / "logs" / "unit.log").unlink()
    (run / "logs" / "unit.log").symlink_to(run.parent.parent / "forged")


def other_list(run: Path) -> None:
    write_run(run.parent.parent / "other", clean_run(), OTHER)
    shutil.copy(run.parent.parent / "other" / FILES_ENVELOPE, run / FILES_ENVELOPE)


def other_certificate(run: Path) -> None:
    write_run(run.parent.parent / "other", clean_run(), OTHER)
    shutil.copy(run.parent.parent / "other" / ENVELOPE, run / ENVELOPE)


def forged_test_engine(run: Path) -> None:
    (run / "test-engine.json").write_text("[]")


CHANGES = [
    without_files,
    without_certificates,
    without_both,
    forged_logs,
    linked_log,
    other_list,
    other_certificate,
    forged_test_engine,
]


@pytest.mark.parametrize("change", CHANGES)
def test_gate_is_closed(run: Path, change: Callable[[Path], None]) -> None:
    assert gate(run) == 0
    change(run)
    assert gate(run) == ExitCode.NOT_CERTIFIED
    assert gate(run, run) == ExitCode.NOT_CERTIFIED


def test_gate_takes_a_signed_certificate_whose_list_lies_elsewhere_if_it_is_given_alone(run: Path) -> None:
    without_files(run)
    assert gate(run, run / "certificate.json") == 0


def test_run_in_a_job_signs_the_file_for_test_engine(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In a job `report` leaves it; with the key it is signed, without, what was signed stays as it is."""
    key = str(run.parent.parent / "k.pem")
    monkeypatch.setenv("BUILDKITE", "true")
    monkeypatch.setenv("PATH", "")
    assert cli.main(["report", str(run), "--sign-key", key]) == 0
    before = {path.name: path.read_bytes() for path in run.iterdir() if path.is_file()}
    assert "test-engine.json" in before
    capsys.readouterr()
    assert cli.main(["verify", str(run), "--key", f"{key}.pub"]) == 0
    assert "nobody signed" not in capsys.readouterr().out
    assert cli.main(["report", str(run)]) == 0
    assert before == {path.name: path.read_bytes() for path in run.iterdir() if path.is_file()}
    assert gate(run) == 0


def test_test_engine_file_of_an_unsigned_job_is_right(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that was signed outside of a job, and reported in one: nothing of it is refused."""
    monkeypatch.setenv("BUILDKITE", "true")
    monkeypatch.setenv("PATH", "")
    assert cli.main(["report", str(run)]) == 0
    assert (run / "test-engine.json").is_file()
    monkeypatch.delenv("BUILDKITE")
    assert cli.main(["verify", str(run), "--key", f"{run.parent.parent / 'k.pem'}.pub"]) == 0
    assert gate(run) == 0
