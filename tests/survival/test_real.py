"""Real engines that are killed, held, starved and told to stop, and real runs that are resumed."""

from __future__ import annotations

import resource
import signal
import subprocess
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from bi_harness.certificate.essence import essence
from bi_harness.certificate.statement import Statement
from bi_harness.exits import ExitCode
from tests.e2e.conftest import harness
from tests.e2e.real import Harness, Ran, of_run
from tests.runner.standin import marked, wait_for

pytestmark = [pytest.mark.engine, pytest.mark.long]
__all__ = ["harness"]


@dataclass
class Going:
    """A run of two checks on one model that is going on."""

    harness: Harness
    spec: list[str]
    out: Path
    mark: str
    process: subprocess.Popen[str]

    @property
    def folder(self) -> Path:
        (folder,) = self.out.glob("cpu/*")
        return folder

    def journal(self) -> str:
        return "".join(p.read_text() for p in self.out.glob("cpu/*/events.jsonl"))

    def wait_for(self, text: str, times: int = 1) -> None:
        def there() -> bool:
            assert self.process.poll() is None, self.process.communicate()[1]
            return self.journal().count(text) >= times

        wait_for(there, 300, text)

    def worker(self, arm: str = "treatment") -> psutil.Process:
        """The process of an engine."""
        (found,) = [
            p
            for p in marked(self.mark)
            if "bi_harness.engine.worker" in p.cmdline() and any(f"-{arm}/" in word for word in p.cmdline())
        ]
        return found

    def end(self, timeout_s: float = 300) -> tuple[int, str]:
        _, err = self.process.communicate(timeout=timeout_s)
        return self.process.returncode, err

    def checks(self) -> dict[str, Any]:
        told = self.statement().predicate.bi_harness.checks
        return {c.check: c for c in told if c.status != "skip"}

    def statement(self) -> Statement:
        return Statement.model_validate_json((self.folder / "certificate.json").read_text())

    def resume(self) -> tuple[int, str]:
        self.process = self.harness.start("run", "--resume", str(self.folder), mark=self.mark, out=self.out)
        code, err = self.end(900)
        assert of_run(self.mark, self.out) == ()
        return code, err


@pytest.fixture(scope="module")
def spec(harness: Harness) -> list[str]:
    return [*harness.spec("survival", checks=2, check_s=30), "--mode", "eager", "--model", "qwen3-tiny-fp32"]


@pytest.fixture(scope="module")
def whole(harness: Harness, spec: list[str]) -> dict[str, Any]:
    """The essence of an undisturbed run."""
    ran: Ran = harness.run(*spec)
    assert ran.code == ExitCode.CERTIFIED, ran.stderr
    return essence(Statement.model_validate_json((ran.folder / "certificate.json").read_text()))


@pytest.fixture
def start(harness: Harness, spec: list[str]) -> Callable[[], Going]:
    def begin() -> Going:
        mark = uuid.uuid4().hex
        out = harness.root / mark
        return Going(harness, spec, out, mark, harness.start("run", *spec, mark=mark, out=out))

    return begin


def test_a_killed_runner_is_resumed(start: Callable[[], Going], whole: dict[str, Any]) -> None:
    run = start()
    run.wait_for('"check_finished"')
    run.process.kill()
    run.end()
    wait_for(lambda: not of_run(run.mark, run.out), 10, "all processes gone")
    code, err = run.resume()
    assert code == ExitCode.CERTIFIED, err
    assert "1 checks keep their results, 1 are left" in err
    assert essence(run.statement()) == whole


@pytest.mark.parametrize("arm", ["treatment", "control"])
def test_a_killed_engine_is_an_error_and_is_resumed(
    start: Callable[[], Going], whole: dict[str, Any], arm: str
) -> None:
    run = start()
    run.wait_for('"engine_ready"', 2)
    run.worker(arm).kill()
    code, err = run.end()
    assert code == ExitCode.INCONCLUSIVE, err
    assert of_run(run.mark, run.out) == ()
    first = run.checks()["bs1_vs_bsN"]
    assert first.status == "error"
    assert (
        f"the {arm} engine died (killed by SIGKILL (often the kernel's out-of-memory killer))" in first.reason
    )
    assert (run.folder / str(first.log)).stat().st_size > 0
    code, err = run.resume()
    assert code == ExitCode.CERTIFIED, err
    assert essence(run.statement()) == whole
    (resumed,) = run.statement().predicate.bi_harness.resumed
    assert {one.status for one in resumed.reopened} == {"error"}


def test_ten_seconds_are_enough_for_real_engines(start: Callable[[], Going]) -> None:
    run = start()
    run.wait_for('"check_started"')
    time.sleep(5)
    sent = time.monotonic()
    run.process.send_signal(signal.SIGTERM)
    code, err = run.end(10)
    print(f"SIGTERM: {time.monotonic() - sent:.1f} s")
    assert code == ExitCode.INTERRUPTED, err
    assert of_run(run.mark, run.out) == ()
    assert run.statement().predicate.bi_harness.interrupted


def test_an_engine_that_stands_still(start: Callable[[], Going]) -> None:
    """SIGSTOP: it gives no output, makes no progress, and hears nothing."""
    run = start()
    run.wait_for('"engine_ready"', 1)
    run.worker().suspend()
    code, err = run.end()
    assert code == ExitCode.INCONCLUSIVE, err
    assert "did not finish within 30 s" in run.checks()["bs1_vs_bsN"].reason
    assert of_run(run.mark, run.out) == ()


def test_an_engine_without_memory(start: Callable[[], Going]) -> None:
    """For real: from its first answer on it gets no more memory than it has."""
    run = start()
    run.wait_for('"engine_ready"', 1)
    worker = run.worker()
    has = worker.memory_info().vms
    worker.rlimit(resource.RLIMIT_AS, (has, has))
    code, err = run.end()
    assert code == ExitCode.INCONCLUSIVE, err
    first = run.checks()["bs1_vs_bsN"]
    assert first.status == "error"
    print(first.reason)
    assert "the treatment engine" in first.reason
    assert of_run(run.mark, run.out) == ()
