"""Whether the host in front of us is the device that was named. Pure."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from typing import Protocol

from bi_harness.device.facts import GpuFacts, HostFacts
from bi_harness.errors import InfrastructureError, WrongDevice

AUTO = "auto"


class DeviceLike(Protocol):
    """What is needed of a device of ``hardware.yaml``."""

    @property
    def id(self) -> str:
        """``h200``."""

    @property
    def kind(self) -> str:
        """``cpu`` or ``cuda``."""

    @property
    def capability(self) -> str | None:
        """``9.0``; ``None`` for a CPU."""

    @property
    def match(self) -> Sequence[str]:
        """Regular expressions, one of which is found in the driver's name of the GPU."""


def match_device(requested: str, devices: Mapping[str, DeviceLike], facts: HostFacts) -> str:
    """The device that a run on this host is about.

    Args:
        requested: an id of ``hardware.yaml``, or ``auto`` for what the host is.
        devices: of ``hardware.yaml``, by id.
        facts: the host.

    Returns:
        The device's id. The CPU device matches any host, but only when named or without usable GPUs.

    Raises:
        WrongDevice: the host is not that device, or which one it is cannot be told.
        InfrastructureError: the host has GPUs, and its driver is broken.
    """
    if requested == AUTO:
        return _auto(devices, facts)
    asked = devices.get(requested)
    if asked is None:
        raise WrongDevice(_unknown_id(requested, devices))
    if asked.kind == "cpu":
        return asked.id
    _readable(facts)
    if not facts.gpus:
        raise WrongDevice(
            f"--device {requested} is a GPU ({_sm(asked.capability or '?')}); {_no_gpus(facts)}.\n"
            f"What to do: run on a host with one, or --device {_cpu_id(devices) or AUTO} for this host."
        )
    _one_kind(facts)
    gpu = facts.gpus[0]
    if not named(asked, gpu):
        known = _matching(devices, gpu)
        here = f"this host is {known[0]}" if known else "hardware.yaml has no device for it"
        raise WrongDevice(
            f"--device {requested} was asked for, and found {describe_gpus(facts.gpus)}: {here}.\n"
            f"What to do: run on a host with one, or --device {known[0] if known else AUTO}. A verdict is "
            "only ever about the hardware that it was measured on."
        )
    if asked.capability != gpu.capability:
        raise WrongDevice(
            f"--device {requested} is {_sm(asked.capability or '?')}, and {gpu.name} (GPU {gpu.index}), "
            f"which goes by its name, is {gpu.sm}.\n{_how_to_correct(requested)}"
        )
    return asked.id


def named(device: DeviceLike, gpu: GpuFacts) -> bool:
    """Whether the GPU's name is one of the device's.

    A MIG slice has other kernels' shapes than the whole GPU: it matches only a pattern that says MIG.
    """
    return any(
        re.search(pattern, gpu.name, re.IGNORECASE) and (not gpu.mig or "mig" in pattern.lower())
        for pattern in device.match
    )


def describe_gpus(gpus: Sequence[GpuFacts]) -> str:
    """``2 × NVIDIA H200 (sm_90, 139.8 GiB)``, kinds in order."""
    kinds: dict[tuple[str, str, float], int] = {}
    for gpu in gpus:
        key = (gpu.name, gpu.sm, gpu.memory_gib)
        kinds[key] = kinds.get(key, 0) + 1
    return ", ".join(f"{n} × {name} ({sm}, {memory:.1f} GiB)" for (name, sm, memory), n in kinds.items())


def _auto(devices: Mapping[str, DeviceLike], facts: HostFacts) -> str:
    _readable(facts)
    if not facts.gpus:
        cpu = _cpu_id(devices)
        if cpu is None:
            raise WrongDevice(
                f"{_no_gpus(facts)}, and hardware.yaml has no device of kind cpu.\n"
                "What to do: run on a host of one of the devices " + ", ".join(sorted(devices)) + "."
            )
        return cpu
    _one_kind(facts)
    gpu = facts.gpus[0]
    matching = _matching(devices, gpu)
    if len(matching) > 1:
        raise WrongDevice(
            f"{gpu.name} ({gpu.sm}) answers to several devices of hardware.yaml: {', '.join(matching)}.\n"
            "What to do: name one with --device, or narrow their `match`."
        )
    if matching:
        return matching[0]
    namesakes = sorted(d.id for d in devices.values() if d.kind == "cuda" and named(d, gpu))
    if namesakes:
        other = devices[namesakes[0]]
        raise WrongDevice(
            f"{gpu.name} (GPU {gpu.index}) is {gpu.sm} and goes by the name of {other.id}, which is "
            f"{_sm(other.capability or '?')}.\n{_how_to_correct(other.id)}"
        )
    if gpu.mig:
        raise WrongDevice(
            f"found {describe_gpus(facts.gpus)}: a MIG slice is not the whole GPU, and hardware.yaml has no "
            f"device for it.\n{_how_to_add(gpu, devices)}"
        )
    raise WrongDevice(
        f"found {describe_gpus(facts.gpus)}, and hardware.yaml has no device for it.\n"
        f"{_how_to_add(gpu, devices)}"
    )


def _matching(devices: Mapping[str, DeviceLike], gpu: GpuFacts) -> list[str]:
    return sorted(
        d.id
        for d in devices.values()
        if d.kind == "cuda" and d.capability == gpu.capability and named(d, gpu)
    )


def _one_kind(facts: HostFacts) -> None:
    kinds = {(g.name, g.capability) for g in facts.gpus}
    if len(kinds) > 1:
        raise WrongDevice(
            f"this host has GPUs of several kinds: {describe_gpus(facts.gpus)}. A certificate is about one.\n"
            "What to do: leave one kind visible: CUDA_VISIBLE_DEVICES with UUIDs (nvidia-smi -L)."
        )


def _no_gpus(facts: HostFacts) -> str:
    if facts.gpus_present:
        why = f"CUDA_VISIBLE_DEVICES={facts.visible_devices!r} hides its {facts.gpus_present} GPUs"
    elif facts.driver is None:
        why = "no NVIDIA driver"
    else:
        why = f"NVIDIA driver {facts.driver} without a GPU"
    return f"this host is a CPU host ({facts.cpu_model}, {facts.logical_cores} threads, {why})"


def _readable(facts: HostFacts) -> None:
    if facts.gpu_problem:
        raise InfrastructureError(
            f"{facts.gpu_problem}.\n"
            "What to do: mend the driver or use another host; --device cpu certifies the CPU all the same."
        )
    if facts.visible_problem:
        raise WrongDevice(
            f"{facts.visible_problem}.\nWhat to do: correct the variable, or unset it to use every GPU."
        )


def _unknown_id(requested: str, devices: Mapping[str, DeviceLike]) -> str:
    ids = sorted(devices)
    close = difflib.get_close_matches(requested.lower(), ids, n=1, cutoff=0.6)
    hint = f" Did you mean {close[0]}?" if close else ""
    return (
        f"hardware.yaml has no device {requested!r}.{hint}\n"
        f"What to do: one of {AUTO}, {', '.join(ids)}; or add it to hardware.yaml."
    )


def _how_to_add(gpu: GpuFacts, devices: Mapping[str, DeviceLike]) -> str:
    words = [
        w for w in re.findall(r"[a-z0-9.]+", gpu.name.lower()) if w not in ("nvidia", "tesla", "geforce")
    ]
    suggestion = "-".join(words) or "new-device"
    return (
        f"What to do: add it to hardware.yaml, beside {', '.join(sorted(devices))}:\n"
        f'  id {suggestion}, kind cuda, match {re.escape(gpu.name)!r}, capability "{gpu.capability}", '
        f"memory_gib {gpu.memory_gib:.0f}"
    )


def _how_to_correct(device: str) -> str:
    return f"What to do: correct `capability` or `match` of {device} in hardware.yaml, whichever is wrong."


def _cpu_id(devices: Mapping[str, DeviceLike]) -> str | None:
    ids = sorted(d.id for d in devices.values() if d.kind == "cpu")
    return ids[0] if ids else None


def _sm(capability: str) -> str:
    return "sm_" + capability.replace(".", "")
