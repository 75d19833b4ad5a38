"""``bi-harness selftest`` without an engine: which runs it makes, and what it makes of what they say."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bi_harness.certificate.power import FaultResult, SelfTest
from bi_harness.certificate.statement import Statement
from bi_harness.errors import InfrastructureError, NothingToRun, UsageError
from bi_harness.exits import ExitCode
from bi_harness.invariance.faults.registry import FAULTS as ALL_FAULTS
from bi_harness.invariance.faults.registry import PLANT_VARIABLE
from bi_harness.runner import executors as executors_module
from bi_harness.runner import selftest as module
from bi_harness.runner.caches import SharedStart
from bi_harness.runner.context import Context
from bi_harness.runner.hold import WORK
from bi_harness.runner.journal import now
from bi_harness.runner.power_digest import power_digest
from bi_harness.runner.run import RunOptions, execute, prepare
from bi_harness.runner.selftest import (
    CLEAN,
    SelfTestOptions,
    _runs,
    _shared_start,
    chosen,
    complete,
    core_shares,
    exit_code,
    selftest,
)
from bi_harness.spec.load import Spec, default_paths, load_spec
from tests.certificate.journals import nothing_compared
from tests.certificate.selftests import checked, engine, fault_result, missed, ran, tried
from tests.spec.small import Files

FAULTS = {name: fault for name, fault in ALL_FAULTS.items() if fault.suite == "batch_invariance"}

_paths = default_paths(environ={})
SPEC = load_spec(_paths.models, _paths.hardware, _paths.suites)
SHARED = SharedStart(Path("/nowhere/shared"), Path("/nowhere/s"))

MODEL, RUNS = CLEAN["batch_invariance"].model, CLEAN["batch_invariance"].runs


@dataclass
class Runs:
    """Stands in for ``prepare`` and ``execute``: gives statements in turn, and keeps what was asked for."""

    statements: list[Any] = field(default_factory=list)
    asked: list[RunOptions] = field(default_factory=list)
    headings: list[str] = field(default_factory=list)
    closed: int = 0

    def prepare(self, options: RunOptions, spec: Spec) -> RunOptions:
        assert spec is SPEC
        self.asked.append(options)
        return options

    def execute(
        self, run: RunOptions, watch: object, *, stopped: Callable[[], bool]
    ) -> tuple[Path, Statement]:
        assert run is self.asked[-1]
        given = self.statements[len(self.asked) - 1]
        if isinstance(given, Exception):
            raise given
        return run.out, given

    @contextmanager
    def watching(self, heading: str) -> Iterator[Callable[[object], None]]:
        self.headings.append(heading)
        yield lambda event: None
        self.closed += 1

    def __call__(self, *faults: str, **changes: Any) -> SelfTest:
        return self.both(*faults, **changes)[1]

    def both(self, *faults: str, **changes: Any) -> tuple[Path, SelfTest]:
        stopped = changes.pop("stopped", lambda: False)
        return selftest(options(*faults, **changes), SPEC, self.watching, stopped=stopped)


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> Runs:
    made = Runs()
    monkeypatch.setattr(module, "prepare", made.prepare)
    monkeypatch.setattr(module, "execute", made.execute)
    monkeypatch.setattr(module, "_shared_start", lambda folder, fork: nullcontext(SHARED))
    return made


def options(*faults: str, **changes: Any) -> SelfTestOptions:
    base: dict[str, Any] = {
        "suite": "batch_invariance",
        "faults": tuple(FAULTS[name] for name in faults),
        "clean": 0,
        "mode": "eager",
        "seed": 5,
        "out": Path("/nowhere/reports"),
        "engine_python": "/x/python",
    }
    return SelfTestOptions(**{**base, **changes})


def test_all_runs_share_caches_and_imports(runs: Runs) -> None:
    runs.statements = [ran(checked("fail"), fault="norm-256"), ran(), ran()]
    runs("norm-256", clean=2)
    assert [run.shared for run in runs.asked] == [SHARED] * 3


def test_what_runs_share_is_gone_after_them(tmp_path: Path) -> None:
    with _shared_start(tmp_path / "run", fork=True) as shared:
        assert shared.preload is not None
        assert shared.preload.is_socket()
        assert shared.caches.is_relative_to(tmp_path / "run" / WORK)
        shared.caches.mkdir()
    assert not (tmp_path / "run" / WORK).exists()


@pytest.mark.parametrize(("suite", "forks"), [("batch_invariance", True), ("ops", True), ("eagle_dp", False)])
def test_engines_of_several_processes_are_not_forked(
    runs: Runs, suite: str, forks: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[bool] = []

    def shared_start(folder: Path, *, fork: bool) -> nullcontext[SharedStart]:
        asked.append(fork)
        return nullcontext(SHARED)

    monkeypatch.setattr(module, "_shared_start", shared_start)
    runs.statements = [ran()]
    runs(suite=suite, clean=1)
    assert asked == [forks]


def test_caches_are_shared_without_a_process_to_fork_from(tmp_path: Path) -> None:
    with _shared_start(tmp_path / "run", fork=False) as shared:
        assert shared.preload is None
        assert shared.caches.is_relative_to(tmp_path / "run" / WORK)


def test_runs_go_on_without_a_process_to_fork_from(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "run").write_text("no folder")
    with _shared_start(tmp_path / "run", fork=True) as shared:
        assert shared.preload is None
    assert "--preload: not on this host" in capsys.readouterr().err


def test_without_names_all_faults_are_chosen() -> None:
    assert chosen("batch_invariance", None) == chosen("batch_invariance", []) == tuple(FAULTS.values())


def test_faults_come_once_each_in_the_order_of_the_registry() -> None:
    first, second = list(FAULTS)[1], list(FAULTS)[4]
    assert [f.id for f in chosen("batch_invariance", [second, first, second])] == [first, second]


@pytest.mark.parametrize("names", [["nope"], ["norm-256", "nope"], [""], ["NORM-256"], ["norm"]])
def test_a_fault_that_is_not_there_is_refused_and_the_others_are_named(names: list[str]) -> None:
    with pytest.raises(UsageError) as caught:
        chosen("batch_invariance", names)
    assert f'there is no fault "{names[-1]}"' in str(caught.value)
    assert all(name in str(caught.value) for name in FAULTS)


def test_faults_run_first_on_their_own_models_and_clean_runs_alternate() -> None:
    made = list(_runs(options("moe-combine", "norm-256", clean=5, mode="compile", seed=5)))
    assert [(r.fault, r.model, r.mode, r.seed) for r in made] == [
        ("moe-combine", "qwen3-moe-tiny", "compile", 5),
        ("norm-256", "qwen3-tiny", "compile", 5),
        (None, MODEL, "eager", 5),
        (None, MODEL, "compile", 6),
        (None, MODEL, "eager", 7),
        (None, MODEL, "compile", 8),
        (None, MODEL, "eager", 9),
    ]
    assert [r.heading.split(":")[0] for r in made[:3]] == [
        "fault 1/2 moe-combine",
        "fault 2/2 norm-256",
        "clean run 1/5",
    ]


def test_each_suite_has_its_own_faults_models_and_modes() -> None:
    faults = chosen("eagle_dp", None)
    assert {fault.id for fault in faults} == {"verify-together", "rank-seed", "all-reduce-size"}
    made = list(_runs(replace(options(), suite="eagle_dp", faults=faults, clean=2)))
    assert {(r.suite, r.model, r.mode) for r in made} == {("eagle_dp", "llama-eagle-tiny", "eager")}
    assert [r.only for r in made] == ["tp1-dp1", "tp1-dp2", "tp2-dp1", None, None]
    with pytest.raises(UsageError, match='"none" has no planted faults'):
        chosen("none", None)
    with pytest.raises(UsageError, match='there is no fault "norm-256"'):
        chosen("eagle_dp", ["norm-256"])


@given(st.integers(0, 120), st.integers(0, 10**6), st.sampled_from(["eager", "compile"]))
def test_no_two_runs_share_a_place_and_no_two_clean_runs_a_seed(clean: int, seed: int, mode: str) -> None:
    made = list(_runs(options(*FAULTS, clean=clean, seed=seed, mode=mode)))
    assert len({r.name for r in made}) == len(made) == len(FAULTS) + clean
    assert len({r.seed for r in made if r.fault is None}) == clean


@pytest.mark.parametrize("fault", ALL_FAULTS.values(), ids=ALL_FAULTS.keys())
def test_every_fault_is_tried_on_a_model_that_has_the_suite_on_a_cpu(fault: Any) -> None:
    model = SPEC.models[fault.model]
    assert fault.suite in model.suites
    assert model.devices is None or module.DEVICE in model.devices


def test_what_each_run_is_asked_for(runs: Runs, tmp_path: Path) -> None:
    runs.statements = [ran(checked("fail"), fault="norm-256"), ran()]
    folder, _ = runs.both("norm-256", clean=1, out=tmp_path / "out")
    assert folder.parent == tmp_path / "out" / "selftest"
    with_fault, clean = runs.asked
    for asked in runs.asked:
        assert not asked.control
        assert (asked.device, asked.suites, asked.profile) == ("cpu", ("batch_invariance",), "smoke")
        assert (asked.engine_python, asked.expression) == ("/x/python", None)
    assert (with_fault.fault, clean.fault) == ("norm-256", None)
    assert (with_fault.out, clean.out) == (folder / "norm-256", folder / "clean-01")
    assert (with_fault.models, clean.models) == (("qwen3-tiny",), ("qwen3-tiny",))
    assert len(runs.headings) == runs.closed == 2


def test_a_relative_folder_is_made_absolute(
    runs: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    runs.statements = [ran()]
    folder, _ = runs.both(clean=1, out=Path("reports"))
    assert folder.parent == tmp_path / "reports" / "selftest"


def test_a_fault_that_a_check_fails_on_is_caught(runs: Runs) -> None:
    runs.statements = [
        ran(checked("pass", "a"), checked("fail", "b"), checked("fail", "c"), fault="norm-256"),
        ran(fault="one-ulp"),
    ]
    result = runs("norm-256", "one-ulp")
    caught, not_caught = result.faults
    assert (caught.id, caught.caught, caught.checks, caught.error) == ("norm-256", True, ("b", "c"), "")
    # Four requests of "a", then the fourth of "b" (see the samples).
    assert (caught.first_request, caught.first_step) == (8, 1)
    assert (caught.class_, caught.module) == (FAULTS["norm-256"].title, FAULTS["norm-256"].module)
    assert (not_caught.caught, not_caught.checks, not_caught.error) == (False, (), "")
    assert (not_caught.first_request, not_caught.first_step, not_caught.module) == (None, None, None)
    assert (result.score, result.clean_runs, result.false_alarms) == (0.5, 0, 0)
    assert exit_code(result, interrupted=False) == ExitCode.NOT_CERTIFIED


def test_what_it_ran_on_is_told(runs: Runs) -> None:
    runs.statements = [ran(engines=[]), ran(engines=[engine(vllm="0.31.1")]), ran()]
    result = runs(clean=3, mode="compile")
    assert (result.suite, result.device, result.mode, result.profile) == (
        "batch_invariance",
        "cpu",
        "compile",
        "smoke",
    )
    assert result.vllm == "0.31.1", "of the first engine that said so"
    assert result.suite_digest == power_digest(SPEC, "batch_invariance")
    assert result.started <= result.finished <= now()


NEVER_CAUGHT: dict[str, Statement] = {
    "no fault": ran(checked("fail")),
    "another fault": ran(checked("fail"), fault="one-ulp"),
    "one engine of two": ran(checked("fail"), engines=[engine("norm-256"), engine()]),
    "a control without it": ran(checked("fail"), engines=[engine("norm-256"), engine(arm="control")]),
    "an error": ran(checked("error"), fault="norm-256"),
    "a batch that never formed": ran(checked(evidence=nothing_compared()), fault="norm-256"),
    "interrupted": ran(fault="norm-256", interrupted=True),
    "no engine": ran(checked("error"), engines=[]),
}


@pytest.mark.parametrize("statement", NEVER_CAUGHT.values(), ids=NEVER_CAUGHT.keys())
def test_what_is_never_caught_and_never_merely_missed(runs: Runs, statement: Statement) -> None:
    runs.statements = [statement]
    result = runs("norm-256")
    (fault,) = result.faults
    assert not fault.caught
    assert fault.error
    assert (fault.first_request, fault.first_step) == (None, None)
    assert result.score == 0
    assert exit_code(result, interrupted=False) == ExitCode.INCONCLUSIVE


def test_a_difference_that_no_engine_stands_for_is_never_caught(runs: Runs) -> None:
    runs.statements = [ran(checked("fail"), engines=[])]
    (fault,) = runs("norm-256").faults
    assert not fault.caught
    assert fault.error


def test_a_caught_fault_stays_caught_whatever_else_could_not_run(runs: Runs) -> None:
    runs.statements = [
        ran(checked("fail"), checked("error", "b"), fault="norm-256"),
        ran(checked("fail"), fault="one-ulp", interrupted=True),
    ]
    result = runs("norm-256", "one-ulp")
    assert [(f.caught, f.error) for f in result.faults] == [(True, "")] * 2
    assert result.score == 1


def test_a_clean_run_that_fails_is_a_false_alarm(runs: Runs) -> None:
    runs.statements = [ran(), ran(checked("fail")), ran(checked("pass"))]
    result = runs(clean=3)
    assert (result.clean_runs, result.false_alarms, result.unsound) == (3, 1, ())
    assert (result.faults, result.score) == ((), None)
    assert exit_code(result, interrupted=False) == ExitCode.NOT_CERTIFIED


def test_a_failure_beside_an_error_is_a_false_alarm_too(runs: Runs) -> None:
    runs.statements = [ran(checked("fail"), checked("error", "b"))]
    result = runs(clean=1)
    assert (result.clean_runs, result.false_alarms) == (1, 1)


def test_a_clean_run_without_an_answer_does_not_count(runs: Runs) -> None:
    runs.statements = [
        ran(checked("error", reason="it died")),
        ran(engines=[]),
        ran(interrupted=True),
        ran(fault="one-ulp"),
        ran(),
    ]
    result = runs(clean=5)
    assert (result.clean_runs, result.false_alarms) == (1, 0)
    assert [line.split(": ")[0] for line in result.unsound] == [f"clean-0{n}" for n in range(1, 5)]
    assert "alone: error: it died" in result.unsound[0]
    assert "has one-ulp planted, not none" in result.unsound[3]
    assert exit_code(result, interrupted=False) == ExitCode.INCONCLUSIVE


def test_runs_after_a_stop_are_not_made(runs: Runs) -> None:
    runs.statements = [ran(checked("fail"), fault="norm-256")] * 9
    result = runs("norm-256", "one-ulp", clean=3, stopped=lambda: len(runs.asked) == 1)
    assert [fault.id for fault in result.faults] == ["norm-256"]
    assert (result.clean_runs, result.score) == (0, 1)
    assert complete(result)
    assert exit_code(result, interrupted=True) == ExitCode.INTERRUPTED


def test_stopped_before_the_first_run_nothing_is_said(runs: Runs) -> None:
    result = runs("norm-256", clean=3, stopped=lambda: True)
    assert runs.asked == []
    assert (result.faults, result.score, result.clean_runs, result.vllm) == ((), None, 0, "")
    assert complete(result)
    assert exit_code(result, interrupted=True) == ExitCode.INTERRUPTED


def test_nothing_to_do_is_refused(runs: Runs) -> None:
    with pytest.raises(UsageError, match="nothing to do"):
        runs()
    assert runs.asked == []


@pytest.mark.parametrize("error", [UsageError("no vLLM"), NothingToRun("x"), InfrastructureError("disk")])
def test_what_a_run_cannot_be_made_for_is_raised(runs: Runs, error: Exception) -> None:
    runs.statements = [error]
    with pytest.raises(type(error), match=str(error)):
        runs("norm-256", clean=1)


def all_caught(**changes: Any) -> SelfTest:
    return tried(*(fault_result(name) for name in FAULTS), **{"clean_runs": RUNS, **changes})


def all_but(last: FaultResult) -> SelfTest:
    return tried(*(fault_result(name) for name in list(FAULTS)[:-1]), last)


LAST = list(FAULTS)[-1]


def test_a_result_is_complete_when_every_run_gave_an_answer() -> None:
    assert complete(all_caught()) == ""
    assert complete(all_caught(clean_runs=RUNS + 1, false_alarms=3)) == "", "a bad answer is one too"
    assert complete(all_but(missed(LAST))) == ""


@pytest.mark.parametrize(
    ("result", "why"),
    [
        (tried(), f"{len(FAULTS)} of {len(FAULTS)} faults were not tried"),
        (
            tried(*(fault_result(name) for name in list(FAULTS)[1:])),
            f"1 of {len(FAULTS)} faults were not tried",
        ),
        (all_but(fault_result("stranger")), f"1 of {len(FAULTS)} faults were not tried"),
        (all_but(missed(LAST, error="it died")), f"{LAST} gave no answer: it died"),
        (all_caught(unsound=("clean-03: why",)), "a clean run gave no answer: clean-03: why"),
        (all_caught(clean_runs=RUNS - 1), f"{RUNS - 1} clean runs, and {RUNS} are needed"),
        (all_caught(clean_runs=0), "0 clean runs"),
    ],
)
def test_what_may_not_stand_for_the_suites_power(result: SelfTest, why: str) -> None:
    assert why in complete(result)


@pytest.mark.parametrize(
    ("result", "interrupted", "code"),
    [
        (all_caught(), False, ExitCode.CERTIFIED),
        (tried(fault_result(), clean_runs=0), False, ExitCode.CERTIFIED),
        (all_caught(), True, ExitCode.INTERRUPTED),
        (tried(missed()), False, ExitCode.NOT_CERTIFIED),
        (tried(fault_result(), false_alarms=1), False, ExitCode.NOT_CERTIFIED),
        (tried(missed()), True, ExitCode.NOT_CERTIFIED),
        (tried(false_alarms=1), True, ExitCode.NOT_CERTIFIED),
        (tried(missed(), missed(error="x"), unsound=("y",)), False, ExitCode.NOT_CERTIFIED),
        (tried(fault_result(), missed(error="x")), False, ExitCode.INCONCLUSIVE),
        (tried(fault_result(), unsound=("y",)), False, ExitCode.INCONCLUSIVE),
        (tried(missed(error="x")), True, ExitCode.INTERRUPTED),
    ],
)
def test_the_exit_code(result: SelfTest, interrupted: bool, code: ExitCode) -> None:
    assert exit_code(result, interrupted=interrupted) == code


def test_a_fault_reaches_the_units_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOMETHING", "else")
    monkeypatch.delenv(PLANT_VARIABLE, raising=False)
    planted = RunOptions(device="cpu", out=Path("x"), fault="norm-256").environment()
    assert (planted[PLANT_VARIABLE], planted["SOMETHING"]) == ("norm-256", "else")
    assert PLANT_VARIABLE not in RunOptions(device="cpu", out=Path("x")).environment()
    monkeypatch.setenv(PLANT_VARIABLE, "one-ulp")
    assert RunOptions(device="cpu", out=Path("x"), fault="norm-256").environment()[PLANT_VARIABLE] == (
        "norm-256"
    )


@pytest.mark.parametrize(
    ("asked", "around", "seen", "control"),
    [
        ({"fault": "norm-256"}, None, "norm-256", False),
        ({"fault": "norm-256"}, "one-ulp", "norm-256", False),
        ({"control": False}, None, None, False),
        ({}, None, None, True),
        ({}, "one-ulp", "one-ulp", False),
        ({"shared": SHARED, "fault": "norm-256"}, None, "norm-256", False),
    ],
)
def test_what_a_run_tells_its_units_of_fault_and_control(
    asked: dict[str, Any],
    around: str | None,
    seen: str | None,
    control: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told: list[tuple[Context, dict[str, str]]] = []
    monkeypatch.delenv(PLANT_VARIABLE, raising=False)
    if around is not None:
        monkeypatch.setenv(PLANT_VARIABLE, around)
    files = Files(tmp_path)
    files.suite = files.suite.replace(
        "{prompts: 3, sizes: [2, 3], part: 0.5, name: x}",
        "{prompts: 3, steps: 2, top_k: 1, longest_prompt: 20, batch_sizes: [2]}",
    )
    files.models = files.models.replace("vocab_size: 9}", "vocab_size: 999}")
    monkeypatch.setattr(
        executors_module,
        "probe_engine",
        lambda _: SimpleNamespace(vllm_version="0.32.0", executable="python"),
    )
    monkeypatch.setattr(
        executors_module,
        "run_unit",
        lambda task, emit, environ, *, stopped: told.append((task.context, environ)),
    )
    base = {"device": "cpu", "out": tmp_path / "out", "modes": ("eager",)}
    execute(prepare(RunOptions(**{**base, **asked}), files.load()), lambda event: None)
    ((context, environ),) = told
    assert environ.get(PLANT_VARIABLE) == seen
    assert context.control is control
    shared = ("/nowhere/shared", "/nowhere/s") if "shared" in asked else ("", None)
    assert (context.shared, context.preload) == shared


def test_one_job_has_all_the_cores_and_more_have_a_share_each() -> None:
    assert core_shares([3, 5, 6], 1) == [()]
    assert core_shares([3, 5, 6], 2) == [(3, 5), (6,)]
    assert core_shares([3, 5, 6], 3) == [(3,), (5,), (6,)]


@given(st.sets(st.integers(0, 255), min_size=1, max_size=64), st.data())
def test_every_core_belongs_to_one_job(cores: set[int], data: st.DataObject) -> None:
    jobs = data.draw(st.integers(2, len(cores)) if len(cores) > 1 else st.just(1))
    shares = core_shares(sorted(cores), jobs)
    if jobs > 1:
        assert sorted(core for share in shares for core in share) == sorted(cores)
        assert max(map(len, shares)) - min(map(len, shares)) <= 1


@pytest.mark.parametrize("jobs", [0, -1, 4])
def test_jobs_without_a_core_are_refused(jobs: int) -> None:
    with pytest.raises(UsageError, match="give 1 to 3"):
        core_shares([0, 1, 2], jobs)
