"""``bi-harness diff``: like diff, 0 for the same, 1 for another, and 4 for what cannot be read."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bi_harness.certificate.build import build
from bi_harness.certificate.statement import Statement
from bi_harness.cli import main as cli
from bi_harness.exits import ExitCode
from tests.certificate.journals import CELL, DIGEST, JOURNAL, evidence, planned, result, sound
from tests.kept import ROOT, kept_folders, kept_run
from tests.report import samples

EAGER = kept_run("h200/0.25.1/20261121T090241Z-212dcc")
COMPILED = kept_run("h200/0.25.1/20261121T090556Z-b9ea69")


def write(folder: Path, statement: Statement, name: str = "certificate.json") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(statement.to_json())
    return folder / name


def as_json(args: list[str], code: int, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    capsys.readouterr()
    assert cli.main(["diff", "--json", *args]) == code
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def test_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["diff", str(EAGER), str(EAGER / "certificate.json")]) == 0
    assert "Nothing differs." in capsys.readouterr().out
    (one,) = as_json([str(EAGER), str(EAGER)], 0, capsys)["differences"]
    assert one["differs"] is False
    assert one["checks"] == []


def test_another(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    args = [str(EAGER), str(COMPILED), "--md", str(tmp_path / "x" / "d.md")]
    assert cli.main(["diff", *args]) == 1
    captured = capsys.readouterr()
    assert "NOT CERTIFIED in both; checks: 28 gone, 28 new." in captured.out
    assert (tmp_path / "x" / "d.md").read_text().startswith("## Difference\n")
    (one,) = as_json(args, 1, capsys)["differences"]
    assert one["differs"] is True
    assert {change["kind"] for change in one["checks"]} == {"gone", "new"}
    assert one["before"]["name"] == str(EAGER)


def test_each_with_the_next(capsys: pytest.CaptureFixture[str]) -> None:
    found = as_json([str(EAGER), str(EAGER), str(COMPILED)], 1, capsys)["differences"]
    assert [one["differs"] for one in found] == [False, True]


def test_a_series_of_all_that_is_kept(capsys: pytest.CaptureFixture[str]) -> None:
    kept = kept_folders("h200/0.25.1")
    found = as_json(["--series", *map(str, kept), str(EAGER)], 1, capsys)
    assert len(found["entries"]) == len(kept), "one that is given twice counts once"
    bad = {(t["check"], t["first_bad"]) for t in found["tracks"] if t["first_bad"] is not None}
    assert ("sampling", 1) in bad
    assert cli.main(["diff", "--series", *map(str, kept_folders("cpu"))]) == 0
    assert "is bad where last known" in capsys.readouterr().out


def test_series_ends_as_the_verdicts_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Whatever the checks say: bits that differ across sizes, and a run that was cut off."""
    other = "sha256:" + "cd" * 32
    cells = [CELL, CELL.replace("dp1", "dp2")]
    results = [
        result(cell=cell, evidence=evidence(digest=bits, reference_digest=bits))
        for cell, bits in zip(cells, (DIGEST, other), strict=True)
    ]
    axes = build(sound(*results, plan=tuple(planned(cell=cell) for cell in cells)), JOURNAL)
    path = write(tmp_path / "axes", axes)
    assert cli.main(["diff", "--series", str(path)]) == 1
    assert "other bits on" in capsys.readouterr().out.replace("\n", " ")
    path = write(tmp_path / "cut", build(sound()[:-1], JOURNAL))
    assert cli.main(["diff", "--series", str(path)]) == 6
    assert "INCONCLUSIVE: no check has an answer" in capsys.readouterr().out
    path = write(tmp_path / "good", build(sound(), JOURNAL))
    assert cli.main(["diff", "--series", str(path)]) == 0


def test_a_series_by_a_variable(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BI_HARNESS_DIFF_SERIES", "1")
    monkeypatch.setenv("BI_HARNESS_JSON", "1")
    assert cli.main(["diff", str(EAGER)]) == 1
    assert "tracks" in json.loads(capsys.readouterr().out)


def deep() -> bytes:
    return b"[" * 100_000


BAD: dict[str, tuple[bytes | None, str]] = {
    "missing": (None, "cannot read the certificate"),
    "empty": (b"", "not a certificate of a form that this bi-harness knows"),
    "no JSON": (b"hello", "not a certificate"),
    "another thing": (b'{"a": 1}', "not a certificate"),
    "a list": (b"[]", "not a certificate"),
    "deep": (deep(), "not a certificate"),
    "not UTF-8": (b"\xff\xfe{}", "not a certificate"),
    "another schema": (
        samples.certified_cpu().to_json().replace("certificate/1", "certificate/2").encode(),
        "predicate.bi_harness.schema: ",
    ),
    "more than is known": (
        samples.certified_cpu()
        .to_json()
        .replace('"run_id"', '"\x1b[31mrun\\u001b[0m": 1, "run_id"')
        .encode(),
        "not a certificate",
    ),
    "another status": (
        samples.certified_cpu().to_json().replace('"status": "pass"', '"status": "fine"').encode(),
        "status: ",
    ),
}


@pytest.mark.parametrize(("content", "said"), BAD.values(), ids=BAD.keys())
@pytest.mark.parametrize("flags", [[], ["--series"], ["--json"]])
def test_what_cannot_be_read(
    tmp_path: Path, content: bytes | None, said: str, flags: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "certificate.json"
    if content is not None:
        path.write_bytes(content)
    assert cli.main(["diff", *flags, str(EAGER), str(path)]) == ExitCode.USAGE
    captured = capsys.readouterr()
    assert captured.out == ""
    assert said in captured.err
    assert "certificate.json" in captured.err
    assert "\x1b" not in captured.err
    assert "Traceback" not in captured.err


def test_other_mistakes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["diff", str(EAGER)]) == ExitCode.USAGE
    assert "diff needs two certificates" in capsys.readouterr().err
    assert cli.main(["diff"]) == ExitCode.USAGE
    assert cli.main(["diff", "--series", str(tmp_path)]) == ExitCode.USAGE
    assert "there is no certificate.json in it or below it" in capsys.readouterr().err
    assert cli.main(["diff", str(tmp_path), str(EAGER)]) == ExitCode.USAGE
    assert cli.main(["diff", "--series", str(write(tmp_path / "e", samples.empty()))]) == ExitCode.USAGE
    assert "does not tell when its run ended" in capsys.readouterr().err


def test_one_that_contradicts_itself_is_shown_with_a_warning(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    forged = samples.statement("CERTIFIED", (samples.check("a", "b", "fail"),))
    path = write(tmp_path, forged)
    assert cli.main(["diff", str(path), str(path)]) == 0
    assert "Contradiction: the verdict is CERTIFIED, but of the checks 1 fail." in capsys.readouterr().err


def test_hostile_certificates_drive_no_terminal(tmp_path: Path) -> None:
    path = write(tmp_path / "\x1b[31mred", samples.hostile())
    assert cli.main(["diff", str(path), str(path)]) == ExitCode.USAGE, "a number that no reader takes"
    path.write_text(re.sub("[0-9]{20,}", "7", path.read_text()))
    done = subprocess.run(
        [sys.executable, "-m", "bi_harness.cli", "diff", str(path), str(EAGER)],
        capture_output=True,
        timeout=120,
        cwd=ROOT,
    )
    assert done.returncode == 1, done.stderr
    assert b"\x1b" not in done.stdout + done.stderr
    assert b"Traceback" not in done.stderr
    data = subprocess.run(
        [sys.executable, "-m", "bi_harness.cli", "diff", "--json", str(path), str(EAGER)],
        capture_output=True,
        timeout=120,
        cwd=ROOT,
    )
    assert json.loads(data.stdout)["differences"][0]["differs"] is True


def test_a_folder_of_runs_keeps_its_links_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(EAGER, tmp_path / "a", ignore=shutil.ignore_patterns("logs"))
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "certificate.json").symlink_to(tmp_path / "a" / "certificate.json")
    found = as_json(["--series", str(tmp_path)], 1, capsys)
    assert len(found["entries"]) == 1


def good_series(folder: Path) -> Path:
    """A series in which no check is bad."""
    shutil.copytree(kept_folders("cpu")[0], folder / "good", ignore=shutil.ignore_patterns("logs"))
    return folder


def series(folder: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, dict[str, Any], str]:
    capsys.readouterr()
    code = cli.main(["diff", "--series", "--json", str(folder)])
    told = capsys.readouterr()
    return code, json.loads(told.out), told.err


def test_series_finds_runs_below_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good_series(tmp_path)
    shutil.copy(tmp_path / "good" / "certificate.json", tmp_path)
    code, found, _ = series(tmp_path, capsys)
    assert (code, len(found["entries"]), found["not_read"]) == (0, 2, [])
    shutil.copytree(EAGER, tmp_path / "good" / "bad", ignore=shutil.ignore_patterns("logs"))
    code, found, _ = series(tmp_path, capsys)
    assert (code, len(found["entries"])) == (1, 3)


@pytest.mark.parametrize(
    "how", ["journal alone", "envelope alone", "link", "dangling link", "left by a kill"]
)
def test_series_with_a_place_that_was_not_read_does_not_end_well(
    tmp_path: Path, how: str, capsys: pytest.CaptureFixture[str]
) -> None:
    reports = good_series(tmp_path / "reports")
    assert series(reports, capsys)[:1] == (0,)
    place = reports / "h200"
    if how == "left by a kill":
        place = reports / "good" / ".work"
    if "link" in how:
        place.symlink_to(EAGER if how == "link" else "/nowhere")
    else:
        place.mkdir()
        name = "certificate.dsse.json" if how == "envelope alone" else "events.jsonl"
        shutil.copy(EAGER / "events.jsonl", place / name)
    code, found, err = series(reports, capsys)
    assert (code, [one["path"] for one in found["not_read"]]) == (1, [str(place)])
    assert "INCOMPLETE: 1 place not read. " in err
    assert "None of" in err
    page = tmp_path / "series.md"
    assert cli.main(["diff", "--series", str(reports), "--md", str(page)]) == 1
    assert "INCOMPLETE" in page.read_text()
    assert "Not read: " in page.read_text()


@pytest.mark.parametrize("path", ["x" * 300, "x/" * 3_000, "loop", "caf\udce9", "dangling"])
@pytest.mark.parametrize("flags", [[], ["--series"]])
def test_path_that_cannot_be_used_is_a_mistake(
    tmp_path: Path, path: str, flags: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "dangling").symlink_to("nowhere")
    assert cli.main(["diff", *flags, str(EAGER), str(tmp_path / path)]) == ExitCode.USAGE
    told = capsys.readouterr()
    assert "cannot read" in told.err
    assert "Traceback" not in told.err
