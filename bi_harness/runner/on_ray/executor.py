"""``--executor ray``: units on the nodes of a cluster, and what becomes of a unit whose node is lost."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from bi_harness.certificate.attempts import TRIES, Key, open_of
from bi_harness.certificate.events import (
    CheckFinished,
    CheckProgress,
    CheckStarted,
    EngineReady,
    Event,
    Node,
    UnitFinished,
    UnitStarted,
)
from bi_harness.certificate.records import CheckResult
from bi_harness.device.match import DeviceLike
from bi_harness.errors import InfrastructureError, UsageError
from bi_harness.runner.context import SelectedCell
from bi_harness.runner.execution import Job, Surroundings
from bi_harness.runner.journal import now, parse
from bi_harness.runner.local import UnitTask
from bi_harness.runner.on_ray.alike import Chosen, NodeFacts, choose, differences, likeness
from bi_harness.runner.on_ray.cluster import Cluster, Given, Lost, RemoteUnit, Stopped
from bi_harness.runner.on_ray.parcel import inside, pack, relative, telling
from bi_harness.runner.provenance import tree_digest
from bi_harness.runner.schedule import Free, Need
from bi_harness.runner.side_by_side import Place, side_by_side

NO_NODE_S = 60.0
"""How long a unit waits for a node when none is left: a cluster may replace what it lost."""

STOP_S = 45.0
"""How long a unit that was told to stop may take: its processes are killed and seen gone."""

_POLL_S = 1.0


class RayExecutor:
    """Units on the nodes of a Ray cluster.

    Raises:
        UsageError: no cluster can be used.
    """

    def __init__(self) -> None:
        self._cluster = Cluster()
        self._known: dict[str, NodeFacts | None] = {}
        self._knowing = threading.Lock()
        self._chosen: Chosen | None = None
        self._kind = ""
        self._python: str | None = None

    def find(self, device: str, devices: Mapping[str, DeviceLike], python: str | None) -> Surroundings:
        """See ``Executor``. Every node looks at itself; those that are the device must be alike."""
        given = self._cluster.nodes()
        found, wrong = self._cluster.look(_working(given), python)
        if wrong:
            listed = "\n".join(f"  {line}" for line in wrong.values())
            raise UsageError(
                "nodes of the Ray cluster could not be looked at: bi-harness[ray], the same, must be on "
                f"each.\n{listed}"
            )
        chosen = choose(found, device, devices)
        self._chosen, self._kind, self._python = chosen, devices[chosen.device].kind, python
        self._known = {node.id: None for node in given} | {node.id: node for node in chosen.nodes}
        first = chosen.nodes[0]
        assert first.engine is not None, "choose() refuses nodes without one"
        gpus = int(max(node.gpus for node in chosen.nodes)) if self._kind == "cuda" else None
        return Surroundings(chosen.device, first.host, first.engine, gpus, tuple(map(_told, chosen.nodes)))

    def run(
        self,
        job: Job,
        task: Callable[[str], UnitTask],
        emit: Callable[[Event], None],
        stopped: Callable[[], bool],
    ) -> None:
        """See ``Executor``. Units that were lost too often are told when the others are done."""
        assert self._chosen is not None, "find() comes first"
        nodes = self._chosen.nodes
        takes = {unit: takes_of(need, nodes, job.kind) for unit, need in job.needs.items()}
        room = sum(max(places(node, *one) for one in takes.values()) for node in nodes) if takes else 0
        jobs = max(1, min(job.jobs or room, room, len(takes) or 1))
        # Ray places; here is only counted how many may be asked for at once, the longest first.
        slots = {unit: Need(1, 1.0, 1.0, need.weight) for unit, need in job.needs.items()}
        files: list[Any] = []
        spent: dict[str, str] = {}
        packing = threading.Lock()

        def run_one(unit: str, place: Place, enough: Callable[[], bool]) -> None:
            ready = task(unit)
            with packing:
                if not files:
                    files.append(self._packed(ready))
            cpus, gpus = takes[unit]
            course = _Course(self, ready, job, emit, enough, cpus, gpus, *files[0])
            try:
                course.run()
            except _Spent as error:
                spent[unit] = str(error)

        side_by_side(slots, Free.of([1.0] * jobs, float(jobs)), jobs, run_one, stopped)
        if spent:
            raise InfrastructureError(
                "nodes were lost, and with them units that have no verdict yet:\n"
                + "\n".join(f"  {unit}: {why}" for unit, why in spent.items())
                + "\nWhat to do: `bi-harness run --resume RUN --executor ray` does what is left"
            )

    def close(self) -> None:
        """Leave the cluster."""
        self._cluster.close()

    @property
    def cluster(self) -> Cluster:
        """The cluster."""
        return self._cluster

    @property
    def python(self) -> str | None:
        """The engine's interpreter, as it was asked for."""
        return self._python

    @property
    def device(self) -> str:
        """The device that the nodes are."""
        assert self._chosen is not None, "find() comes first"
        return self._chosen.device

    def like(self) -> dict[str, Any]:
        """What all nodes of the run have in common."""
        assert self._chosen is not None, "find() comes first"
        return likeness(self._chosen.nodes[0], self._kind)

    def usable(self, cpus: float, gpus: int) -> tuple[str, ...]:
        """The nodes that a unit may run on now, those that came after the run began included.

        Raises:
            InfrastructureError: the cluster does not answer.
        """
        with self._knowing:
            alive = self._cluster.nodes()
            unknown = [node for node in _working(alive) if node.id not in self._known]
            if unknown:
                found, _ = self._cluster.look(unknown, self._python)
                same = {
                    node.id: node
                    for node in found
                    if not differences(self.like(), likeness(node, self._kind))
                }
                self._known |= {node.id: same.get(node.id) for node in unknown}
            return tuple(
                node.id
                for node in alive
                if self._known.get(node.id) is not None and node.cpus >= cpus and node.gpus >= gpus
            )

    def _packed(self, task: UnitTask) -> tuple[Any, str]:
        context = task.context
        suites = Path(context.suites)
        files = pack(Path(context.models), Path(context.hardware), suites)
        return self._cluster.keep(files), tree_digest(suites)


class _Spent(Exception):
    """A unit was lost as often as it may be."""


class _Course:
    """One unit, from node to node."""

    def __init__(
        self,
        executor: RayExecutor,
        task: UnitTask,
        job: Job,
        emit: Callable[[Event], None],
        enough: Callable[[], bool],
        cpus: float,
        gpus: int,
        files: Any,
        suites_digest: str,
    ) -> None:
        self._executor, self._task, self._job = executor, task, job
        self._emit_all, self._enough = emit, enough
        self._cpus, self._gpus = cpus, gpus
        self._files, self._suites_digest = files, suites_digest
        self._results: dict[Key, CheckResult] = {}
        self._node: Node | None = None
        self._avoid: set[str] = set()

    def run(self) -> None:
        """Run the unit until it has ended by itself, was stopped, or has nothing left to do.

        Raises:
            _Spent: it was lost too often.
            InfrastructureError: the cluster does not answer, or the run's folder cannot be written.
        """
        keys = [(s.cell.id, check) for s in self._task.context.cells for check in s.checks]
        losses: list[str] = []
        for number in range(1, TRIES + 1):
            again = open_of(keys, self._results)
            if losses and (not again or self._enough()):
                return
            try:
                self._try(retried(self._task, set(again), number))
            except Stopped:
                return
            except Lost as error:
                losses.append(str(error))
                if self._node is not None:
                    self._avoid.add(self._node.id)
            else:
                return
        if open_of(keys, self._results):
            raise _Spent(f"lost {len(losses)} times; the last time: {losses[-1]}")

    def _try(self, task: UnitTask) -> None:
        """One try.

        Raises:
            Lost: what it ran on went away; the journal has it, if the unit had begun.
            Stopped: before it had begun.
        """
        self._node = None
        unit = self._executor.cluster.place(self._nodes(), cpus=self._cpus, gpus=self._gpus)
        over = False
        started = time.monotonic()
        try:
            begun = unit.begin(self._order(task), self._files, self._enough)
            if begun["refused"]:
                self._avoid.add(begun["node"])
                raise Lost(f"the node refused the unit: {begun['refused']}")
            self._node = Node(id=begun["node"], host=begun["host"], gpus=tuple(begun["gpus"]))
            self._emit_all(UnitStarted(time=now(), unit=task.unit, node=self._node))
            started = time.monotonic()
            self._follow(task, unit, started)
            over = True
        except Lost as error:
            if self._node is not None:
                self._end(task, "lost", f"its node {self._node.host} was lost: {error}", started)
            raise
        finally:
            unit.end(orderly=over)

    def _nodes(self) -> tuple[str, ...]:
        """Those to choose from: not where the unit was lost before, unless there is no other.

        Raises:
            Stopped: while it waits for one.
            Lost: there is none.
        """
        deadline = time.monotonic() + NO_NODE_S
        while not (found := self._executor.usable(self._cpus, self._gpus)):
            if self._enough():
                raise Stopped
            if time.monotonic() > deadline:
                raise Lost(f"no node that the unit could run on is left, for {NO_NODE_S:.0f} s")
            time.sleep(_POLL_S)
        return tuple(node for node in found if node not in self._avoid) or found

    def _order(self, task: UnitTask) -> str:
        context = task.context
        return json.dumps(
            {
                "unit": task.unit,
                "context": asdict(context),
                "run": Path(context.run_dir).name,
                "folder": relative(task.folder, context.run_dir),
                "logs": relative(context.logs, context.run_dir),
                "journal": relative(context.journal, context.run_dir),
                "suites": [relative(suite, context.suites) for suite in task.suites],
                "suites_digest": self._suites_digest,
                "timeout_s": task.timeout_s,
                "environ": telling(self._job.environ),
                "python": self._executor.python,
                "device": self._executor.device,
                "kind": self._job.kind,
                "gpus": self._gpus,
                "like": self._executor.like(),
            }
        )

    def _follow(self, task: UnitTask, unit: RemoteUnit, started: float) -> None:
        """Pass on what the unit tells, to its end.

        Raises:
            Lost: its node went away.
        """
        run_dir = Path(task.context.run_dir)
        events, logs = 0, dict[str, int]()
        told_end = False
        give_up: float | None = None
        damaged = ""
        while True:
            if give_up is None and (damaged or self._enough()):
                unit.stop()
                give_up = time.monotonic() + STOP_S
            news = unit.news(events, logs)
            for line in news["events"]:
                events += 1
                if damaged or told_end:
                    continue  # Who writes nonsense is not believed afterwards.
                try:
                    told_end = self._pass_on(task, parse(str(line).encode(), "the node's news", None))
                except UsageError as error:
                    damaged = f"what its node tells is damaged: {error}"
            for name, data in news["logs"].items():
                logs[name] = logs.get(name, 0) + len(data)
                _append(run_dir, name, data)
            if news["ended"] or (give_up is not None and time.monotonic() > give_up):
                break
        if told_end:
            return
        if damaged:
            self._end(task, "crashed", damaged, started)
        elif give_up is not None:
            self._end(task, "interrupted", "the run was interrupted", started)
        else:
            raise Lost(news["error"] or "the unit ended there without saying how")

    def _pass_on(self, task: UnitTask, event: Event) -> bool:
        """Emit an event of the unit; returns whether it was its end.

        Raises:
            UsageError: it is not a unit's to write, or not this one's.
        """
        if isinstance(event, UnitStarted) and event.unit == task.unit:
            return False  # Told already, with its node.
        if isinstance(event, UnitFinished) and event.unit == task.unit and event.outcome != "lost":
            self._emit_all(event)
            return True
        if isinstance(event, CheckFinished):
            key = (event.result.cell, event.result.check)
            if not any(key == (s.cell.id, check) for s in task.context.cells for check in s.checks):
                raise UsageError(f"a result of {key[1]} on {key[0]}, which it was not to run")
            self._results[key] = event.result
        elif not isinstance(event, EngineReady | CheckStarted | CheckProgress):
            raise UsageError(f"a unit does not write {event.type}")
        self._emit_all(event)
        return False

    def _end(self, task: UnitTask, outcome: Any, message: str, started: float) -> None:
        log = f"{relative(task.context.logs, task.context.run_dir)}/{task.folder.name}.log"
        self._emit_all(
            UnitFinished(
                time=now(),
                unit=task.unit,
                outcome=outcome,
                message=message,
                log=log if (Path(task.context.run_dir) / log).is_file() else None,
                duration_s=round(time.monotonic() - started, 3),
            )
        )


def retried(task: UnitTask, again: set[Key], number: int) -> UnitTask:
    """A unit with the checks that are left, whose logs are put beside those of the tries before.

    Args:
        task: as it was first.
        again: the checks that are left.
        number: of the try; the first is 1.
    """
    context = task.context
    cells = tuple(
        SelectedCell(s.cell, tuple(check for check in s.checks if (s.cell.id, check) in again))
        for s in context.cells
    )
    logs = context.logs if number == 1 else str(Path(context.logs) / f"try-{number}")
    return replace(task, context=replace(context, cells=cells, logs=logs))


def takes_of(need: Need, nodes: tuple[NodeFacts, ...], kind: str) -> tuple[float, int]:
    """CPUs and GPUs of one node that a unit takes, in the cluster's numbers.

    On a CPU a unit takes the whole node, since engines there take all its cores.
    """
    least = min(node.cpus for node in nodes)
    if kind == "cpu":
        return least, 0
    return min(need.cores, least), need.gpus


def places(node: NodeFacts, cpus: float, gpus: int) -> int:
    """How many units that take so much a node has room for at once."""
    by_gpus = int(node.gpus // gpus) if gpus else None
    by_cpus = int(node.cpus // cpus) if cpus else None
    found = [one for one in (by_gpus, by_cpus) if one is not None]
    return min(found) if found else 1


def _working(nodes: tuple[Given, ...]) -> tuple[Given, ...]:
    """Those that give the cluster something: a head may give nothing, and have nothing installed."""
    return tuple(node for node in nodes if node.cpus >= 1 or node.gpus >= 1)


def _told(node: NodeFacts) -> dict[str, Any]:
    """A node, for the certificate."""
    host = node.host
    return {
        "id": node.id,
        "address": node.address,
        "hostname": host.hostname,
        "gpus": [gpu.uuid for gpu in host.gpus],
        "driver": host.driver,
        "kernel": host.kernel,
    }


def _append(run_dir: Path, name: str, data: bytes) -> None:
    """What a log has more, at the same place in the run's folder.

    Raises:
        InfrastructureError: it cannot be written there.
        Lost: its name leads elsewhere.
    """
    try:
        path = run_dir / inside(name)
    except UsageError as error:
        raise Lost(f"its node tells of a log that is none: {error}") from error
    if path.relative_to(run_dir).parts[0] != "logs":
        raise Lost(f"its node tells of a log that is none: {name!r}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "ab") as log:
            log.write(data)
    except OSError as error:
        raise InfrastructureError(f"cannot write {path}: {error.strerror}") from error
