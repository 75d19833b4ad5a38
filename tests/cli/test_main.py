"""The command line itself: the help, exit codes, errors."""

from __future__ import annotations

import subprocess
import sys
import time
import types
from pathlib import Path

import pytest
import typer

from bi_harness.cli import main as cli
from bi_harness.cli.commands import COMMANDS, CommandEntry
from bi_harness.cli.errors import exit_code_of
from bi_harness.cli.output import clean
from bi_harness.errors import InfrastructureError, NothingToRun, SpecError
from bi_harness.exits import ExitCode

ROOT = Path(__file__).resolve().parents[2]


def command(monkeypatch: pytest.MonkeyPatch, name: str, function: object) -> None:
    """Put a command into the table."""
    module = types.ModuleType(f"bi_harness.cli.fake_{name}")
    module.__spec__ = types.SimpleNamespace(name=module.__name__)  # type: ignore[assignment]
    if isinstance(function, typer.Typer):
        module.app = function  # type: ignore[attr-defined]
    else:
        setattr(module, name, function)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setitem(COMMANDS, name, CommandEntry(module.__name__, "Fake."))


def test_help_comes_at_once_and_imports_nothing_heavy() -> None:
    script = (
        "import sys; from bi_harness.cli.main import main; code = main(['--help']);"
        "heavy = {'pydantic', 'rich', 'numpy', 'yaml', 'pandas', 'pyarrow', 'torch', 'vllm', 'pytest'};"
        "print(sorted(heavy & set(sys.modules)), file=sys.stderr); sys.exit(code)"
    )
    times = []
    for _ in range(3):
        start = time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT, check=True
        )
        times.append(time.perf_counter() - start)
    assert done.stderr.strip() == "[]"
    assert "plan" in done.stdout
    assert "Exit codes: 0 certified" in done.stdout
    assert min(times) < 0.5  # 0.07 s on an idle machine; what holds it is the check of the modules


def test_the_table_is_complete() -> None:
    assert {"plan", "run", "report", "doctor", "model"} <= set(COMMANDS)
    assert all(entry.help.endswith(".") for entry in COMMANDS.values())


def test_a_missing_module_breaks_only_its_own_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(COMMANDS, "gone", CommandEntry("bi_harness.cli.gone", "Gone."))
    assert cli.main(["--help"]) == 0
    assert "Gone." not in capsys.readouterr().out
    assert cli.main(["gone"]) == ExitCode.USAGE
    assert 'error: the command "gone" is not part of this version' in capsys.readouterr().err
    assert cli.main(["plan", "--help"]) == 0


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["pln"], 'Did you mean "plan"?'),
        (["plan", "--devcie", "cpu"], "no such option: --devcie"),
        (["plan", "--layers", "x"], "--layers"),
        (["plan", "extra"], "extra"),
        (["plan", "--profile", "x"], "--profile"),
        (["--nope"], "--nope"),
    ],
)
def test_usage_errors_exit_with_4(args: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(args) == ExitCode.USAGE
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: ")
    assert message in captured.err


def test_without_arguments_the_help_goes_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([]) == ExitCode.USAGE
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "Usage:" in captured.err


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("bi-harness ")


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (SpecError("models.yaml:1: wrong"), 4, "error: models.yaml:1: wrong\n"),
        (NothingToRun("nothing"), 5, "error: nothing\n"),
        (InfrastructureError("disk"), 75, "error: disk\n"),
        (KeyboardInterrupt(), 2, "interrupted\n"),
        (typer.Abort(), 2, "interrupted\n"),
        (typer.Exit(6), 6, ""),
        (typer.BadParameter("no good"), 4, "error: "),
        (RuntimeError("bug \x1b[31m"), 3, "RuntimeError: bug \\x1b[31m"),
    ],
)
def test_what_a_command_raises_becomes_an_exit_code(
    error: BaseException,
    code: int,
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fails() -> None:
        raise error

    command(monkeypatch, "fails", fails)
    assert cli.main(["fails"]) == code
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.out == ""
    assert ("Traceback" in captured.err) == (code == 3)


def test_what_a_command_returns_is_the_exit_code(monkeypatch: pytest.MonkeyPatch) -> None:
    command(monkeypatch, "gives", lambda: ExitCode.INCONCLUSIVE)
    assert cli.main(["gives"]) == 6


def test_a_command_can_have_commands(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    group = typer.Typer()

    @group.command("make")
    def make() -> None:
        """Make it."""
        typer.echo("made")

    command(monkeypatch, "thing", group)
    assert cli.main(["thing", "make"]) == 0
    assert capsys.readouterr().out == "made\n"


def test_a_closed_pipe_is_no_verdict() -> None:
    pipe = (
        f"{sys.executable} -m bi_harness.cli plan -d h200 -p release --json | true; echo ${{PIPESTATUS[0]}}"
    )
    done = subprocess.run(
        ["bash", "-c", pipe],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=True,
    )
    assert done.stdout.strip() in {"0", "2"}
    assert "Traceback" not in done.stderr


def test_a_full_disk_is_not_success() -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "bi_harness.cli", "plan", "-d", "cpu", "--json"],
            stdout=full,
            cwd=ROOT,
            check=False,
        )
    assert done.returncode not in (0, 1)


def test_exit_code_of_success() -> None:
    assert exit_code_of(lambda _: None, []) == 0


def test_clean_keeps_text_and_shows_control_characters() -> None:
    assert clean("a\tb\nc é 模") == "a\tb\nc é 模"
    assert clean("\x1b[31m\r\u202e\x9b") == "\\x1b[31m\\x0d\\x202e\\x9b"
    assert clean("\udcff").isprintable()
