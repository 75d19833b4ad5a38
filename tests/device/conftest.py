"""Hosts, devices, and a driver that answers as told."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pynvml
import pytest

from bi_harness.device.facts import GpuFacts, HostFacts

GIB = 1 << 30


@dataclass(frozen=True)
class Device:
    """As ``hardware.yaml`` would have it."""

    id: str
    kind: str = "cuda"
    capability: str | None = None
    match: tuple[str, ...] = ()


@pytest.fixture
def devices() -> dict[str, Device]:
    known = [
        Device("a100", capability="8.0", match=("A100",)),
        Device("h100", capability="9.0", match=("H100",)),
        Device("h200", capability="9.0", match=("H200",)),
        Device("b200", capability="10.0", match=("B200",)),
        Device("l4", capability="8.9", match=(r"\bL4\b",)),
        Device("cpu", kind="cpu"),
    ]
    return {d.id: d for d in known}


def make_gpu(name: str = "NVIDIA H200", capability: str = "9.0", index: int = 0, **more: Any) -> GpuFacts:
    values = {"memory_gib": 139.8, "driver": "580.65", "uuid": f"GPU-{index:04d}"} | more
    return GpuFacts(index=index, name=name, capability=capability, **values)


def make_host(*gpus: GpuFacts, **more: Any) -> HostFacts:
    values: dict[str, Any] = {
        "hostname": "host",
        "os": "Linux",
        "kernel": "Linux 6",
        "machine": "x86_64",
        "python": "3.12.0",
        "cpu_model": "AMD EPYC",
        "cpu_flags": ("avx512f",),
        "physical_cores": 8,
        "logical_cores": 16,
        "cpu_quota": None,
        "memory_gib": 64.0,
        "numa_nodes": 1,
        "gpus": gpus,
        "gpus_present": len(gpus),
        "driver": "580.65" if gpus else None,
        "cuda_driver": "13.0" if gpus else None,
    }
    return HostFacts(**(values | more))


@dataclass
class FakeGpu:
    """A GPU of the fake driver; ``slices`` puts it in MIG mode."""

    name: str = "NVIDIA H200"
    uuid: str = "GPU-0000"
    capability: tuple[int, int] = (9, 0)
    memory_gib: int = 140
    used_gib: float = 0.5
    slices: list[FakeGpu] | None = None
    processes: list[SimpleNamespace] = field(default_factory=list)


@pytest.fixture
def nvml(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """``nvml(gpu, ...)`` gives NVML these GPUs; ``nvml(error=code)`` makes it fail in ``nvmlInit``."""

    def install(*gpus: FakeGpu, error: int | None = None) -> None:
        def init() -> None:
            if error is not None:
                raise pynvml.NVMLError(error)

        def slice_at(gpu: FakeGpu, place: int) -> FakeGpu:
            if gpu.slices is None or place >= len(gpu.slices):
                raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_FOUND)
            return gpu.slices[place]

        def mig_mode(gpu: FakeGpu) -> tuple[int, int]:
            if gpu.slices is None and gpu.capability < (8, 0):
                raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)
            return (0, 0) if gpu.slices is None else (1, 1)

        fakes: dict[str, Callable[..., Any]] = {
            "nvmlInit": init,
            "nvmlShutdown": lambda: None,
            "nvmlSystemGetDriverVersion": lambda: "580.65",
            "nvmlSystemGetCudaDriverVersion_v2": lambda: 13000,
            "nvmlDeviceGetCount": lambda: len(gpus),
            "nvmlDeviceGetHandleByIndex": lambda index: gpus[index],
            "nvmlDeviceGetHandleByUUID": lambda uuid: next(g for g in gpus if g.uuid == uuid),
            "nvmlDeviceGetName": lambda gpu: gpu.name,
            "nvmlDeviceGetUUID": lambda gpu: gpu.uuid.encode(),
            "nvmlDeviceGetCudaComputeCapability": lambda gpu: gpu.capability,
            "nvmlDeviceGetMemoryInfo": lambda gpu: SimpleNamespace(
                total=gpu.memory_gib * GIB, used=int(gpu.used_gib * GIB)
            ),
            "nvmlDeviceGetMigMode": mig_mode,
            "nvmlDeviceGetMaxMigDeviceCount": lambda gpu: 7,
            "nvmlDeviceGetMigDeviceHandleByIndex": slice_at,
            "nvmlDeviceGetComputeRunningProcesses": lambda gpu: gpu.processes,
        }
        for name, fake in fakes.items():
            monkeypatch.setattr(pynvml, name, fake)

    return install
