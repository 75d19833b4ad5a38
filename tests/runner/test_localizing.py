"""The process that localizes: it takes the check's own plan, and whatever comes of it changes no verdict."""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from bi_harness.certificate.events import Event
from bi_harness.certificate.localized import Localization
from bi_harness.certificate.records import CheckResult
from bi_harness.cli import main as cli
from bi_harness.errors import NothingToRun, UsageError
from bi_harness.exits import ExitCode
from bi_harness.runner.localize_run import failure
from bi_harness.runner.localize_task import LocalizeTask
from bi_harness.runner.localizing import FirstFailure, localizable, localize_failure
from bi_harness.runner.run import from_journal
from tests.certificate.journals import CELL, evidence, finished, result
from tests.runner.standin import MARK, Standin, marked

BAD = "bad(check, workload)"

FAKE = """\
import bi_harness.runner.engines as engines
from tests.localize.test_driver import Engine

class Fake(Engine):
    def __init__(self, config, folder, log, preload):
        super().__init__(least=2, at=0, broken={("layers.0.proj", -1): 5})
        self.config = config
        assert config.llm["enforce_eager"] and config.arm == "treatment", config
    def spawn(self):
        pass
    def wait_ready(self, timeout_s):
        from types import SimpleNamespace
        return SimpleNamespace(effective={})
    def __enter__(self):
        return self
    def __exit__(self, *exc):
        pass

engines.EngineClient = Fake
"""


@pytest.fixture
def standin(tmp_path: Path) -> Iterator[Standin]:
    made = Standin(tmp_path, uuid.uuid4().hex)
    yield made
    assert marked(made.mark) == []


def failed(standin: Standin) -> CheckResult:
    (found,) = [r for r in standin.unit().results.values() if r.status == "fail"]
    return found


def localized(standin: Standin, what: CheckResult, **environ: str) -> Localization:
    return localize_failure(standin.task(), what, {**os.environ, MARK: standin.mark, **environ}, budget_s=30)


def test_the_plan_is_the_checks_own_and_the_module_is_found(standin: Standin) -> None:
    standin.write(one=f"{FAKE}\n{BAD}")
    told = localized(standin, failed(standin))
    assert (told.outcome, told.module) == ("module", "layers.0.proj"), told
    assert told.planned is not None
    assert told.planned.neighbours == 1  # the first batch size in which it differs
    assert told.cost is not None
    assert told.cost.starts == 1
    assert not list(standin.root.glob("run/.work/unit/localize-*/events.jsonl.*"))


FORKED = """\
import subprocess
from bi_harness.engine.preloaded import _note

class Forked(Fake):
    def __init__(self, config, folder, log, preload):
        super().__init__(config, folder, log, preload)
        assert str(preload.socket) == "/run/s", preload
        folder.mkdir(parents=True)
        # No descendant of the unit: as what the run's fork server has forked.
        sh = subprocess.run(["sh", "-c", "setsid sleep 99 > /dev/null & echo $!"], stdout=subprocess.PIPE)
        _note(folder, int(sh.stdout))

engines.EngineClient = Forked
"""


def test_a_forked_engine_is_ended_where_the_process_that_asked_for_it_did_not(standin: Standin) -> None:
    standin.write(one=f"{FAKE}\n{FORKED}\n{BAD}")
    what, task = failed(standin), standin.task()
    task = replace(task, context=replace(task.context, preload="/run/s"))
    told = localize_failure(task, what, {**os.environ, MARK: standin.mark}, budget_s=30)
    assert told.outcome == "module", told
    assert list(standin.root.glob("run/.work/unit/localize-*/*/forked.json"))
    assert marked(standin.mark) == []


@pytest.mark.long
def test_an_engine_that_does_not_start_is_told(standin: Standin) -> None:
    standin.write(one=BAD)
    told = localized(standin, failed(standin))
    assert told.outcome == "failed"
    assert "engine" in told.reason


@pytest.mark.long
def test_a_process_that_dies_is_told(standin: Standin) -> None:
    standin.write(one=BAD)
    what = failed(standin)
    standin.write(one=f"os._exit(7)\n{BAD}")
    told = localized(standin, what)
    assert (told.outcome, told.cell, told.check) == ("failed", what.cell, what.check)
    assert "log: logs/" in told.reason


def test_a_check_that_compares_nothing_has_nothing_to_rerun(standin: Standin) -> None:
    standin.write(one=BAD)
    what = failed(standin)
    standin.write(one="check.conclude()")
    assert "compares no requests" in localized(standin, what).reason


@pytest.mark.long
def test_a_run_that_is_stopped_waits_for_nothing(standin: Standin) -> None:
    standin.write(one=f"time.sleep(60)\n{BAD}")
    cell = standin.task().context.cells[0].cell.id
    arm = {"first_divergence": evidence(2).first_divergence.model_copy(update={"arm": 1})}  # type: ignore[union-attr]
    what = result("fail", "one", cell, evidence=evidence(2, **arm))
    told = localize_failure(standin.task(), what, {**os.environ, MARK: standin.mark}, stopped=lambda: True)
    assert "interrupted" in told.reason


def test_a_run_localizes_the_first_failure_and_its_verdict_is_the_same(standin: Standin) -> None:
    standin.write(one="good(check, workload)", two=f"{FAKE}\n{BAD}", three=BAD)
    codes = {}
    for on in ("0", "1"):
        code, out, err = standin.finish("run", "--json", BI_HARNESS_LOCALIZE=on, PYTHONPATH=_path(standin))
        assert code == ExitCode.NOT_CERTIFIED, err
        ours = json.loads(out)["certificate"]["predicate"]["bi_harness"]
        codes[on] = (code, ours["verdict"], ours["why"], [c["status"] for c in ours["checks"]])
        told = [(one["check"], one["module"]) for one in ours.get("localized", ())]
        assert told == ([("two", "layers.0.proj")] if on == "1" else [])
        folder = Path(json.loads(out)["run"])
        # What is computed from the journal again is the same, reports and all.
        assert cli.main(["verify", str(folder)]) == ExitCode.CERTIFIED
        if on == "1":
            assert "localized    two: layers.0.proj" in err
            assert "layers.0.proj" in (folder / "certificate.html").read_text()
    assert codes["0"] == codes["1"]


def _path(standin: Standin) -> str:
    return standin.environment()["PYTHONPATH"]


def test_a_run_that_is_over_is_localized_beside_it(standin: Standin) -> None:
    standin.write(one="good(check, workload)", two=f"{FAKE}\n{BAD}")
    _, out, err = standin.finish("run", "--json")
    folder = Path(json.loads(out)["run"])
    before = {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    code, out, err = standin.finish("localize", str(folder), "tiny", "--json")
    assert code == ExitCode.CERTIFIED, err
    told = json.loads(out)
    assert (told["check"], told["module"]) == ("two", "layers.0.proj")
    assert {p: p.read_bytes() for p in before} == before
    found = sorted(p.name for p in (folder / "localized").iterdir())
    assert [name.rpartition(".")[2] for name in found] == ["html", "json"]
    assert json.loads((folder / "localized" / found[1]).read_text()) == told
    assert cli.main(["verify", str(folder)]) == ExitCode.CERTIFIED
    assert from_journal(folder).predicate.bi_harness.localized == ()


@pytest.mark.long
def test_what_has_not_failed_or_is_not_there_is_refused(standin: Standin) -> None:
    standin.write(one="good(check, workload)", two=BAD)
    _, out, _ = standin.finish("run", "--json")
    folder = json.loads(out)["run"]
    for arguments, code, said in (
        (("tiny", "one"), ExitCode.NOTHING_TO_RUN, "no request differs"),
        (("other",), ExitCode.USAGE, 'no cell "other"'),
        (("tiny", "four"), ExitCode.USAGE, 'no check "four"'),
    ):
        got, out, err = standin.finish("localize", folder, *arguments)
        assert (got, out) == (code, ""), err
        assert said in err
    got, _, err = standin.finish("localize", str(standin.root), "tiny")
    assert (got, "no events.jsonl" in err) == (ExitCode.USAGE, True)
    standin.write(one="good(check, workload)", two=f"{BAD} ")
    (standin.root / "hardware.yaml").open("a").write("# changed\n")
    got, _, err = standin.finish("localize", folder, "tiny")
    assert (got, "cannot localize in" in err) == (ExitCode.USAGE, True)


def test_the_first_failure_alone_is_kept() -> None:
    passed: list[Event] = []
    first = FirstFailure(passed.append)
    arm = {"first_divergence": evidence(2).first_divergence.model_copy(update={"arm": 1})}  # type: ignore[union-attr]
    for check, status in (("a", "pass"), ("b", "error"), ("c", "fail"), ("d", "fail")):
        changes = {"evidence": evidence(2, **arm)} if status == "fail" else {}
        first(finished(result(status, check, **changes)))  # type: ignore[arg-type]
    assert len(passed) == 4
    assert first.result is not None
    assert first.result.check == "c"


def test_only_requests_that_differ_in_an_arm_can_be_rerun() -> None:
    assert not localizable(result("pass"))
    assert not localizable(result("fail", evidence=None))
    assert not localizable(result("fail"))  # of an old journal, which does not tell the arm
    assert not localizable(result("error"))


def test_a_task_goes_to_its_file_and_back(tmp_path: Path) -> None:
    task = LocalizeTask(CELL, "needle", 3, 1, 60.0)
    task.write(tmp_path / "task.json")
    assert LocalizeTask.read(tmp_path / "task.json") == task
    (tmp_path / "task.json").write_text('{"cell": 1}')
    with pytest.raises(UsageError, match="not what is to be localized"):
        LocalizeTask.read(tmp_path / "task.json")


def test_a_part_of_a_cell_is_enough_where_it_is_clear(standin: Standin) -> None:
    standin.write(one=BAD)
    statement = standin.unit().statement
    assert failure(statement, "tiny", None).check == "one"
    assert failure(statement, "cpu/tiny/CPU_ATTN/tp1-dp1/eager/core", "one").check == "one"
    with pytest.raises(UsageError):
        failure(statement, "large", None)
    standin.write(one="good(check, workload)")
    with pytest.raises(NothingToRun):
        failure(standin.unit().statement, "tiny", None)
