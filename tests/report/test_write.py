from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from bi_harness.certificate.statement import Statement
from bi_harness.errors import InfrastructureError
from bi_harness.report import write
from bi_harness.report.write import write_reports

from . import samples

NAMES = ["certificate.json", "certificate.html", "certificate.md", "junit.xml", "cells.parquet"]


@pytest.mark.parametrize("name", samples.ALL)
def test_every_file_is_the_same_again(name: str, tmp_path: Path) -> None:
    first = write_reports(samples.ALL[name](), tmp_path / "a")
    second = write_reports(samples.ALL[name](), tmp_path / "b")
    write_reports(samples.ALL[name](), tmp_path / "a")
    assert list(first) == NAMES
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == sorted(NAMES)
    for key in NAMES:
        assert first[key].read_bytes() == second[key].read_bytes()
        assert first[key].stat().st_mode & 0o777 == 0o644


def test_the_same_from_a_certificate_read_back(tmp_path: Path) -> None:
    statement = samples.failing_h200()
    again = Statement.model_validate_json(statement.to_json())
    first, second = write_reports(statement, tmp_path / "a"), write_reports(again, tmp_path / "b")
    assert all(first[key].read_bytes() == second[key].read_bytes() for key in NAMES)


def test_the_same_in_another_process(tmp_path: Path) -> None:
    """Neither the hash seed nor the time zone nor the locale has a say."""
    first = write_reports(samples.mixed(), tmp_path / "a")
    (tmp_path / "certificate.json").write_text(samples.mixed().to_json())
    program = (
        "import sys; from pathlib import Path; from bi_harness.certificate.statement import Statement;"
        "from bi_harness.report.write import write_reports;"
        "write_reports(Statement.model_validate_json(Path(sys.argv[1]).read_text()), Path(sys.argv[2]))"
    )
    environment = {
        "PYTHONHASHSEED": "77",
        "TZ": "Asia/Kathmandu",
        "LC_ALL": "C",
        "PYTHONPATH": ":".join(sys.path),
    }
    command = [sys.executable, "-c", program, str(tmp_path / "certificate.json"), str(tmp_path / "b")]
    subprocess.run(command, check=True, env=environment)
    assert all(first[key].read_bytes() == (tmp_path / "b" / key).read_bytes() for key in NAMES)


def test_a_folder_that_cannot_be_written_is_the_surroundings_fault(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InfrastructureError, match=r"cannot write .*certificate\.json"):
        write_reports(samples.empty(), tmp_path / "file")


def test_a_failed_write_leaves_the_old_file_and_no_litter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_reports(samples.empty(), tmp_path)
    before = (tmp_path / "certificate.json").read_bytes()

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(write.os, "fsync", full)
    with pytest.raises(InfrastructureError, match="No space left"):
        write_reports(samples.mixed(), tmp_path)
    assert (tmp_path / "certificate.json").read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(NAMES)
