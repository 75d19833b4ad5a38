"""A clock that jumps: durations and limits are of another one, and no verdict hangs on the time of day."""

from __future__ import annotations

import random
import shutil
import subprocess
from pathlib import Path

import pytest

from bi_harness.certificate.build import build
from bi_harness.certificate.essence import essence
from bi_harness.exits import ExitCode
from tests.certificate.journals import JOURNAL, sound
from tests.runner.standin import Standin
from tests.survival.runs import GOOD, folder, journal, once, resume, statement

# The time of day is another one every second: 400 days ago, or 400 days ahead.
JUMPING = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <sys/time.h>
#include <time.h>
static time_t shift(void) {
    struct timespec t;
    int (*real)(clockid_t, struct timespec *) = dlsym(RTLD_NEXT, "clock_gettime");
    real(CLOCK_MONOTONIC, &t);
    return (t.tv_sec % 2 ? 400 : -400) * 86400L;
}
int clock_gettime(clockid_t clock, struct timespec *t) {
    int (*real)(clockid_t, struct timespec *) = dlsym(RTLD_NEXT, "clock_gettime");
    int done = real(clock, t);
    if (clock == CLOCK_REALTIME) t->tv_sec += shift();
    return done;
}
time_t time(time_t *out) {
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    if (out) *out = t.tv_sec;
    return t.tv_sec;
}
int gettimeofday(struct timeval *t, void *zone) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    t->tv_sec = now.tv_sec;
    t->tv_usec = now.tv_nsec / 1000;
    return 0;
}
"""


@pytest.fixture
def jumping(tmp_path: Path) -> str:
    """For LD_PRELOAD."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler")
    source, library = tmp_path / "jumping.c", tmp_path / "jumping.so"
    source.write_text(JUMPING)
    command = [compiler, "-shared", "-fPIC", "-o", str(library), str(source), "-ldl"]
    subprocess.run(command, check=True)
    return str(library)


@pytest.mark.long
def test_a_run_whose_clock_jumps_and_that_is_resumed(standin: Standin, jumping: str) -> None:
    standin.write(one="time.sleep(1)\n" + GOOD, two=once(standin, "raise ValueError('x')"), three=GOOD)
    code, _, err = standin.finish("run", LD_PRELOAD=jumping)
    assert code == ExitCode.INCONCLUSIVE, err
    assert resume(standin, LD_PRELOAD=jumping)[0] == ExitCode.CERTIFIED
    times = [event["time"] for event in journal(standin)]
    assert times != sorted(times), "the clock did jump"
    told = statement(folder(standin))
    durations = [c.duration_s for c in told.predicate.bi_harness.checks if c.duration_s is not None]
    assert all(0 <= duration < 120 for duration in durations)
    assert durations[0] >= 1
    assert told.predicate.bi_harness.verdict == "CERTIFIED"


@pytest.mark.long
def test_a_limit_is_not_reached_by_a_jump(standin: Standin, jumping: str) -> None:
    outcome = standin.write(one="time.sleep(3)\n" + GOOD).unit(60, environ={"LD_PRELOAD": jumping})
    assert outcome.ended == ("completed", "")
    assert outcome.verdict == "CERTIFIED"


def test_no_verdict_hangs_on_the_times_in_a_journal() -> None:
    wanted = essence(build(sound(), JOURNAL))
    dice = random.Random(0)
    for _ in range(50):
        events = [
            event.model_copy(update={"time": f"{dice.randint(1, 9999):04}-01-01T00:00:00.000Z"})
            for event in sound()
        ]
        assert essence(build(events, JOURNAL)) == wanted
