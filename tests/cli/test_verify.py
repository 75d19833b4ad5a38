"""``bi-harness verify``, and ``--sign-key`` of ``run`` and ``report``: exit codes, output, files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bi_harness.certificate.sign import new_key
from bi_harness.cli import main as cli
from bi_harness.exits import ExitCode
from tests.certificate.journals import result, sound
from tests.certificate.runs import write_run
from tests.cli.test_run import refused, standin  # noqa: F401 - a fixture
from tests.runner.standin import Standin

SIGNED = ("certificate.dsse.json", "files.dsse.json")


@pytest.fixture
def key(tmp_path: Path) -> Path:
    new_key(tmp_path / "k.pem")
    return tmp_path / "k.pem"


def public(key: Path) -> str:
    return f"{key}.pub"


def test_a_run_signs_what_it_leaves(standin: Standin, key: Path) -> None:  # noqa: F811
    code, _, err = standin.finish("run", "--sign-key", str(key))
    assert code == ExitCode.CERTIFIED, err
    (run,) = standin.root.glob("out/cpu/*")
    assert all((run / name).is_file() for name in SIGNED)
    assert cli.main(["verify", str(run), "--key", public(key)]) == 0
    log = next(run.glob("logs/*"))
    log.write_text(log.read_text() + "one more line\n")
    assert cli.main(["verify", str(run), "--key", public(key)]) == 1


def test_a_run_that_is_not_certified_is_signed_as_well(standin: Standin, key: Path) -> None:  # noqa: F811
    standin.write(one="bad(check, workload)")
    code, _, err = standin.finish("run", "--sign-key", str(key))
    assert code == ExitCode.NOT_CERTIFIED, err
    (run,) = standin.root.glob("out/cpu/*")
    assert cli.main(["verify", str(run), "--key", public(key)]) == 0


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda path: path.unlink(), "cannot read the signing key"),
        (lambda path: path.chmod(0o644), "can be read or changed by others"),
        (lambda path: path.write_text("x"), "no private key"),
    ],
)
def test_a_key_that_cannot_sign_is_found_before_the_run(
    standin: Standin,  # noqa: F811
    key: Path,
    spoil: object,
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    spoil(key)  # type: ignore[operator]
    refused(standin, ["--sign-key", str(key)], ExitCode.USAGE, capsys, message)


def test_report_signs_anew_and_leaves_no_stale_signature(
    tmp_path: Path, key: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    write_run(run, sound())
    assert cli.main(["report", str(run), "--sign-key", str(key)]) == 0
    assert cli.main(["verify", str(run), "--key", public(key)]) == 0
    before = {name: (run / name).read_bytes() for name in SIGNED}
    (run / "certificate.md").write_text("changed")
    assert cli.main(["report", str(run)]) == 0, "what was signed is what is written again"
    assert cli.main(["verify", str(run), "--key", public(key)]) == 0
    assert before == {name: (run / name).read_bytes() for name in SIGNED}

    write_run(tmp_path / "other", sound(result("fail")))
    (run / "events.jsonl").write_bytes((tmp_path / "other" / "events.jsonl").read_bytes())
    old = (run / "certificate.json").read_bytes()
    capsys.readouterr()
    assert cli.main(["report", str(run)]) == ExitCode.USAGE
    err = capsys.readouterr().err
    assert "is signed, and is of other content" in err
    assert "--sign-key" in err
    assert (run / "certificate.json").read_bytes() == old, "nothing was written"
    assert cli.main(["report", str(run), "--sign-key", str(key)]) == ExitCode.NOT_CERTIFIED
    assert cli.main(["verify", str(run), "--key", public(key)]) == 0


@pytest.mark.parametrize("name", SIGNED)
def test_report_refuses_a_signature_that_is_none(
    tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    write_run(tmp_path / "run", sound())
    (tmp_path / "run" / name).write_text("{}")
    assert cli.main(["report", str(tmp_path / "run")]) == ExitCode.USAGE
    assert name in capsys.readouterr().err


def test_json_and_text(tmp_path: Path, key: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_run(tmp_path / "good", sound())
    write_run(tmp_path / "bad", sound(result("fail")))
    page = tmp_path / "bad" / "certificate.html"
    page.write_text(page.read_text().replace("NOT CERTIFIED", "CERTIFIED"))
    places = [str(tmp_path / "good"), str(tmp_path / "bad")]
    assert cli.main(["verify", *places, "--json"]) == 1
    told = json.loads(capsys.readouterr().out)
    assert told["genuine"] is False
    good, bad = told["certificates"]
    assert (good["genuine"], good["verdict"], good["signed_by"], good["from_journal"]) == (
        True,
        "CERTIFIED",
        [],
        True,
    )
    assert (bad["genuine"], bad["verdict"]) == (False, "NOT_CERTIFIED")
    assert [f["where"] for f in bad["findings"] if f["level"] == "problem"] == ["certificate.html"]
    assert cli.main(["verify", *places]) == 1
    out = capsys.readouterr().out
    assert "who made it was NOT checked" in out
    assert "NOT GENUINE" in out
    assert cli.main(["verify", places[0]]) == 0
    assert cli.main(["verify", places[0], "--key", public(key)]) == 1


def test_what_cannot_be_used(tmp_path: Path, key: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_run(tmp_path / "run", sound())
    for args in (
        [],
        [str(tmp_path / "nowhere")],
        ["\0"],
        ["x" * 5000],
        [str(tmp_path / "run"), "--key", str(tmp_path / "nowhere.pub")],
        [str(tmp_path / "run"), "--key", str(key)],
    ):
        assert cli.main(["verify", *args]) == ExitCode.USAGE, args
        captured = capsys.readouterr()
        assert captured.out == ""
        assert "Traceback" not in captured.err


def test_hostile_text_does_not_reach_the_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "certificate.json").write_text(
        '{"predicate": {"bi_harness": {"schema": "\\u001b[2J\\n✓ x"}}}'
    )
    assert cli.main(["verify", str(tmp_path / "certificate.json")]) == 1
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert not any(line.startswith("✓") for line in out.splitlines())


def test_neither_torch_nor_vllm_is_needed(tmp_path: Path) -> None:
    import subprocess
    import sys

    write_run(tmp_path / "run", sound())
    program = (
        "import sys; from bi_harness.cli.main import main; code = main(['verify', sys.argv[1]]);"
        "sys.exit(code or bool({'torch', 'vllm', 'transformers'} & sys.modules.keys()) * 9)"
    )
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path / "run")], capture_output=True)
    assert done.returncode == 0, done.stderr
