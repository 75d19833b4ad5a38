"""Which nodes of a cluster one certificate may be of. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bi_harness.device.engine_probe import EngineFacts
from bi_harness.device.facts import GpuFacts, HostFacts
from bi_harness.device.match import DeviceLike, match_device
from bi_harness.errors import UsageError, WrongDevice

_CPU = ("physical_cores", "logical_cores")
"""Matters where engines run on the CPU: they split their work by its cores."""

_HOST = ("machine", "cpu_model", "cpu_flags", "driver")
"""What a run that is resumed must find again, too (``runner.same_run``)."""


@dataclass(frozen=True, slots=True)
class NodeFacts:
    """What a node said of itself.

    Attributes:
        id: the cluster's name of it.
        address: of it in the cluster.
        cpus, gpus: what the cluster has it down for.
        host: its facts.
        engine: what the interpreter with vLLM has there; ``None`` where it does not run.
        engine_problem: why not.
        harness: the version of bi-harness there, and the digest of its sources.
    """

    id: str
    address: str
    cpus: float
    gpus: float
    host: HostFacts
    engine: EngineFacts | None
    engine_problem: str
    harness: tuple[str, str]

    @property
    def name(self) -> str:
        """For a reader: several nodes may be on one host."""
        return f"{self.host.hostname} ({self.address}, node {self.id[:8]})"


def host_facts(data: Mapping[str, Any]) -> HostFacts:
    """The inverse of ``dataclasses.asdict`` by way of JSON.

    Raises:
        TypeError: it is no such thing.
    """
    gpus = tuple(GpuFacts(**gpu) for gpu in data["gpus"])
    return HostFacts(**{**data, "gpus": gpus, "cpu_flags": tuple(data["cpu_flags"])})


def likeness(node: NodeFacts, kind: str) -> dict[str, Any]:
    """What must be the same on all nodes of a run, in JSON's types: what a certificate says once, for all."""
    host = node.host
    found: dict[str, Any] = {
        "bi-harness": list(node.harness),
        "engine": dict(sorted(node.engine.versions.items())) if node.engine is not None else None,
        "engine's Python": node.engine.python if node.engine is not None else None,
        "engine's CUDA": dict(sorted(node.engine.cuda.items())) if node.engine is not None else None,
    }
    for name in _HOST + (_CPU if kind == "cpu" else ()):
        value = getattr(host, name)
        found[name] = list(value) if isinstance(value, tuple) else value
    if kind == "cuda":
        kinds = {(gpu.name, gpu.capability, round(gpu.memory_gib, 1), gpu.mig) for gpu in host.gpus}
        found["GPUs"] = [list(one) for one in sorted(kinds)]
    return found


def differences(one: Mapping[str, Any], other: Mapping[str, Any]) -> tuple[str, ...]:
    """What differs between two likenesses, a line for each."""
    found = []
    for name in dict.fromkeys([*one, *other]):
        here, there = one.get(name), other.get(name)
        if isinstance(here, Mapping) and isinstance(there, Mapping):
            found += [
                f"{name}: {part} {here.get(part, 'not there')} and {there.get(part, 'not there')}"
                for part in dict.fromkeys([*here, *there])
                if here.get(part) != there.get(part)
            ]
        elif here != there:
            found.append(f"{name}: {here} and {there}")
    return tuple(found)


@dataclass(frozen=True, slots=True)
class Chosen:
    """The nodes that a run may use.

    Attributes:
        device: id of ``hardware.yaml``.
        nodes: alike, by host and id; at least one.
        others: why the rest is left out, by id.
    """

    device: str
    nodes: tuple[NodeFacts, ...]
    others: dict[str, str]


def choose(nodes: Sequence[NodeFacts], device: str, devices: Mapping[str, DeviceLike]) -> Chosen:
    """The nodes that are the device, which must be alike.

    A node that is another device is left out, and so is one that gives the cluster nothing of what units
    take (a head that does no work). Nothing else is: a node with another vLLM is a mistake to be told.

    Args:
        nodes: all that are alive.
        device: the id that was asked for, or ``auto``.
        devices: of ``hardware.yaml``.

    Raises:
        WrongDevice: no node is that device, or which one is meant cannot be told.
        UsageError: nodes that are the device are not alike, or have no engine.
    """
    others: dict[str, str] = {}
    found: dict[str, list[NodeFacts]] = {}
    for node in sorted(nodes, key=lambda node: (node.host.hostname, node.id)):
        if node.cpus < 1 and node.gpus < 1:
            others[node.id] = f"{node.name}: gives the cluster neither CPUs nor GPUs"
            continue
        try:
            matched = match_device(device, devices, node.host)
        except WrongDevice as error:
            others[node.id] = f"{node.name}: {error}"
            continue
        if devices[matched].kind == "cuda" and node.gpus < 1:
            others[node.id] = f"{node.name}: gives the cluster no GPUs"
            continue
        if devices[matched].kind == "cpu" and node.cpus < 1:
            others[node.id] = f"{node.name}: gives the cluster no CPUs"
            continue
        found.setdefault(matched, []).append(node)
    if not found:
        listed = "\n".join(f"  {why}" for why in others.values())
        raise WrongDevice(f"no node of the Ray cluster can run units of --device {device}:\n{listed}")
    if len(found) > 1:
        listed = "\n".join(f"  {name}: {', '.join(n.name for n in some)}" for name, some in found.items())
        raise WrongDevice(
            f"the Ray cluster has nodes of several devices, and a certificate is about one:\n{listed}\n"
            "What to do: name one with --device"
        )
    ((matched, same),) = found.items()
    kind = devices[matched].kind
    for node in same:
        if node.engine is None:
            raise UsageError(f"{node.name}: {node.engine_problem}")
        if node.engine.vllm_version is None:
            raise UsageError(
                f"{node.name}: {node.engine.executable} has no vLLM. Install bi-harness[{kind}] there, or "
                "name the interpreter that has it, at the same path on every node, with --engine-python"
            )
    first = same[0]
    for node in same[1:]:
        if differ := differences(likeness(first, kind), likeness(node, kind)):
            raise UsageError(
                f"the nodes {first.name} and {node.name} are not alike, and a certificate is of one kind of "
                "host and engine:\n" + "\n".join(f"  {line}" for line in differ) + "\n"
                "What to do: make them alike, or take one of them out of the cluster"
            )
    return Chosen(matched, tuple(same), others)
