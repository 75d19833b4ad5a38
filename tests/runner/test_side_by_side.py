"""Units at once: each runs once, on its own place, and the certificate is that of one after the other."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import replace

import pytest

from bi_harness.certificate.essence import essence
from bi_harness.exits import ExitCode
from bi_harness.runner.schedule import Free, Need
from bi_harness.runner.side_by_side import Place, Turn, side_by_side
from tests.runner.standin import Standin, ended, wait_for
from tests.survival.runs import GOOD, folder, statement

GPU = Free.of([100.0, 100.0], 16)
UNITS = {f"u{n}": Need(gpus=1, gpu_gib=60.0, cores=2, weight=float(n)) for n in range(5)}


def never() -> bool:
    return False


class Log:
    """Who ran, where, and how many at once."""

    def __init__(self, seconds: float = 0.02) -> None:
        self.seconds = seconds
        self.ran: list[tuple[str, Place]] = []
        self.most = self._now = 0
        self._lock = threading.Lock()

    def __call__(self, unit: str, place: Place, stopped: Callable[[], bool]) -> None:
        with self._lock:
            self._now += 1
            self.most = max(self.most, self._now)
            self.ran.append((unit, place))
        time.sleep(self.seconds)
        with self._lock:
            self._now -= 1


def test_one_at_a_time_is_in_the_plans_order() -> None:
    log = Log(0)
    side_by_side(UNITS, GPU, 1, log, never)
    assert [unit for unit, _ in log.ran] == list(UNITS)
    assert log.most == 1


def test_two_gpus_take_two_units() -> None:
    log = Log()
    side_by_side(UNITS, GPU, 8, log, never)
    assert sorted(unit for unit, _ in log.ran) == list(UNITS)
    assert log.most == 2
    assert {place for _, place in log.ran} == {(0,), (1,)}
    assert log.ran[0][0] == "u4", "the longest first"


def test_the_first_error_stops_the_others_and_is_raised() -> None:
    waited = threading.Event()

    def run(unit: str, place: Place, stopped: Callable[[], bool]) -> None:
        if unit == "u4":
            raise OSError("the journal cannot be written")
        while not stopped():
            time.sleep(0.01)
        waited.set()

    with pytest.raises(OSError, match="journal"):
        side_by_side(UNITS, GPU, 2, run, never)
    assert waited.is_set(), "it was told to stop, and waited for"


@pytest.mark.parametrize("jobs", [2, 3])
def test_a_unit_that_takes_less_from_now_on_lets_another_go(jobs: int) -> None:
    """While it runs, not when it has ended; and never more at once than were asked for."""
    host, unit = Free.of([100.0], 4), Need(gpus=1, gpu_gib=10.0, cores=3)
    log, together = Log(0.05), threading.Barrier(jobs)

    def run(name: str, place: Place, turn: Turn) -> None:
        turn.takes(replace(unit, cores=0.5))
        together.wait(20)
        log(name, place, turn)

    side_by_side(dict.fromkeys("abcdef", unit), host, jobs, run, never)
    assert len(log.ran) == 6
    assert log.most == jobs


def test_a_stop_leaves_out_those_that_wait() -> None:
    asked = threading.Event()
    began: list[str] = []

    def run(unit: str, place: Place, stopped: Callable[[], bool]) -> None:
        began.append(unit)
        if len(began) == 2:
            asked.set()
        while not stopped():
            time.sleep(0.01)

    side_by_side(UNITS, GPU, 2, run, asked.is_set)
    assert len(began) == 2
    side_by_side(UNITS, GPU, 1, run, asked.is_set)
    assert len(began) == 2


def test_a_signal_that_another_thread_takes_is_heard_while_units_run() -> None:
    """The kernel may hand it to any thread; its handler runs in the main one, which waits for the units."""
    came: list[int] = []
    heard: list[bool] = []
    once = threading.Event()

    def run(unit: str, place: Place, stopped: Callable[[], bool]) -> None:
        if not once.is_set():
            once.set()
            time.sleep(0.2)
            signal.pthread_kill(threading.get_ident(), signal.SIGUSR1)
        deadline = time.monotonic() + 20
        while not stopped() and time.monotonic() < deadline:
            time.sleep(0.01)
        heard.append(stopped())

    before = signal.signal(signal.SIGUSR1, lambda number, frame: came.append(number))
    try:
        side_by_side(UNITS, GPU, 2, run, lambda: bool(came))
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert heard == [True, True]


def test_runs_of_two_units_at_once_give_the_same_certificate(standin: Standin) -> None:
    """Each keeps to its own cores; what they tell stands in the plan's order."""
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("one core")
    told = standin.root / "cores-"
    tell = f"open({str(told)!r} + cell.model, 'w').write(str(sorted(os.sched_getaffinity(0))))"
    body = f"{tell}\ntime.sleep(0.5)\n{GOOD}"
    standin.write(one=body, two=GOOD)
    out = standin.root / "one-by-one"
    both = ["run", "--profile", "nightly", "--weights", "synthetic"]
    code, _, err = standin.finish(*both, "--jobs", "1", BI_HARNESS_OUT=str(out))
    assert code == ExitCode.CERTIFIED, err
    assert "[" not in err.split("pass")[1].splitlines()[0], "one unit at a time needs no name in each line"
    code, _, err = standin.finish(*both, "--jobs", "2")
    assert code == ExitCode.CERTIFIED, err
    assert "unit 1/2" in err and "unit 2/2" in err  # noqa: PT018 - one thing
    assert err.index("unit 2/2") < err.index("pass"), "both begin before one ends"
    (other,) = out.glob("cpu/*")
    here = folder(standin)
    assert essence(statement(here)) == essence(statement(other))
    tiny, org = (set(json.loads((standin.root / f"cores-{name}").read_text())) for name in ("tiny", "org"))
    assert tiny
    assert len(tiny) == len(org)
    assert not tiny & org
    assert not standin.marked()


def test_an_interrupt_ends_all_units_that_run(standin: Standin) -> None:
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("one core")
    standin.write(one="time.sleep(600)")
    process = standin.cli("run", "--profile", "nightly", "--weights", "synthetic", "--jobs", "2")

    def both() -> bool:
        return (
            sum(
                path.read_text().count("check_started")
                for path in standin.root.glob("out/cpu/*/events.jsonl")
            )
            == 2
        )

    wait_for(both, 60, "both units have begun")
    process.send_signal(signal.SIGINT)
    _, err = ended(process)
    assert process.returncode == ExitCode.INTERRUPTED, err
    assert not standin.marked()


@pytest.mark.parametrize("jobs", ["0", "two", "-1", "1000", ""])
def test_a_wrong_number_is_refused(standin: Standin, jobs: str) -> None:
    standin.write(one=GOOD)
    code, _, err = standin.finish("run", "--jobs", jobs)
    assert code == ExitCode.USAGE
    assert "give a number from 1 to 999, or auto" in err
