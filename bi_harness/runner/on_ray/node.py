"""The part that runs on a node: looks at it, runs one unit there, and tells what happens.

An actor, one process for each unit. Of what goes between it and the runner, Ray pickles plain texts, bytes,
numbers and their lists and mappings; nothing of ours.
"""

from __future__ import annotations

import json
import os
import shutil
import threading
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import bi_harness
from bi_harness.certificate.events import Event
from bi_harness.device.detect import detect
from bi_harness.device.engine_probe import EngineFacts, probe_engine
from bi_harness.device.match import match_device
from bi_harness.errors import HarnessError, UsageError
from bi_harness.runner.caches import model_cache
from bi_harness.runner.context import Context
from bi_harness.runner.local import UnitTask, run_unit
from bi_harness.runner.on_ray.alike import NodeFacts, differences, host_facts, likeness
from bi_harness.runner.on_ray.before import clear, new_folder
from bi_harness.runner.on_ray.parcel import HARDWARE, MODELS, SUITES, Files, inside, unit_environ, unpack
from bi_harness.runner.provenance import tree_digest
from bi_harness.spec.load import load_spec

CHUNK = 256 * 1024
"""Bytes of one log that are told at once."""

TOLD_AT_ONCE = 2000
"""Events, likewise."""

WAIT_S = 0.5
"""For something to tell, before it is told that there is nothing."""


def look(python: str | None, environ: Mapping[str, str]) -> dict[str, Any]:
    """What this node is, in JSON's types: host, engine, bi-harness."""
    engine: EngineFacts | None = None
    problem = ""
    try:
        engine = probe_engine(python)
    except HarnessError as error:
        problem = str(error)
    package = Path(bi_harness.__file__).resolve().parent
    told = {
        "host": asdict(detect(environ)),
        "engine": asdict(engine) if engine is not None else None,
        "engine_problem": problem,
        "harness": [bi_harness.__version__, tree_digest(package)],
    }
    return json.loads(json.dumps(told))  # type: ignore[no-any-return]


class NodeSide:
    """One unit on this node."""

    def __init__(self) -> None:
        self._root: Path | None = None
        self._run: Path | None = None
        self._stop = threading.Event()
        self._news = threading.Condition()
        self._events: list[str] = []
        self._ended = False
        self._error = ""

    def look(self, python: str | None) -> dict[str, Any]:
        """See ``look``."""
        return look(python, _of_the_node(os.environ))

    def begin(self, order: str, files: Files) -> dict[str, Any]:
        """Start a unit.

        Args:
            order: JSON, by ``executor.order_of``.
            files: see ``parcel``.

        Returns:
            ``refused``: why not, or empty; ``node``, ``host``, ``gpus``: where it runs.
        """
        told = json.loads(order)
        try:
            task, environ, gpus = self._ready(told, files)
        except (HarnessError, OSError) as error:
            return {"refused": str(error) or type(error).__name__, "node": _node_id()}
        thread = threading.Thread(target=self._go, args=(task, environ), name="unit", daemon=True)
        thread.start()
        return {"refused": "", "node": _node_id(), "host": os.uname().nodename, "gpus": gpus}

    def news(self, events: int, logs: Mapping[str, int]) -> dict[str, Any]:
        """What there is beyond what is known already; asking again loses nothing.

        Args:
            events: how many are known.
            logs: bytes that are known, by the log's name in the run's folder.

        Returns:
            ``events``: lines of JSON; ``logs``: the next bytes of each that has more; ``ended``: whether
            nothing will follow these; ``error``: why the unit could not be run, which is not its own doing.
        """
        with self._news:
            if len(self._events) <= events and not self._ended:
                self._news.wait(WAIT_S)
            # Asked before the logs are looked at: what is written afterwards is for the next time.
            ended = self._ended
            found = self._events[events : events + TOLD_AT_ONCE]
            rest = len(self._events) - events - len(found)
        more = self._logs(logs)
        return {
            "events": found,
            "logs": more,
            "ended": ended and rest <= 0 and not more,
            "error": self._error,
        }

    def stop(self) -> None:
        """End the unit; its end is news."""
        self._stop.set()

    def close(self) -> None:
        """Remove the unit's files."""
        if self._root is not None:
            shutil.rmtree(self._root, ignore_errors=True)

    def _ready(self, told: Mapping[str, Any], files: Files) -> tuple[UnitTask, dict[str, str], list[str]]:
        clear()
        self._root = new_folder()
        unpack(files, self._root)
        models, hardware, suites = (self._root / name for name in (MODELS, HARDWARE, SUITES))
        if tree_digest(suites) != told["suites_digest"]:
            raise UsageError("the suites that came are not those that were sent")
        environ = unit_environ(os.environ, told["environ"])
        spec = load_spec(models, hardware, suites)
        python, gpus = self._checked(told, environ, spec.devices)
        (self._root / "unit.json").write_text(json.dumps(told["context"]), encoding="utf-8")
        context = Context.read(self._root / "unit.json")
        self._run = self._root / inside(told["run"])
        folder, logs, journal = (self._run / inside(told[name]) for name in ("folder", "logs", "journal"))
        logs.mkdir(parents=True)
        context = replace(
            context,
            engine_python=python,
            models=str(models),
            hardware=str(hardware),
            suites=str(suites),
            folder=str(folder),
            logs=str(logs),
            run_dir=str(self._run),
            journal=str(journal),
            model_cache=str(model_cache(environ)),
        )
        if gpus:
            environ["CUDA_VISIBLE_DEVICES"] = ",".join(gpus)
        of_unit = tuple(suites / inside(name) for name in told["suites"])
        return UnitTask(told["unit"], context, folder, of_unit, told["timeout_s"]), environ, gpus

    def _checked(
        self, told: Mapping[str, Any], environ: Mapping[str, str], devices: Mapping[str, Any]
    ) -> tuple[str, list[str]]:
        """That this node is what the run was told it is; the engine's interpreter and the unit's GPUs.

        Raises:
            HarnessError: it is not, or not any more.
        """
        # Ray has set the GPUs that the unit was given; none for a unit on a CPU, whose host may have some.
        given = environ if told["kind"] == "cuda" else _all_visible(environ)
        found = look(told["python"], given)
        node = NodeFacts(id="", address="", cpus=0, gpus=0, **facts_from(found))
        match_device(told["device"], devices, node.host)
        if told["kind"] == "cuda" and len(node.host.gpus) != told["gpus"]:
            raise UsageError(f"the unit needs {told['gpus']} GPUs, and Ray gave it {len(node.host.gpus)}")
        if differ := differences(told["like"], likeness(node, told["kind"])):
            raise UsageError(f"it is not as the other nodes are: {'; '.join(differ)}")
        assert node.engine is not None, "its versions are those of the other nodes"
        uuids = [gpu.uuid for gpu in node.host.gpus] if told["kind"] == "cuda" else []
        return node.engine.executable, uuids

    def _go(self, task: UnitTask, environ: Mapping[str, str]) -> None:
        error = ""
        try:
            run_unit(task, self._emit, environ, stopped=self._stop.is_set)
        except Exception as problem:
            # Told, as the unit's end that is missing then: nobody waits for this thread.
            error = f"{type(problem).__name__}: {problem}"
        with self._news:
            self._error, self._ended = error, True
            self._news.notify_all()

    def _emit(self, event: Event) -> None:
        with self._news:
            self._events.append(event.model_dump_json())
            self._news.notify_all()

    def _logs(self, known: Mapping[str, int]) -> dict[str, bytes]:
        if self._run is None:
            return {}
        found = {}
        for path in sorted(self._run.glob("logs/**/*")):
            if not path.is_file() or path.is_symlink():
                continue
            name = path.relative_to(self._run).as_posix()
            with open(path, "rb") as log:
                log.seek(known.get(name, 0))
                if data := log.read(CHUNK):
                    found[name] = data
        return found


def _of_the_node(environ: Mapping[str, str]) -> dict[str, str]:
    """The variables with the GPUs that the node itself was given: Ray hides them from who asked for none."""
    found = _all_visible(environ)
    try:
        theirs = Path(f"/proc/{environ['RAY_RAYLET_PID']}/environ").read_bytes()
    except (KeyError, OSError):
        return found
    name = b"CUDA_VISIBLE_DEVICES="
    for entry in theirs.split(b"\0"):
        if entry.startswith(name):
            found["CUDA_VISIBLE_DEVICES"] = entry.removeprefix(name).decode(errors="replace")
    return found


def _all_visible(environ: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in environ.items() if name != "CUDA_VISIBLE_DEVICES"}


def _node_id() -> str:
    import ray

    return str(ray.get_runtime_context().get_node_id())


def facts_from(told: Mapping[str, Any]) -> dict[str, Any]:
    """``look``'s answer as fields of ``NodeFacts``.

    Raises:
        TypeError, KeyError: it is no such answer.
    """
    engine = told["engine"]
    version, digest = told["harness"]
    return {
        "host": host_facts(told["host"]),
        "engine": EngineFacts(**engine) if engine is not None else None,
        "engine_problem": str(told["engine_problem"]),
        "harness": (str(version), str(digest)),
    }
