"""Runs that are killed at random and resumed until their end: is anything lost, false or left over?

A run is started; at a random moment a random victim gets SIGKILL: the runner, the unit's pytest, an engine's
worker, a process that vLLM started below one, or all at once. What still runs is killed again or waited for,
then ``run --resume`` goes on, and so on; after a few kills the run is left alone and must end. With an
interpreter that has vLLM some of the runs have real engines; in the others a stand-in suite takes their
place, which tries the runner alone. The result says how many kills were of which kind.

    python -m benchmarks.trust.kills --kills 200 --engine-python .venv/bin/python
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
import uuid
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import psutil

from bi_harness.certificate.essence import essence
from bi_harness.certificate.events import CheckFinished, RunFinished, RunStarted
from bi_harness.certificate.statement import Statement
from bi_harness.runner.journal import JOURNAL, read_whole_lines

ROOT = Path(__file__).resolve().parents[2]
MARK = "BI_HARNESS_KILLS_MARK"
VICTIMS = ("runner", "unit", "worker", "core", "all")
KILLS_OF_A_RUN = (3, 12)
EARLY_S = 30.0
"""Three of four kills fall into this much of a run's beginning: on a busy host a run takes minutes."""
GONE_S = 10.0
"""Within this everything that was started must be gone after the runner's end, on a busy host."""

REAL = ("--device", "cpu", "--model", "qwen3-tiny-fp32", "--mode", "eager")

STANDIN_CHECK = """\
watch = "import sys, time; from bi_harness.engine.orphan import die_with_parent; "
watch += "die_with_parent(int(sys.argv[2])); time.sleep(600)"
command = [sys.executable, "-c", watch, "bi_harness.engine.worker", str(os.getpid())]
worker = subprocess.Popen(command, start_new_session=True)
for _ in range(5):
    time.sleep(0.1)
    assert worker.poll() is None, "the stand-in worker died"
good(check, workload)
worker.kill()
worker.wait()
"""

PRELOADED_CHECK = """\
from tests.runner.standin_engine import a_forked_engine
a_forked_engine()
good(check, workload)
"""


@dataclass(frozen=True)
class Bench:
    """How ``bi-harness`` is started.

    Attributes:
        environ: of every process.
        arguments: after ``run``.
        out: the folder of runs.
        cwd: where.
    """

    environ: dict[str, str]
    arguments: tuple[str, ...]
    out: Path
    cwd: Path

    def start(self, folder: Path | None, log: Path) -> subprocess.Popen[bytes]:
        """A new run, or one that goes on."""
        more = ("--resume", str(folder)) if folder is not None else ("--out", str(self.out))
        with open(log, "ab") as file:
            return subprocess.Popen(
                [sys.executable, "-m", "bi_harness.cli", "run", *self.arguments, *more],
                env=self.environ,
                cwd=self.cwd,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                start_new_session=True,
            )

    def processes(self) -> list[psutil.Process]:
        """The live ones of all runs, however they were started: by a mark in their environment."""
        found = []
        for process in psutil.process_iter():
            try:
                alive = process.pid != os.getpid() and process.status() != psutil.STATUS_ZOMBIE
                if alive and process.environ().get(MARK) == self.environ[MARK]:
                    found.append(process)
            except (psutil.Error, OSError):
                continue
        return found


@dataclass
class Figures:
    """What came of it."""

    kills: Counter[str] = field(default_factory=Counter)
    runs: int = 0
    resumed: int = 0
    lost: int = 0
    changed: int = 0
    false_certificates: int = 0
    different: int = 0
    orphans: int = 0
    shared_memory: int = 0
    refused: int = 0
    gone_after_s: float = 0.0
    notes: list[str] = field(default_factory=list)

    def note(self, text: str) -> None:
        """Remember something that should not be."""
        self.notes.append(text)

    def told(self) -> dict[str, object]:
        """As data; what must be 0 is, where ``ok`` is true."""
        bad = {
            "lost_results": self.lost,
            "changed_results": self.changed,
            "false_certificates": self.false_certificates,
            "other_certificates": self.different,
            "refused_resumes": self.refused,
            "orphan_processes": self.orphans,
            "shared_memory_left": self.shared_memory,
        }
        return {
            "kills": self.kills.total(),
            "victims": dict(sorted(self.kills.items())),
            "runs": self.runs,
            "resumed": self.resumed,
            **bad,
            "gone_after_s": round(self.gone_after_s, 1),
            "notes": self.notes,
            "ok": not any(bad.values()),
        }


def measure(
    kills: int = 200,
    engine_python: str | None = None,
    seed: int = 0,
    *,
    real: int = 40,
    undisturbed: Path | None = None,
    work: Path | None = None,
    preload: bool = False,
) -> dict[str, object]:
    """Kill and resume, and count.

    Args:
        kills: how many, over as many runs as it takes.
        engine_python: the interpreter that has vLLM; without one, a stand-in suite takes the engine's place
            in all of them.
        seed: of victims and moments.
        real: how many of them are of runs with real engines, where there is such an interpreter. One takes a
            quarter of a minute on two idle cores, one of a stand-in three seconds.
        undisturbed: the folder of a whole real run of the same plan, to compare with; made where it is not
            given.
        work: a folder for the runs; one that is removed by default.
        preload: whether the runs have ``--preload``; the stand-ins' engines are then forked, too.

    Returns:
        Figures: ``kills``, and how many of them were of which engine; all of ``lost_results``,
        ``changed_results``, ``false_certificates``, ``other_certificates``, ``refused_resumes``,
        ``orphan_processes`` and ``shared_memory_left`` are 0 where all is well, and ``ok`` says so.
    """
    with tempfile.TemporaryDirectory(prefix="bi-harness-kills-") as made:
        folder = work or Path(made)
        folder.mkdir(parents=True, exist_ok=True)
        dice = random.Random(seed)
        began = time.monotonic()
        figures, spans = Figures(), {}
        shared = _shared_memory()
        of_real = min(real, kills) if engine_python else 0
        if engine_python and of_real:
            # Runs have a folder of their own. Links stay: a virtual environment is one.
            bench = _real(folder, str(Path(shutil.which(engine_python) or engine_python).absolute()), preload)
            spans["real"] = _measure(bench, of_real, dice, folder / "real.log", undisturbed, figures)
        if kills > of_real:
            log = folder / "standin.log"
            spans["standin"] = _measure(_standin(folder, preload), kills - of_real, dice, log, None, figures)
        figures.shared_memory = len(_shared_memory() - shared)
        return {
            "engine": "real" if of_real == kills else "stand-in" if not of_real else "real and stand-in",
            "real_kills": of_real,
            "standin_kills": figures.kills.total() - of_real,
            "undisturbed_s": {name: round(span, 1) for name, span in spans.items()},
            "seconds": round(time.monotonic() - began, 1),
            **figures.told(),
        }


def _real(folder: Path, engine_python: str, preload: bool) -> Bench:
    from tests.e2e.real import Harness

    kept = {k: v for k, v in os.environ.items() if not k.startswith(("BI_HARNESS_", "VLLM_", "PYTEST_"))}
    if cache := os.environ.get("BI_HARNESS_CACHE"):
        kept["BI_HARNESS_CACHE"] = cache
    environ = {
        **kept,
        MARK: uuid.uuid4().hex,
        "PYTHONPATH": str(ROOT),
        "BI_HARNESS_PRELOAD": str(int(preload)),
    }
    # Two checks of little work: what is tried here is the runner, and an engine's start takes longest.
    spec = Harness(folder, engine_python).spec("kills", checks=2)
    return Bench(environ, (*spec, *REAL, "--engine-python", engine_python), folder / "out", ROOT)


def _standin(folder: Path, preload: bool) -> Bench:
    from tests.runner.standin import Standin

    made = Standin(folder / "standin", uuid.uuid4().hex)
    made.root.mkdir(parents=True, exist_ok=True)
    made.write(**dict.fromkeys(("one", "two", "three"), PRELOADED_CHECK if preload else STANDIN_CHECK))
    environ = {**made.environment(), MARK: made.mark, "BI_HARNESS_PRELOAD": str(int(preload))}
    return Bench(environ, (), folder / "out", made.root)


def _measure(
    bench: Bench, kills: int, dice: random.Random, log: Path, undisturbed: Path | None, figures: Figures
) -> float:
    """Add so many kills to the figures; how long an undisturbed run took, in seconds."""
    undisturbed = undisturbed or _whole_run(bench, log)
    span, wanted = _seconds(undisturbed), essence(_statement(undisturbed))
    all_of_them = figures.kills.total() + kills
    while (left := all_of_them - figures.kills.total()) > 0:
        _one_run(bench, min(left, dice.randint(*KILLS_OF_A_RUN)), span, dice, log, figures, wanted)
    return span


def _whole_run(bench: Bench, log: Path) -> Path:
    before = set(_folders(bench.out))
    code = bench.start(None, log).wait()
    (made,) = set(_folders(bench.out)) - before
    if code != 0:
        raise RuntimeError(f"an undisturbed run ends with {code}: see {log}")
    return made


def _one_run(
    bench: Bench,
    most: int,
    span: float,
    dice: random.Random,
    log: Path,
    figures: Figures,
    wanted: dict[str, Any],
) -> None:
    """Kill a run ``most`` times, resuming it in between, and then let it come to its end."""
    figures.runs += 1
    before = set(_folders(bench.out))
    watch = _Watch(figures)
    folder: Path | None = None
    left = most
    while True:
        if folder is not None:
            figures.resumed += 1
        process = bench.start(folder, log)
        while left and _sleep(process, _moment(dice, span)):
            victim = _kill(bench, process, dice)
            if victim is None:
                break
            figures.kills[victim] += 1
            left -= 1
            if victim in ("runner", "all"):
                break
        code = process.wait()
        _see_gone(bench, figures)
        if folder is None:
            # One that was killed before it wrote down what it is to do cannot be resumed: it is begun anew.
            begun = set(_folders(bench.out)) - before
            folder = next((path for path in begun if _lines(path)), None)
        if folder is not None:
            watch.look(folder)
        if code in (3, 4):
            figures.refused += 1
            figures.note(f"{folder}: ended with {code}, see {log}")
            return
        if code == 0:
            break
        if left <= 0 and code > 0 and watch.tries_left() is False:
            figures.note(f"{folder}: does not come to its end ({code})")
            figures.different += 1
            return
    assert folder is not None
    watch.compare(folder, wanted)


class _Watch:
    """Looks at a run's folder after every kill."""

    def __init__(self, figures: Figures) -> None:
        self._figures = figures
        self._journal = b""
        self._seen: dict[tuple[str, str], CheckFinished] = {}
        self._tries = 3

    def tries_left(self) -> bool:
        """Whether a run that is left alone may be resumed once more."""
        self._tries -= 1
        return self._tries >= 0

    def look(self, folder: Path) -> None:
        """After a kill, or an end."""
        path = folder / JOURNAL
        data = path.read_bytes() if path.is_file() else b""
        data = data[: data.rfind(b"\n") + 1]
        if not data.startswith(self._journal):
            self._figures.lost += 1
            self._figures.note(f"{folder}: what the journal had is not there any more")
        self._journal = data
        if not data:
            return
        events, _, _ = read_whole_lines(path)
        for event in events:
            if isinstance(event, CheckFinished):
                self._seen[event.result.cell, event.result.check] = event
        if (folder / "certificate.json").is_file():
            said = _statement(folder).predicate.bi_harness
            if said.verdict == "CERTIFIED" and not _all_done(events):
                self._figures.false_certificates += 1
                self._figures.note(f"{folder}: CERTIFIED before its end")

    def compare(self, folder: Path, wanted: dict[str, Any]) -> None:
        """At the end: with the undisturbed run, and with all that had been seen on the way."""
        statement = _statement(folder)
        if (told := essence(statement)) != wanted:
            self._figures.different += 1
            self._figures.note(f"{folder}: another certificate: {_first_difference(told, wanted)}")
        last = {(c.cell, c.check): c for c in statement.predicate.bi_harness.checks}
        for key, event in self._seen.items():
            if event.result.status in ("error", "skip"):
                continue
            if key not in last or last[key].status != event.result.status:
                self._figures.lost += 1
            elif last[key].evidence != event.result.evidence:
                self._figures.changed += 1


def _all_done(events: Sequence[object]) -> bool:
    start, last = events[0], events[-1]
    assert isinstance(start, RunStarted)
    planned = {(p.cell, check) for p in start.plan if p.rule is None for check in p.checks}
    final = {(e.result.cell, e.result.check): e.result.status for e in events if isinstance(e, CheckFinished)}
    ended = isinstance(last, RunFinished) and not last.interrupted
    return ended and {k for k, status in final.items() if status == "pass"} == planned


def _moment(dice: random.Random, span: float) -> float:
    """Seconds until the next kill, of a run that takes ``span`` undisturbed."""
    return dice.uniform(0, min(span, EARLY_S) if dice.random() < 0.75 else span)


def _sleep(process: subprocess.Popen[bytes], seconds: float) -> bool:
    """Wait; whether the process still runs then."""
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        return True
    return False


def _kill(bench: Bench, runner: subprocess.Popen[bytes], dice: random.Random) -> str | None:
    """Kill a random victim of those that are there; which it was."""
    found: dict[str, list[psutil.Process]] = {"runner": [], "unit": [], "worker": [], "core": []}
    for process in bench.processes():
        with suppress(psutil.NoSuchProcess):
            found[_kind(process, runner.pid)].append(process)
    there = [kind for kind in VICTIMS if kind == "all" or found[kind]]
    victim = dice.choice(there)
    chosen = [p for ps in found.values() for p in ps] if victim == "all" else [dice.choice(found[victim])]
    if runner.poll() is not None:
        return None
    if victim == "all":
        for process in chosen:
            with suppress(psutil.NoSuchProcess):
                process.suspend()  # so that none sees another die first
    for process in chosen:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    return victim


def _kind(process: psutil.Process, runner: int) -> str:
    if process.pid == runner:
        return "runner"
    words = " ".join(process.cmdline())
    if "--bi-unit-file" in words:
        return "unit"
    return "worker" if "bi_harness.engine." in words else "core"


def _see_gone(bench: Bench, figures: Figures) -> None:
    """After the runner's end nothing of it may stay. Engines see it within two polls of half a second."""
    began = time.monotonic()
    while (left := bench.processes()) and time.monotonic() - began < GONE_S:
        time.sleep(0.1)
    figures.gone_after_s = max(figures.gone_after_s, time.monotonic() - began)
    for process in left:
        figures.orphans += 1
        with suppress(psutil.NoSuchProcess):
            figures.note(f"left over: {process.pid} {process.cmdline()[:6]}")
            process.kill()


def _lines(folder: Path) -> int:
    path = folder / JOURNAL
    return path.read_bytes().count(b"\n") if path.is_file() else 0


def _folders(out: Path) -> list[Path]:
    return [path for path in out.glob("*/*") if path.is_dir()]


def _statement(folder: Path) -> Statement:
    return Statement.model_validate_json((folder / "certificate.json").read_text(encoding="utf-8"))


def _seconds(folder: Path) -> float:
    """From the start of a run to the end of its certificate."""
    events, _, _ = read_whole_lines(folder / JOURNAL)
    took = datetime.fromisoformat(events[-1].time) - datetime.fromisoformat(events[0].time)
    return took.total_seconds() + 3.0  # its imports before, and the reports after


def _shared_memory() -> set[str]:
    """The segments of Python, torch, NCCL and vLLM; others may put files there, too."""
    folder = Path("/dev/shm")
    names = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    return {name for name in names if name.startswith(("psm_", "torch_", "sem.", "nccl", "vllm"))}


def _first_difference(a: Any, b: Any, where: str = "") -> str:
    if isinstance(a, dict) and isinstance(b, dict):
        for key in [*a, *b]:
            if a.get(key) != b.get(key):
                return _first_difference(a.get(key), b.get(key), f"{where}.{key}")
    if isinstance(a, list) and isinstance(b, list) and len(a) == len(b):
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            if x != y:
                return _first_difference(x, y, f"{where}[{i}]")
    return f"{where}: {str(a)[:200]} in place of {str(b)[:200]}"


def main() -> int:
    """Print the figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--engine-python", default=os.environ.get("BI_HARNESS_ENGINE_PYTHON"))
    parser.add_argument("--real", type=int, default=40, help="of the kills, with real engines")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--undisturbed", type=Path)
    parser.add_argument("--work", type=Path)
    parser.add_argument("--preload", action="store_true", help="of runs with --preload")
    given = parser.parse_args()
    result = measure(
        given.kills,
        given.engine_python,
        given.seed,
        real=given.real,
        undisturbed=given.undisturbed,
        work=given.work,
        preload=given.preload,
    )
    json.dump(result, sys.stdout, indent=2)
    sys.stdout.write("\n")
    return 0 if result["ok"] else 1


if __name__ == "__main__":
    sys.exit(main())
