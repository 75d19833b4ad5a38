"""Which runs the tests use: those that git tracks, whatever else lies below ``reports/``."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.kept import ROOT, VERDICTS, kept_folders, kept_run, kept_runs, tracked_runs

GIT = ("git", "-c", "user.name=x", "-c", "user.email=x@example.org", "-c", "commit.gpgsign=false")
KEPT = ("cpu/20260101T000000Z-aaaaaa", "h200/0.25.1/20260102T000000Z-bbbbbb")

needs_git = pytest.mark.skipif(tracked_runs(ROOT) is None, reason="not in a git checkout")


def write_run(reports: Path, run: str, *names: str) -> None:
    (reports / run).mkdir(parents=True)
    for name in names:
        (reports / run / name).write_text("{}")


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout with two kept runs and everything that users' runs leave next to them."""
    if shutil.which("git") is None:
        pytest.skip("no git here")
    folder = tmp_path / "checkout"
    reports = folder / "reports"
    folder.mkdir()
    shutil.copy(ROOT / ".gitignore", folder)
    subprocess.run([*GIT, "init", "-q"], cwd=folder, check=True)
    for run in KEPT:
        write_run(reports, run, "certificate.json", "events.jsonl", "certificate.html")
        subprocess.run([*GIT, "add", "-f", f"reports/{run}"], cwd=folder, check=True)
    subprocess.run([*GIT, "add", "."], cwd=folder, check=True)
    subprocess.run([*GIT, "commit", "-q", "-m", "Keep two runs"], cwd=folder, check=True)
    write_run(reports, "cpu/20260103T000000Z-cccccc", "certificate.json", "events.jsonl")
    write_run(reports, "cpu/20260104T000000Z-dddddd", "events.jsonl")
    write_run(reports, "cpu/20260104T000000Z-dddddd/.work/unit", "events.jsonl", "certificate.json")
    write_run(reports, "selftest/20260105T000000Z-eeeeee/fault/cpu/run", "certificate.json", "selftest.json")
    write_run(reports, "h200/0.25.1/20260106T000000Z-ffffff", "certificate.json")
    return folder


def test_runs_of_users_are_not_listed(checkout: Path) -> None:
    assert tracked_runs(checkout) == sorted(KEPT)


def test_a_source_archive_has_no_list(checkout: Path, tmp_path: Path) -> None:
    archive = checkout / "unpacked"
    shutil.copytree(checkout / "reports", archive / "reports")
    assert tracked_runs(archive) is None, "inside another checkout"
    shutil.copytree(checkout / "reports", tmp_path / "elsewhere" / "reports")
    assert tracked_runs(tmp_path / "elsewhere") is None
    assert tracked_runs(tmp_path / "missing") is None


@needs_git
def test_every_kept_run_has_its_verdict_in_the_table() -> None:
    assert set(VERDICTS) == set(kept_runs())
    assert len(kept_runs()) >= 10
    assert all((folder / "certificate.json").is_file() for folder in kept_folders())


@needs_git
def test_a_run_that_is_not_kept_is_refused() -> None:
    with pytest.raises(LookupError, match="not a kept run"):
        kept_run("cpu/20260103T000000Z-cccccc")


@needs_git
@pytest.mark.parametrize("target", ["times", "releases"])
def test_make_reads_the_kept_runs_alone(target: str) -> None:
    if shutil.which("make") is None:
        pytest.skip("no make here")
    command = ["make", "--dry-run", "--no-print-directory", target]
    shown = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert sorted(set(re.findall(r"reports/(\S+)/(?=\s)", shown))) == sorted(kept_runs())


def test_kept_folders_below_a_folder() -> None:
    assert kept_folders("h200/0.25") == []
    assert {*kept_folders("cpu"), *kept_folders("h200"), *kept_folders("h200x2")} == {*kept_folders()}


@needs_git
def test_no_test_looks_into_reports_by_itself() -> None:
    """A path to ``reports/`` of the checkout is written in ``tests/kept.py`` alone."""
    pattern = re.compile(r"""ROOT\s*/\s*f?["']reports|["']reports/\*|ls-files["'], ["']reports""")
    files = [path for path in (ROOT / "tests").rglob("*.py") if path.name not in ("kept.py", Path(__file__).name)]
    assert len(files) > 100
    assert [str(path) for path in files if pattern.search(path.read_text(encoding="utf-8"))] == []
