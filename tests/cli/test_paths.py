"""Paths that are not UTF-8, too long or a loop of links: a mistake (4) or a finding (1), no traceback."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from bi_harness.certificate.sign import load_signing_key, new_key
from bi_harness.cli import main as cli
from bi_harness.exits import ExitCode
from tests.certificate.journals import sound
from tests.certificate.policies import CLEAN
from tests.certificate.runs import write_run
from tests.certificate.shards import whole

NOT_UTF_8 = os.fsdecode(b"r\xff\xfe")

BAD: dict[str, Callable[[Path], str]] = {
    "not UTF-8 and not there": lambda root: str(root / NOT_UTF_8),
    "a name too long": lambda root: str(root / ("x" * 300)),
    "a path too long": lambda root: str(root) + "/y" * 3000,
    "a loop of links": lambda root: looped(root / "loop"),
    "a folder in a loop": lambda root: f"{looped(root / 'loop')}/run",
    "a file as a folder": lambda root: str(root / "file" / "run"),
    "NUL": lambda root: f"{root}/a\0b",
    "empty": lambda root: "",
    "a pipe": lambda root: piped(root / "pipe"),
    "an empty folder": lambda root: str(root / "empty"),
}

POLICY = 'vllm: ">=0.30"\nrequires: [{devices: cpu, models: [m1, m2], suites: core, modes: eager}]\n'


def looped(path: Path) -> str:
    path.symlink_to(path.name)
    return str(path)


def piped(path: Path) -> str:
    os.mkfifo(path)
    return str(path)


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "file").write_text("x")
    (tmp_path / "empty").mkdir()
    (tmp_path / "policy.yaml").write_text(POLICY)
    monkeypatch.chdir(tmp_path / "empty")
    return tmp_path


def command(name: str, path: str, root: Path) -> list[str]:
    return {
        "verify": ["verify", path],
        "verify --json": ["verify", "--json", path],
        "report": ["report", path],
        "merge": ["merge", path, "--out", str(root / "out")],
        "gate": ["gate", "--policy", str(root / "policy.yaml"), path],
        "gate --json": ["gate", "--json", "--policy", str(root / "policy.yaml"), path],
    }[name]


NAMES = ["verify", "verify --json", "report", "merge", "gate", "gate --json"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("bad", BAD.values(), ids=BAD.keys())
def test_bad_path_is_a_mistake_or_a_finding(
    root: Path, name: str, bad: Callable[[Path], str], capsys: pytest.CaptureFixture[str]
) -> None:
    code = cli.main(command(name, bad(root), root))
    told = capsys.readouterr()
    assert code in (ExitCode.USAGE, ExitCode.NOT_CERTIFIED), (code, told.err)
    assert "Traceback" not in told.err
    assert not (root / "out").exists()


@pytest.mark.parametrize("bad", BAD.values(), ids=BAD.keys())
def test_bad_path_of_a_run_to_go_on_with_is_a_mistake(
    root: Path, bad: Callable[[Path], str], capsys: pytest.CaptureFixture[str]
) -> None:
    path = bad(root)
    for arguments in (["run", "--resume", path], ["localize", path, "x"], ["diff", path, path]):
        assert cli.main(arguments) == ExitCode.USAGE, arguments
        assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize("bad", BAD.values(), ids=BAD.keys())
def test_bad_path_of_a_key_is_a_mistake(
    root: Path, bad: Callable[[Path], str], capsys: pytest.CaptureFixture[str]
) -> None:
    write_run(root / "run", sound())
    path = bad(root)
    for arguments in (
        ["verify", str(root / "run"), "--key", path],
        ["merge", str(root / "run"), "--out", str(root / "out"), "--public-key", path],
        ["report", str(root / "run"), "--sign-key", path],
    ):
        assert cli.main(arguments) == ExitCode.USAGE, arguments
        assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize("name", ["certificate.json", "events.jsonl", "certificate.dsse.json", "logs"])
@pytest.mark.parametrize("command_", NAMES)
def test_loop_of_links_inside_a_run_is_a_mistake_or_a_finding(
    root: Path, name: str, command_: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run = root / "run"
    write_run(run, sound())
    if (run / name).exists():
        shutil.move(run / name, root / "moved")
    (run / name).symlink_to(name)
    code = cli.main(command(command_, str(run), root))
    told = capsys.readouterr()
    assert "Traceback" not in told.err
    good = name == "logs" or (command_ in ("report", "merge") and name != "events.jsonl")
    assert code in (ExitCode.USAGE, ExitCode.NOT_CERTIFIED, *((ExitCode.CERTIFIED,) if good else ()))


@pytest.mark.parametrize("name", ["verify", "verify --json", "report", "merge"])
def test_folder_whose_files_have_too_long_a_path_is_a_mistake_or_a_finding(
    root: Path, name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The folder itself can still be named: its files cannot."""
    place = str(root)
    monkeypatch.chdir(root)
    while len(place) < 4085:
        part = "d" * min(200, 4088 - len(place) - 1)
        os.mkdir(part)
        os.chdir(part)
        place += f"/{part}"
    code = cli.main(command(name, place, root))
    told = capsys.readouterr()
    assert code in (ExitCode.USAGE, ExitCode.NOT_CERTIFIED), (code, told.err)
    assert "Traceback" not in told.err


@pytest.mark.parametrize("bad", [BAD["NUL"], BAD["a loop of links"], BAD["a path too long"]])
def test_bad_path_to_write_to_is_a_mistake_or_infrastructure(
    root: Path, bad: Callable[[Path], str], capsys: pytest.CaptureFixture[str]
) -> None:
    write_run(root / "run", whole(2, provenance=CLEAN))
    path = bad(root)
    assert cli.main(["merge", str(root / "run"), "--out", path]) == ExitCode.USAGE
    gate = ["gate", "--policy", str(root / "policy.yaml"), str(root / "run")]
    for option in ("--md", "--junit"):
        assert cli.main([*gate, option, f"{path}/page"]) in (ExitCode.USAGE, ExitCode.INFRASTRUCTURE)
    assert "Traceback" not in capsys.readouterr().err


def test_run_in_a_folder_whose_name_is_not_utf_8(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It is as good as any other: verified, reported, merged, and seen by the gate."""
    new_key(root / "k.pem")
    run = root / NOT_UTF_8
    write_run(run, whole(2, provenance=CLEAN), load_signing_key(root / "k.pem"))
    public = f"{root / 'k.pem'}.pub"
    assert cli.main(["verify", str(run), "--key", public]) == 0, capsys.readouterr().out
    assert cli.main(["verify", "--json", str(run), "--key", public]) == 0
    capsys.readouterr()
    assert cli.main(["report", str(run)]) == 0, capsys.readouterr().err
    assert cli.main(["report", "--json", str(run), "--sign-key", str(root / "k.pem")]) == 0
    capsys.readouterr()
    arguments = ["--now", "2026-01-15T00:00:00Z", "--md", str(root / "g.md"), "--junit", str(root / "g.xml")]
    assert cli.main(["gate", "--policy", str(root / "policy.yaml"), *arguments, str(run)]) == 0
    assert cli.main(["gate", "--json", "--policy", str(root / "policy.yaml"), *arguments, str(run)]) == 0
    capsys.readouterr()
    code = cli.main(["merge", str(run), "--out", str(root / NOT_UTF_8 / "out"), "--public-key", public])
    assert code == 0, capsys.readouterr().err


def test_verify_names_the_run(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = root / "20260114T091500Z-abcdef"
    write_run(run, sound())
    assert cli.main(["verify", str(run)]) == 0
    out = capsys.readouterr().out
    for told in (
        "run 20260114T091500Z-abcdef",
        "device cpu",
        "vLLM 0.32.0",
        "2026-01-14T09:15:00.000Z",
        "2026-01-14T09:16:00.000Z",
    ):
        assert told in out
    assert "its run is" not in out
    shutil.copytree(run, root / "20261130T000000Z-ffffff")
    assert cli.main(["verify", str(root / "20261130T000000Z-ffffff")]) == 0
    assert "20261130T000000Z-ffffff, and its run is 20260114T091500Z-abcdef" in capsys.readouterr().out
    assert cli.main(["verify", "--json", str(run / "certificate.json")]) == 0
    (one,) = json.loads(capsys.readouterr().out)["certificates"]
    assert (one["run_id"], one["device"], one["vllm"]) == ("20260114T091500Z-abcdef", "cpu", "0.32.0")
    assert (one["started"], one["finished"]) == ("2026-01-14T09:15:00.000Z", "2026-01-14T09:16:00.000Z")
