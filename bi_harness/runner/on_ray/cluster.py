"""All that is said to Ray: connecting, the nodes, one actor for a unit. Ray is imported here alone."""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from bi_harness.errors import InfrastructureError, UsageError
from bi_harness.runner.on_ray.alike import NodeFacts
from bi_harness.runner.on_ray.node import NodeSide, facts_from
from bi_harness.runner.on_ray.parcel import Files

try:
    import ray
    from ray import exceptions as ray_errors
except ImportError as error:
    raise UsageError(
        f"--executor ray needs Ray, which is not installed here ({error}). "
        "What to do: pip install 'bi-harness[ray]', on this host and on every node"
    ) from error

ADDRESS = "RAY_ADDRESS"
_AUTO = "auto"
_THIS_HOST = ("localhost", "127.0.0.1", "::1", "[::1]")
_CONNECT_S = 5.0
_LOOK_S = 120.0
_POLL_S = 0.25
_HEAD_S = 30.0
"""How long a cluster's head may not answer. Ray ends this process, with an exit code of its own, at 60."""

_GONE_S = 60.0
"""How long a node may be out of reach before its unit is given up."""


class Lost(Exception):
    """A node, or what ran there for us, went away; the message says how."""


@dataclass(frozen=True, slots=True)
class Given:
    """A node as the cluster has it."""

    id: str
    address: str
    cpus: float
    gpus: float


class Cluster:
    """A Ray cluster that is there already: none is ever started.

    Raises:
        UsageError: there is none, or it cannot be used from here.
    """

    def __init__(self) -> None:
        # Nothing of this process is to be told to anybody.
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        address = os.environ.get(ADDRESS) or _AUTO
        _refuse_address(address)
        _silence()
        try:
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
        except ConnectionError as error:
            raise UsageError(_no_cluster(str(error))) from error
        except (RuntimeError, ValueError, OSError) as error:
            raise UsageError(_no_cluster(str(error).strip().splitlines()[0])) from error
        self._head = str(ray.get_runtime_context().gcs_address)
        self._closed = threading.Event()
        self._gone = threading.Event()
        threading.Thread(target=self._watch, name="ray-head", daemon=True).start()

    def close(self) -> None:
        """Leave the cluster, which ends what runs there for this process."""
        if self._closed.is_set():
            return
        self._closed.set()
        if self._gone.is_set():
            return  # Nobody is there to take leave of; Ray would wait for it.
        ray.shutdown()

    @property
    def gone(self) -> bool:
        """Whether the cluster does not answer any more."""
        return self._gone.is_set()

    def nodes(self) -> tuple[Given, ...]:
        """Those that are alive, in the order of their ids.

        Raises:
            InfrastructureError: the cluster does not answer.
        """
        self._must_answer()
        found = []
        for node in ray.nodes():
            if node["Alive"]:
                has = node["Resources"]
                found.append(
                    Given(
                        id=str(node["NodeID"]),
                        address=str(node["NodeManagerAddress"]),
                        cpus=float(has.get("CPU", 0)),
                        gpus=float(has.get("GPU", 0)),
                    )
                )
        return tuple(sorted(found, key=lambda node: node.id))

    def look(
        self, nodes: Sequence[Given], python: str | None
    ) -> tuple[tuple[NodeFacts, ...], dict[str, str]]:
        """What the nodes say of themselves.

        Returns:
            Their facts, and what is wrong with those that could not be asked, by id.

        Raises:
            InfrastructureError: the cluster does not answer.
        """
        actors = {node.id: self._actor([node.id], cpus=0, gpus=0) for node in nodes}
        asked = {node.id: actors[node.id].look.remote(python) for node in nodes}
        deadline = time.monotonic() + _LOOK_S
        found: list[NodeFacts] = []
        wrong: dict[str, str] = {}
        try:
            for node in nodes:
                where = f"{node.address}, node {node.id[:8]}"
                try:
                    told = self._get(asked[node.id], deadline, lambda: False)
                    found.append(NodeFacts(node.id, node.address, node.cpus, node.gpus, **facts_from(told)))
                except Lost as error:
                    wrong[node.id] = f"{where}: {error}"
                except (TypeError, KeyError, ValueError) as error:
                    wrong[node.id] = f"{where}: it answers as another bi-harness would: {error}"
        finally:
            for actor in actors.values():
                with suppress(Exception):
                    ray.kill(actor)
        return tuple(found), wrong

    def keep(self, files: Files) -> Any:
        """Files, as something to hand to ``place``: sent to each node once."""
        return ray.put(files)

    def place(self, nodes: Sequence[str], *, cpus: float, gpus: int) -> RemoteUnit:
        """Ask for a place for one unit, on one of these nodes.

        The unit is one actor, and an actor is one process on one node: all GPUs that Ray gives it are that
        node's. A placement group would say the same in more words.
        """
        return RemoteUnit(self, self._actor(nodes, cpus=cpus, gpus=gpus))

    def _actor(self, nodes: Sequence[str], *, cpus: float, gpus: int) -> Any:
        return (
            ray.remote(NodeSide)
            .options(
                num_cpus=cpus,
                num_gpus=gpus,
                # Whether something runs again is decided here, by what it has shown, and never by Ray.
                max_restarts=0,
                max_task_retries=0,
                max_concurrency=4,
                label_selector={"ray.io/node-id": f"in({','.join(nodes)})"},
            )
            .remote()
        )

    def _get(self, ref: Any, deadline: float | None, enough: Callable[[], bool]) -> Any:
        """The answer, as soon as it is there.

        Raises:
            Lost: who was asked is gone, or does not answer in time.
            Stopped: it is enough.
            InfrastructureError: the cluster does not answer.
        """
        while True:
            self._must_answer()
            if enough():
                raise Stopped
            done, _ = ray.wait([ref], timeout=_POLL_S)
            if done:
                break
            if deadline is not None and time.monotonic() > deadline:
                raise Lost("it does not answer")
        try:
            return ray.get(ref)
        except ray_errors.ActorUnavailableError as error:
            raise Unreachable(_first_line(error)) from error
        except ray_errors.RayError as error:
            raise Lost(_first_line(error)) from error

    def _must_answer(self) -> None:
        if self._gone.is_set():
            raise InfrastructureError(
                f"the Ray cluster's head {self._head} has not answered for {_HEAD_S:.0f} s. "
                "What to do: when it is there again, `bi-harness run --resume RUN --executor ray`"
            )

    def _watch(self) -> None:
        """See that the head is there, before Ray sees that it is not and ends this process."""
        seen = time.monotonic()
        while not self._closed.wait(1.0):
            if _answers(self._head, 2.0):
                seen = time.monotonic()
            elif time.monotonic() - seen > _HEAD_S:
                self._gone.set()
                return


class Stopped(Exception):
    """The run was told to stop."""


class Unreachable(Lost):
    """For now: it may answer again."""


class RemoteUnit:
    """One unit's actor."""

    def __init__(self, cluster: Cluster, actor: Any) -> None:
        self._cluster, self._actor = cluster, actor
        self._unreachable_since: float | None = None

    def begin(self, order: str, files: Any, enough: Callable[[], bool]) -> dict[str, Any]:
        """See ``NodeSide.begin``; waits for the place first.

        Raises:
            Lost, Stopped, InfrastructureError: see ``Cluster``.
        """
        ref = self._actor.begin.remote(order, files)
        return dict(self._cluster._get(ref, None, enough))

    def news(self, events: int, logs: dict[str, int]) -> dict[str, Any]:
        """See ``NodeSide.news``. A node that is out of reach for a while has none.

        Raises:
            Lost, InfrastructureError: see ``Cluster``.
        """
        try:
            ref = self._actor.news.remote(events, logs)
            told = self._cluster._get(ref, time.monotonic() + _GONE_S, lambda: False)
        except Unreachable as error:
            now = time.monotonic()
            self._unreachable_since = self._unreachable_since or now
            if now - self._unreachable_since > _GONE_S:
                raise Lost(str(error)) from error
            time.sleep(_POLL_S)
            return {"events": [], "logs": {}, "ended": False, "error": ""}
        self._unreachable_since = None
        return dict(told)

    def stop(self) -> None:
        """See ``NodeSide.stop``; not waited for."""
        self._actor.stop.remote()

    def end(self, *, orderly: bool) -> None:
        """End the actor, and with it whatever of the unit still runs.

        Args:
            orderly: the unit is over: its files on the node are removed first.
        """
        if self._cluster.gone:
            return
        if orderly:
            with suppress(Lost, InfrastructureError):
                self._cluster._get(self._actor.close.remote(), time.monotonic() + 30, lambda: False)
        with suppress(Exception):
            ray.kill(self._actor)


def _silence() -> None:
    """Keep what Ray tells of its nodes' troubles (a raylet's last words, a hundred lines) off our stdout.

    That is for data. What of it concerns a unit comes with the error that tells of its loss.
    """
    worker = getattr(getattr(ray, "_private", None), "worker", None)
    if hasattr(worker, "print_to_stdstream"):
        worker.print_to_stdstream = lambda *_, **__: None  # type: ignore[union-attr]


def _refuse_address(address: str) -> None:
    if address.startswith("ray://"):
        raise UsageError(
            f"{ADDRESS}={address}: a Ray client is cut off with its connection, and the run with it. "
            f"What to do: start the run on a node of the cluster (its head, say), with {ADDRESS} unset"
        )
    if address == "local":
        raise UsageError(f"{ADDRESS}=local: give the address of a cluster that is there; none is started")
    if address == _AUTO:
        return
    host, _, port = address.rpartition(":")
    # Ray takes this host's own address for these.
    real = f"{ray.util.get_node_ip_address()}:{port}" if host in _THIS_HOST else address
    if not _answers(real, _CONNECT_S):
        # Ray itself would try for minutes.
        meant = f" (which Ray takes for {real})" if real != address else ""
        raise UsageError(_no_cluster(f"nothing answers at {ADDRESS}={address}{meant}"))


def _answers(address: str, timeout_s: float) -> bool:
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=timeout_s):
            return True
    except (OSError, ValueError):
        return False


def _no_cluster(why: str) -> str:
    return (
        f"no Ray cluster can be used from here: {why}\n"
        "What to do: start one (`ray start --head`, and `ray start --address HOST:PORT` on the other hosts), "
        f"or name its head with {ADDRESS}=HOST:PORT; docs/ray.md"
    )


def _first_line(error: BaseException) -> str:
    """What Ray says of a loss, without its list of things to try."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    telling = [line for line in lines if any(word in line for word in _TELLING)]
    return (telling or lines or [type(error).__name__])[-1 if telling else 0][:500]


_TELLING = ("died because", "node has died", "terminated", "OOM", "memory", "Error:", "failed to", "exit")
