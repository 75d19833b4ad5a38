"""A key that is given and empty is a mistake (4), never no key: by an option or by its variable."""

from __future__ import annotations

from pathlib import Path

import pytest

from bi_harness.certificate.sign import new_key
from bi_harness.cli import main as cli
from bi_harness.exits import ExitCode
from tests.certificate.journals import sound
from tests.certificate.runs import write_run

COMMANDS = {
    "verify": (["verify", "RUN"], "--key", "BI_HARNESS_KEY"),
    "merge, public": (["merge", "RUN", "--out", "OUT"], "--public-key", "BI_HARNESS_PUBLIC_KEY"),
    "merge, private": (["merge", "RUN", "--out", "OUT"], "--sign-key", "BI_HARNESS_SIGN_KEY"),
    "report": (["report", "RUN"], "--sign-key", "BI_HARNESS_SIGN_KEY"),
    "run": (["run", "--out", "OUT"], "--sign-key", "BI_HARNESS_SIGN_KEY"),
    "dashboard": (["dashboard", "build", "RUN", "--out", "OUT"], "--public-key", "BI_HARNESS_PUBLIC_KEY"),
    "key new": (["key", "new"], "--out", "BI_HARNESS_KEY_OUT"),
}


def placed(arguments: list[str], root: Path) -> list[str]:
    return [{"RUN": str(root / "run"), "OUT": str(root / "out")}.get(one, one) for one in arguments]


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    write_run(tmp_path / "run", sound())
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("value", ["", " ", "  \t", "\n", ":"])
@pytest.mark.parametrize(("arguments", "option", "variable"), COMMANDS.values(), ids=COMMANDS.keys())
def test_empty_key_is_a_mistake(
    root: Path,
    arguments: list[str],
    option: str,
    variable: str,
    value: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if value == ":" and arguments[0] == "key":
        return  # The name of a file to make.
    before = sorted(root.rglob("*"))
    assert cli.main([*placed(arguments, root), option, value]) == ExitCode.USAGE
    told = capsys.readouterr()
    assert (told.out, "Traceback" in told.err) == ("", False)
    monkeypatch.setenv(variable, value)
    assert cli.main(placed(arguments, root)) == ExitCode.USAGE
    told = capsys.readouterr()
    assert (told.out, "Traceback" in told.err) == ("", False)
    assert value.strip() or variable in told.err
    assert sorted(root.rglob("*")) == before


@pytest.mark.parametrize("arguments", [["verify", "--help"], ["merge", "--help"], ["run", "--help"]])
def test_help_needs_no_key(
    root: Path, arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for variable in ("BI_HARNESS_KEY", "BI_HARNESS_PUBLIC_KEY", "BI_HARNESS_SIGN_KEY"):
        monkeypatch.setenv(variable, "")
    assert cli.main(arguments) == 0
    assert capsys.readouterr().out


def test_option_wins_over_an_empty_variable(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    new_key(root / "k.pem")
    monkeypatch.setenv("BI_HARNESS_KEY", "")
    monkeypatch.setenv("BI_HARNESS_SIGN_KEY", "")
    assert cli.main(["report", str(root / "run"), "--sign-key", str(root / "k.pem")]) == 0
    assert cli.main(["verify", str(root / "run"), "--key", str(root / "k.pem.pub")]) == 0
    capsys.readouterr()


def test_variables_give_keys(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    new_key(root / "k.pem")
    new_key(root / "other.pem")
    monkeypatch.setenv("BI_HARNESS_SIGN_KEY", str(root / "k.pem"))
    assert cli.main(["report", str(root / "run")]) == 0
    monkeypatch.setenv("BI_HARNESS_KEY", str(root / "other.pem.pub"))
    assert cli.main(["verify", str(root / "run")]) == ExitCode.NOT_CERTIFIED
    monkeypatch.setenv("BI_HARNESS_KEY", str(root / "k.pem.pub"))
    assert cli.main(["verify", str(root / "run")]) == 0
    capsys.readouterr()


@pytest.mark.parametrize("value", ["", "  "])
def test_empty_key_of_an_endpoint_is_a_mistake(
    root: Path, value: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("BI_HARNESS_API_KEY", value)
    run = ["run", "--endpoint", "http://127.0.0.1:9/v1", "--out", str(root / "out")]
    assert cli.main(run) == ExitCode.USAGE
    assert "BI_HARNESS_API_KEY" in capsys.readouterr().err
