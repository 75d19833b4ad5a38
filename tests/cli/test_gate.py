"""``bi-harness gate``: exit codes, what is written, and what is found below a folder."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from xml.etree import ElementTree

import pytest

from bi_harness.certificate.sign import load_signing_key, new_key
from bi_harness.cli import main as cli
from bi_harness.exits import ExitCode
from tests.certificate.journals import result, sound
from tests.certificate.policies import run
from tests.certificate.runs import SIGNER, write_run

POLICY = """\
requires:
  - {devices: cpu, models: [MODELS], suites: core, modes: eager}
vllm: ">=0.30"
"""
NOW = "2026-01-15T09:00:00Z"


@pytest.fixture
def reports(tmp_path: Path) -> Path:
    write_run(tmp_path / "reports" / "cpu" / "good", run())
    return tmp_path / "reports"


def policy(tmp_path: Path, models: str = "tiny", more: str = "") -> str:
    path = tmp_path / "release.yaml"
    path.write_text(POLICY.replace("MODELS", models) + more)
    return str(path)


def gate(tmp_path: Path, *args: str | Path) -> int:
    return cli.main(["gate", "--policy", policy(tmp_path), *map(str, args)])


def test_all_is_met(tmp_path: Path, reports: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for place in (reports, reports / "cpu" / "good", reports / "cpu" / "good" / "certificate.json"):
        assert gate(tmp_path, place) == 0
        assert "The gate is open: 1 of 1 requirement met" in capsys.readouterr().out


def test_what_is_missing_is_said_everywhere(
    tmp_path: Path, reports: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page, cases = tmp_path / "gate.md", tmp_path / "gate.xml"
    args = ["gate", "--policy", policy(tmp_path, "tiny, big"), str(reports), "--now", NOW, "--json"]
    assert cli.main([*args, "--md", str(page), "--junit", str(cases)]) == ExitCode.NOT_CERTIFIED
    told = json.loads(capsys.readouterr().out)
    assert (told["passed"], told["now"]) == (False, NOW)
    assert [r["state"] for r in told["requirements"]] == ["met", "unmet"]
    command = "bi-harness run --device cpu --model big --suite core --mode eager"
    assert told["requirements"][1]["would_meet"].startswith(command)
    assert "1 of 2 requirements met" in page.read_text()
    assert command in page.read_text()
    document = ElementTree.parse(cases).getroot()
    assert (document.get("tests"), document.get("failures")) == ("3", "1")
    (failure,) = document.iter("failure")
    assert command in str(failure.text)
    assert cli.main(args[:-1]) == ExitCode.NOT_CERTIFIED
    assert f"What would meet it: {command}" in capsys.readouterr().out


def test_no_reports(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").mkdir()
    cases = tmp_path / "gate.xml"
    assert gate(tmp_path, tmp_path / "empty", "--junit", cases) == ExitCode.NOT_CERTIFIED
    assert "CLOSED" in capsys.readouterr().out
    assert ElementTree.parse(cases).getroot().get("failures") == "2"


def test_inconclusive_evidence_alone(tmp_path: Path) -> None:
    write_run(tmp_path / "a", run(sound(result("error"))))
    assert gate(tmp_path, tmp_path / "a") == ExitCode.INCONCLUSIVE


def test_a_failing_run_beside_a_good_one(tmp_path: Path, reports: Path) -> None:
    write_run(reports / "cpu" / "red", run(sound(result("fail"))))
    assert gate(tmp_path, reports) == ExitCode.NOT_CERTIFIED


def test_a_failing_run_whose_certificate_was_taken_away(
    tmp_path: Path, reports: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_run(reports / "cpu" / "red", run(sound(result("fail"))))
    for name in ("certificate.json", "certificate.html"):
        (reports / "cpu" / "red" / name).unlink()
    assert gate(tmp_path, reports) == ExitCode.NOT_CERTIFIED
    assert "`bi-harness report` writes it" in capsys.readouterr().out
    shutil.move(reports / "cpu" / "red", reports / ".work")
    assert gate(tmp_path, reports) == ExitCode.NOT_CERTIFIED
    assert "left by a run that was killed" in capsys.readouterr().out


def test_a_changed_certificate_blocks(
    tmp_path: Path, reports: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_run(reports / "cpu" / "red", run(sound(result("fail"))))
    path = reports / "cpu" / "red" / "certificate.json"
    path.write_text(path.read_text().replace("NOT_CERTIFIED", "CERTIFIED").replace("FAILED", "PASSED"))
    assert gate(tmp_path, reports) == ExitCode.NOT_CERTIFIED
    assert "not genuine" in capsys.readouterr().out


def test_keys_are_beside_the_policy(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    new_key(tmp_path / "k.pem")
    asked = policy(tmp_path, more="keys: k.pem.pub\n")
    write_run(tmp_path / "a", run(), SIGNER)
    assert cli.main(["gate", "--policy", asked, str(tmp_path / "a")]) == ExitCode.NOT_CERTIFIED
    assert "none of the policy's keys signed it" in capsys.readouterr().out
    write_run(tmp_path / "b", run(), load_signing_key(tmp_path / "k.pem"))
    assert cli.main(["gate", "--policy", asked, str(tmp_path / "b")]) == 0
    assert cli.main(["gate", "--policy", asked, str(tmp_path / "a"), str(tmp_path / "b")]) == 0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "must be a mapping"),
        ("requires: []\nvllm: '>=0'\n", "requires"),
        (POLICY.replace("MODELS", "tiny") + "allow_all: true\n", 'unknown key "allow_all"'),
        (POLICY.replace("MODELS", "tiny") + "keys: nowhere.pub\n", "cannot read the key"),
    ],
)
def test_a_bad_policy(
    tmp_path: Path, reports: Path, text: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "p.yaml").write_text(text)
    assert cli.main(["gate", "--policy", str(tmp_path / "p.yaml"), str(reports)]) == ExitCode.USAGE
    captured = capsys.readouterr()
    assert captured.out == ""
    assert message in captured.err


def test_bad_arguments(tmp_path: Path, reports: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert gate(tmp_path) == ExitCode.USAGE
    assert gate(tmp_path, tmp_path / "nowhere") == ExitCode.USAGE
    assert gate(tmp_path, reports, "--now", "soon") == ExitCode.USAGE
    assert cli.main(["gate", str(reports)]) == ExitCode.USAGE
    assert "Traceback" not in capsys.readouterr().err
