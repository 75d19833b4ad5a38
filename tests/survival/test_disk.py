"""A disk that is full while a run goes on: it ends, says so, and goes on when there is room."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from bi_harness.certificate.build import build
from bi_harness.errors import InfrastructureError
from bi_harness.exits import ExitCode
from bi_harness.report.write import write_reports
from tests.certificate.journals import JOURNAL, sound
from tests.runner.standin import Standin, certificates
from tests.survival.runs import GOOD, folder, once, resume, statement, times_begun

# The runner's files may grow no more than so far: what is written beyond is cut off, as on a full disk.
NO_ROOM = """\
import resource, pathlib
(journal,) = pathlib.Path(os.environ["BI_HARNESS_OUT"]).glob("cpu/*/events.jsonl")
resource.prlimit(os.getppid(), resource.RLIMIT_FSIZE, (journal.stat().st_size + ROOM,) * 2)
"""


@pytest.mark.parametrize(
    "room", [pytest.param(0, marks=pytest.mark.long), 100, pytest.param(2000, marks=pytest.mark.long)]
)
def test_a_journal_that_cannot_grow(standin: Standin, room: int) -> None:
    standin.write(one=GOOD, two=once(standin, NO_ROOM.replace("ROOM", str(room))), three=GOOD)
    code, _, err = standin.finish("run")
    assert code == ExitCode.INFRASTRUCTURE, err
    assert "cannot write the journal" in err
    assert "events.jsonl" in err
    assert not certificates(standin.root / "out"), "nothing half-done reads as done"
    assert standin.marked() == []
    data = (folder(standin) / "events.jsonl").read_bytes()
    code, err = resume(standin)
    assert code == ExitCode.CERTIFIED, err
    whole = data[: data.rfind(b"\n") + 1]
    assert (folder(standin) / "events.jsonl").read_bytes().startswith(whole)
    assert times_begun(standin)["one"] == 1
    told = statement(folder(standin))
    assert told.predicate.bi_harness.resumed[0].torn == len(data) - len(whole)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one MiB, where one may be mounted."""
    place = tmp_path / "disk"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(place)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True).returncode != 0:
        pytest.skip("no file system can be mounted here")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


@pytest.mark.long
def test_a_disk_that_is_full(standin: Standin, small_disk: Path) -> None:
    """In the middle of a check, by what somebody else writes."""
    ballast = small_disk / "ballast"
    fill = f"""\
with open({str(ballast)!r}, "wb", buffering=0) as file:
    try:
        while True:
            file.write(b"x" * 4096)
    except OSError:
        pass
"""
    standin.write(one=GOOD, two=once(standin, fill), three=GOOD)
    code, _, err = standin.finish("run", BI_HARNESS_OUT=str(small_disk))
    assert code == ExitCode.INFRASTRUCTURE, err
    assert "No space left" in err
    assert not certificates(small_disk)
    (run,) = small_disk.glob("cpu/*")
    resumed = ("run", "--resume", str(run))
    code, _, err = standin.finish(*resumed)
    assert code == ExitCode.INFRASTRUCTURE, err
    assert not certificates(small_disk)
    ballast.unlink()
    code, _, err = standin.finish(*resumed)
    assert code == ExitCode.CERTIFIED, err


def test_a_report_on_a_full_disk_leaves_no_half_of_it(small_disk: Path) -> None:
    told = build(sound(), JOURNAL)
    (small_disk / "ballast").write_bytes(b"x" * (1 << 20))
    with pytest.raises(InfrastructureError, match="No space left"):
        write_reports(told, small_disk)
    assert [p.name for p in small_disk.iterdir()] == ["ballast"]
