"""``bi-harness releases``: the list on record, and the data from certificates that are genuine."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from bi_harness.cli import main as cli
from bi_harness.cli.run import warn_if_untried
from bi_harness.exits import ExitCode
from bi_harness.report.read import read_certificate
from bi_harness.report.releases import releases_of, render_releases
from bi_harness.spec import releases as module
from bi_harness.spec.load import load_data
from bi_harness.spec.releases import FILE, ReleasesFile, load_releases
from tests.certificate.journals import sound
from tests.certificate.runs import write_run
from tests.certificate.test_endpoint import of_endpoint
from tests.kept import kept_run

CPU = kept_run("cpu/20261121T110032Z-796804")
H200 = kept_run("h200/0.25.1/20261121T090556Z-b9ea69")
TRUNCATED = 900


def releases(*args: object, code: int = 0) -> None:
    assert cli.main(["releases", *map(str, args)]) == code


@pytest.fixture
def shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Another file in place of the shipped one."""
    path = tmp_path / "shipped" / FILE
    path.parent.mkdir()
    monkeypatch.setattr(module, "releases_path", lambda: path)
    return path


def test_the_list_on_record(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    releases()
    captured = capsys.readouterr()
    assert captured.err == ""
    (first,) = [line.split() for line in captured.out.splitlines() if "28 passed" in line]
    assert first[:4] == ["0.32.0", "cpu", "2026-11-21", "CERTIFIED:"]
    releases("--json")
    data = json.loads(capsys.readouterr().out)
    assert data == load_releases().model_dump(mode="json", by_alias=True)


def test_nothing_on_record(shipped: Path, capsys: pytest.CaptureFixture[str]) -> None:
    releases()
    assert capsys.readouterr().out == "No run is on record.\n"
    releases("--json")
    assert json.loads(capsys.readouterr().out)["runs"] == []


def test_a_mistake_in_the_shipped_file(shipped: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shipped.write_text("schema: bi-harness/releases/1\nruns:\n- vllm: newest\n")
    releases(code=ExitCode.USAGE)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert f"{FILE}:3: " in captured.err


def test_a_file_from_certificates(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    releases(H200, CPU)
    text = capsys.readouterr().out
    out, page = tmp_path / "new" / FILE, tmp_path / "new" / "releases.md"
    releases(CPU / "certificate.json", H200, H200, "--out", out, "--page", page)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.splitlines() == [f"{FILE}: {out}", f"releases.md: {page}"]
    assert out.read_text() == text
    assert [(run.vllm, run.device) for run in load_data(out, ReleasesFile).runs] == [
        ("0.25.1", "h200"),
        ("0.32.0", "cpu"),
    ]
    assert "## vLLM 0.32.0 on cpu" in page.read_text()


def test_the_shell_may_have_emptied_the_file(shipped: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As ``bi-harness releases RUN > releases.yaml`` does before the command starts."""
    shipped.touch()
    releases(CPU)
    assert "vllm: 0.32.0" in capsys.readouterr().out


def forged(to: Path) -> Path:
    shutil.copytree(H200, to)
    file = to / "certificate.json"
    file.write_text(file.read_text().replace('"NOT_CERTIFIED"', '"CERTIFIED"'))
    return to


def half_finished(to: Path) -> Path:
    to.mkdir()
    (to / "events.jsonl").write_bytes((CPU / "events.jsonl").read_bytes()[:TRUNCATED])
    return to


def no_certificate(to: Path) -> Path:
    to.mkdir()
    (to / "certificate.json").write_text('{"half":')
    return to


@pytest.mark.parametrize("make", [forged, half_finished, no_certificate])
def test_one_that_is_not_genuine_leaves_everything_as_it_was(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], make: object
) -> None:
    assert callable(make)
    bad = make(tmp_path / "bad")
    out = tmp_path / FILE
    out.write_text("before")
    releases(CPU, bad, "--out", out, "--page", tmp_path / "page.md", code=ExitCode.USAGE)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert f"{bad}: not a genuine certificate: " in captured.err
    assert "Traceback" not in captured.err
    assert out.read_text() == "before"
    assert not (tmp_path / "page.md").exists()


def test_a_missing_path(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    releases(tmp_path / "nowhere", code=ExitCode.USAGE)
    assert "nowhere" in capsys.readouterr().err


def test_a_run_on_a_server_is_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_run(tmp_path / "endpoint", of_endpoint(sound()))
    releases(CPU, tmp_path / "endpoint")
    captured = capsys.readouterr()
    assert "left out" in captured.err
    assert "running server" in captured.err
    assert captured.out.count("- vllm:") == 1
    releases(tmp_path / "endpoint", code=ExitCode.USAGE)
    assert "nothing written" in capsys.readouterr().err


def test_a_release_newer_than_any_tried_warns(shipped: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shipped.write_text(render_releases(releases_of([read_certificate(CPU)])))
    for vllm in ("0.33.0", "0.33.0rc1", "0.33.0.dev12+gabc"):
        warn_if_untried(vllm, "cpu")
        text = f"vLLM {vllm} was not tried with this version of bi-harness on cpu; newest tried: 0.32.0"
        assert capsys.readouterr() == ("", f"warning: {text}\n")
    for known in ("0.32.0", "0.31.0", None):
        warn_if_untried(known, "cpu")
    assert capsys.readouterr() == ("", "")


def test_a_damaged_file_warns_and_stops_nothing(shipped: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shipped.write_text("runs: 1\n")
    warn_if_untried("0.32.0", "cpu")
    captured = capsys.readouterr()
    assert captured.err.startswith("warning: cannot tell whether vLLM 0.32.0 was tried: ")


def test_place_that_was_not_read_leaves_everything_as_it_was(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(CPU, tmp_path / "reports" / "good")
    releases(tmp_path / "reports")
    (tmp_path / "reports" / "h200").symlink_to(H200)
    out = tmp_path / FILE
    releases(tmp_path / "reports", "--out", out, code=ExitCode.USAGE)
    assert f"not read: {tmp_path / 'reports' / 'h200'}: a link to {H200}" in capsys.readouterr().err
    assert not out.exists()
    releases(tmp_path / "reports", H200, "--out", out)
