"""``bi-harness selftest``: flags, output and exit codes, on a stand-in for the runs."""

from __future__ import annotations

import json
import shutil
import signal
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from bi_harness.certificate.power import SelfTest
from bi_harness.cli import main as cli
from bi_harness.errors import NothingToRun, UsageError
from bi_harness.exits import ExitCode
from bi_harness.invariance.faults.registry import FAULTS as ALL_FAULTS
from bi_harness.runner import selftest as module
from bi_harness.runner.known_power import record
from bi_harness.runner.power_digest import power_digest
from bi_harness.runner.selftest import SelfTestOptions
from bi_harness.spec.load import Spec, default_paths, load_spec
from tests.certificate.selftests import fault_result, missed, tried

FAULTS = {name: fault for name, fault in ALL_FAULTS.items() if fault.suite == "batch_invariance"}

ALL = tried(*(fault_result(name) for name in FAULTS))


@dataclass
class Answer:
    """What the stand-in gives, and what it was asked for."""

    folder: Path
    result: SelfTest | Exception = ALL
    interrupt: bool = False
    asked: list[SelfTestOptions] = field(default_factory=list)

    def __call__(
        self, options: SelfTestOptions, spec: Spec, watching: Any, *, stopped: Callable[[], bool]
    ) -> tuple[Path, SelfTest]:
        self.asked.append(options)
        assert not stopped()
        with watching("fault 1/1 [red]x[/red]") as watch:
            assert callable(watch)
        if self.interrupt:
            signal.raise_signal(signal.SIGINT)
            assert stopped()
        if isinstance(self.result, Exception):
            raise self.result
        return self.folder, self.result

    @property
    def options(self) -> SelfTestOptions:
        (asked,) = self.asked
        return asked


@pytest.fixture
def answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Answer:
    folder = tmp_path / "out" / "selftest" / "run"
    folder.mkdir(parents=True)
    made = Answer(folder)
    monkeypatch.setattr(module, "selftest", made)
    for name in ("MODELS", "HARDWARE", "SUITES", "JSON", "OUT", "SEED", "ENGINE_PYTHON"):
        monkeypatch.delenv(f"BI_HARNESS_{name}", raising=False)
    monkeypatch.setenv("COLUMNS", "200")
    return made


@pytest.fixture
def suites(tmp_path: Path) -> Path:
    """A folder of suites to record in: the shipped one without its checks' modules."""
    shipped = Path(__file__).resolve().parents[2] / "suites" / "batch_invariance" / "suite.yaml"
    folder = tmp_path / "suites" / "batch_invariance"
    folder.mkdir(parents=True)
    (folder / "suite.yaml").write_text(shipped.read_text())
    return folder.parent


def test_by_default_everything_is_tried(answer: Answer) -> None:
    assert cli.main(["selftest"]) == ExitCode.CERTIFIED
    options = answer.options
    assert options.faults == tuple(FAULTS.values())
    assert (options.clean, options.mode, options.seed, options.out) == (20, "eager", 0, Path("reports"))
    assert options.engine_python is None


def test_the_flags(answer: Answer) -> None:
    flags = "--fault one-ulp --fault norm-256 --clean 3 --mode compile --seed 7 --engine-python P -o O"
    assert cli.main(["selftest", *flags.split()]) == ExitCode.CERTIFIED
    options = answer.options
    assert [fault.id for fault in options.faults] == ["norm-256", "one-ulp"]
    assert (options.clean, options.mode, options.seed) == (3, "compile", 7)
    assert (options.engine_python, options.out) == ("P", Path("O"))


def test_a_suite_that_only_compiles_is_tried_compiled(answer: Answer) -> None:
    assert cli.main(["selftest", "--suite", "compile_startup"]) == ExitCode.CERTIFIED
    assert (answer.options.mode, answer.options.clean) == ("compile", 5)
    assert [fault.id for fault in answer.options.faults] == ["warm-recompiles"]


def test_without_clean_runs_the_faults_are_tried(answer: Answer) -> None:
    assert cli.main(["selftest", "--clean", "0"]) == ExitCode.CERTIFIED
    assert (answer.options.clean, len(answer.options.faults)) == (0, len(FAULTS))


MISTAKES: dict[str, tuple[list[str], str]] = {
    "unknown fault": (["--fault", "nope"], 'there is no fault "nope". There are: norm-256, gemm-m16'),
    "one unknown of two": (["--fault", "norm-256", "--fault", "nope"], 'there is no fault "nope"'),
    "an empty fault": (["--fault", ""], 'there is no fault ""'),
    "a fault with an escape": (["--fault", "\x1b[31m"], 'there is no fault "\\x1b[31m"'),
    "a bad mode": (["--mode", "both"], "--mode"),
    "fewer than no clean runs": (["--clean", "-1"], "--clean"),
    "clean runs that are no number": (["--clean", "many"], "--clean"),
    "a bad seed": (["--seed", "-1"], "--seed"),
    "an unknown flag": (["--device", "cpu"], "--device"),
    "no suites": (["--suites-dir", "/nowhere"], "/nowhere: cannot be read"),
    "no models.yaml": (["--models-file", "/nowhere/m.yaml"], "m.yaml: cannot be read"),
}


@pytest.mark.parametrize(("args", "message"), MISTAKES.values(), ids=MISTAKES.keys())
@pytest.mark.parametrize("json_flag", [[], ["--json"]], ids=["text", "json"])
def test_mistakes_are_refused_before_anything_runs(
    answer: Answer,
    args: list[str],
    message: str,
    json_flag: list[str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert cli.main(["selftest", *args, *json_flag]) == ExitCode.USAGE
    captured = capsys.readouterr()
    assert captured.out == ""
    assert message in captured.err
    assert "Traceback" not in captured.err
    assert answer.asked == []


def test_an_unknown_fault_names_all_that_there_are(
    answer: Answer, capsys: pytest.CaptureFixture[str]
) -> None:
    cli.main(["selftest", "--fault", "nope"])
    said = capsys.readouterr().err
    assert all(name in said for name in FAULTS)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (UsageError("python has no vLLM"), ExitCode.USAGE),
        (NothingToRun("nothing to run on cpu"), ExitCode.NOTHING_TO_RUN),
    ],
)
def test_what_the_runs_cannot_be_made_for(
    answer: Answer, error: Exception, code: ExitCode, capsys: pytest.CaptureFixture[str]
) -> None:
    answer.result = error
    assert cli.main(["selftest", "--json", "--record"]) == code
    captured = capsys.readouterr()
    assert (captured.out, list(answer.folder.iterdir())) == ("", [])
    assert str(error) in captured.err


EXITS: dict[str, tuple[SelfTest, bool, ExitCode]] = {
    "all caught": (ALL, False, ExitCode.CERTIFIED),
    "one missed": (tried(fault_result(), missed()), False, ExitCode.NOT_CERTIFIED),
    "a false alarm": (tried(fault_result(), false_alarms=1), False, ExitCode.NOT_CERTIFIED),
    "interrupted": (tried(fault_result()), True, ExitCode.INTERRUPTED),
    "interrupted after a miss": (tried(missed()), True, ExitCode.NOT_CERTIFIED),
    "a fault without an answer": (tried(missed(error="it died")), False, ExitCode.INCONCLUSIVE),
    "a clean run without an answer": (
        tried(fault_result(), unsound=("clean-01: x",)),
        False,
        ExitCode.INCONCLUSIVE,
    ),
}


@pytest.mark.parametrize(("result", "interrupt", "code"), EXITS.values(), ids=EXITS.keys())
def test_the_exit_code_and_the_files(
    answer: Answer,
    result: SelfTest,
    interrupt: bool,
    code: ExitCode,
    capsys: pytest.CaptureFixture[str],
) -> None:
    answer.result, answer.interrupt = result, interrupt
    handlers = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    assert cli.main(["selftest"]) == code
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == handlers
    path = answer.folder / "selftest.json"
    assert SelfTest.model_validate_json(path.read_bytes()) == result
    captured = capsys.readouterr()
    assert "planted fault" in captured.out
    assert str(path) in captured.err
    assert "fault 1/1 [red]x[/red]" in captured.err


def test_json_has_the_shape_of_the_design(answer: Answer, capsys: pytest.CaptureFixture[str]) -> None:
    answer.result = tried(fault_result(), missed(error="[red]it died"), false_alarms=2)
    assert cli.main(["selftest", "--json"]) == ExitCode.NOT_CERTIFIED
    captured = capsys.readouterr()
    data = json.loads(captured.out)
    assert {"faults", "score", "false_alarms"} <= set(data)
    shape = ("id", "class", "caught", "checks", "first_request", "first_step", "module", "localized")
    first, second = ({key: fault[key] for key in shape} for fault in data["faults"])
    assert first == {
        "id": "norm-256",
        "class": "RMSNorm block size by tokens",
        "caught": True,
        "checks": ["bs1_vs_bsN", "needle"],
        "first_request": 12,
        "first_step": 3,
        "module": "model.layers.*.input_layernorm",
        "localized": None,
    }
    assert (second["caught"], second["checks"], second["first_request"], second["module"]) == (
        False,
        [],
        None,
        None,
    )
    assert (data["score"], data["false_alarms"]) == (0.5, 2)
    # Everything else is on stderr.
    assert "1 of 2 planted faults caught." in captured.err
    assert "No answer from one-ulp: [red]it died" in captured.err
    assert data == json.loads((answer.folder / "selftest.json").read_text())


def test_without_a_fault_the_score_is_null(answer: Answer, capsys: pytest.CaptureFixture[str]) -> None:
    answer.result = tried()
    assert cli.main(["selftest", "--json"]) == ExitCode.CERTIFIED
    assert json.loads(capsys.readouterr().out)["score"] is None


def test_record_keeps_a_complete_result(
    answer: Answer, suites: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["selftest", "--record", "--suites-dir", str(suites)]) == ExitCode.CERTIFIED
    path = suites / "batch_invariance" / "power.json"
    assert SelfTest.model_validate_json(path.read_bytes()) == ALL
    assert f"recorded in {path}" in capsys.readouterr().err


def test_record_keeps_a_bad_result_too(answer: Answer, suites: Path) -> None:
    worse = tried(*(fault_result(name) for name in list(FAULTS)[1:]), missed(next(iter(FAULTS))))
    answer.result = worse
    assert cli.main(["selftest", "--record", "--suites-dir", str(suites)]) == ExitCode.NOT_CERTIFIED
    path = suites / "batch_invariance" / "power.json"
    assert SelfTest.model_validate_json(path.read_bytes()) == worse


def test_without_record_nothing_is_kept(answer: Answer, suites: Path) -> None:
    assert cli.main(["selftest", "--suites-dir", str(suites)]) == ExitCode.CERTIFIED
    assert not (suites / "batch_invariance" / "power.json").exists()


@pytest.mark.parametrize(
    ("result", "why"),
    [
        (tried(fault_result()), "faults were not tried"),
        (tried(*ALL.faults, clean_runs=19), "19 clean runs, and 20 are needed"),
        (tried(*ALL.faults, unsound=("clean-02: it died",)), "a clean run gave no answer: clean-02: it died"),
        (
            tried(*ALL.faults[:-1], missed(ALL.faults[-1].id, error="\x1b[31mit died")),
            "gave no answer: \\x1b[31mit died",
        ),
    ],
)
def test_record_refuses_an_incomplete_result(
    answer: Answer, suites: Path, result: SelfTest, why: str, capsys: pytest.CaptureFixture[str]
) -> None:
    answer.result = result
    kept = suites / "batch_invariance" / "power.json"
    kept.write_text("what was there before")
    cli.main(["selftest", "--record", "--suites-dir", str(suites)])
    assert kept.read_text() == "what was there before"
    said = capsys.readouterr().err
    assert "warning: not recorded: " in said
    assert why in said
    assert "\nrecorded in" not in said


def test_where_it_cannot_be_recorded(
    answer: Answer, suites: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (suites / "batch_invariance" / "power.json").mkdir()
    args = ["selftest", "--record", "--suites-dir", str(suites)]
    assert cli.main(args) == ExitCode.INFRASTRUCTURE
    assert "cannot write" in capsys.readouterr().err
    assert (answer.folder / "selftest.json").is_file()


def test_a_stop_before_the_first_run_is_no_internal_error(answer: Answer) -> None:
    answer.folder.rmdir()
    answer.result, answer.interrupt = tried(clean_runs=0), True
    assert cli.main(["selftest"]) == ExitCode.INTERRUPTED


@pytest.fixture
def recorded(tmp_path: Path) -> Path:
    """A copy of all shipped suites, each with a complete, current record."""
    folder = tmp_path / "recorded"
    shutil.copytree(Path(__file__).resolve().parents[2] / "suites", folder)
    paths = default_paths(suites=folder)
    spec = load_spec(paths.models, paths.hardware, paths.suites)
    for suite in spec.suites:
        faults = [fault_result(name) for name, fault in ALL_FAULTS.items() if fault.suite == suite]
        record(spec, tried(*faults, suite=suite, suite_digest=power_digest(spec, suite)))
    return folder


def test_check_runs_nothing_and_passes_if_every_record_is_current(
    answer: Answer, recorded: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["selftest", "--check", "--suites-dir", str(recorded)]) == ExitCode.CERTIFIED
    assert "The recorded self-test of 7 suites is complete and current." in capsys.readouterr().out
    assert answer.asked == []


def test_check_fails_if_a_record_is_stale_or_missing(
    answer: Answer, recorded: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (recorded / "ops" / "power.json").unlink()
    code = recorded / "online" / "test_chat.py"
    code.write_text(code.read_text() + "\nMORE = 1\n")
    args = ["selftest", "--check", "--suites-dir", str(recorded)]
    assert cli.main(args) == ExitCode.NOT_CERTIFIED
    out = capsys.readouterr().out
    assert "online: The suite has changed since its self-test.\n" in out
    assert "ops: It has no recorded self-test" in out
    assert cli.main([*args, "--suite", "nvfp4"]) == ExitCode.CERTIFIED
    assert cli.main([*args, "--suite", "ops"]) == ExitCode.NOT_CERTIFIED
    assert answer.asked == []


def test_check_gives_json(answer: Answer, recorded: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (recorded / "ops" / "power.json").unlink()
    assert (
        cli.main(["selftest", "--check", "--json", "--suites-dir", str(recorded)]) == ExitCode.NOT_CERTIFIED
    )
    found = {check["suite"]: check for check in json.loads(capsys.readouterr().out)}
    assert found["ops"]["state"] == "missing"
    assert set(found["ops"]["untried"]) == {f.id for f in ALL_FAULTS.values() if f.suite == "ops"}
    assert (found["nvfp4"]["state"], found["nvfp4"]["score"]) == ("current", 1.0)


@pytest.mark.parametrize(
    "flag", [["--record"], ["--fault", "norm-256"], ["--clean", "0"], ["--mode", "eager"]]
)
def test_check_refuses_flags_of_a_run(
    answer: Answer, flag: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["selftest", "--check", *flag]) == ExitCode.USAGE
    assert "--check runs nothing" in capsys.readouterr().err
