"""What a host is, as far as a certificate cares. Pure data; ``detect`` fills it in."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class GpuFacts:
    """One NVIDIA GPU (or one MIG slice of it) that this process may use.

    Attributes:
        index: place in NVML's (PCI bus) order, as ``nvidia-smi`` counts. Slices share their GPU's.
        name: the driver's name of it (``NVIDIA H200``, ``NVIDIA H200 MIG 1g.18gb``).
        uuid: ``GPU-...`` or ``MIG-...``; what ``CUDA_VISIBLE_DEVICES`` accepts without ambiguity.
        capability: ``9.0``.
        memory_gib: all of its memory.
        driver: version of the kernel driver.
        mig: a slice, not a whole GPU.
        memory_used_gib: in use when looked at, by whomever.
    """

    index: int
    name: str
    uuid: str
    capability: str
    memory_gib: float
    driver: str
    mig: bool = False
    memory_used_gib: float = 0.0

    @property
    def sm(self) -> str:
        """``sm_90``."""
        return "sm_" + self.capability.replace(".", "")


@dataclass(frozen=True, slots=True)
class HostFacts:
    """One host, as this process may use it (affinity, cgroup limits, visible GPUs).

    Attributes:
        os: ``Debian GNU/Linux 12 (bookworm)``.
        kernel: ``Linux 6.1.0``.
        machine: ``x86_64``.
        python: version of the interpreter that runs the harness.
        cpu_model: as the kernel names it.
        cpu_flags: those of ``detect.CPU_FLAGS`` that the CPU has; they choose vLLM's CPU kernels.
        physical_cores: usable cores, hyper-threads counted once.
        logical_cores: usable hardware threads.
        cpu_quota: cores' worth of time that the cgroup grants; ``None`` without a limit.
        memory_gib: the smaller of the machine's and the cgroup's.
        numa_nodes: online NUMA nodes.
        container: how it was recognised (``docker``, ``podman``, ``kubernetes``), ``None`` outside of one.
        gpus: usable GPUs, in the order in which an engine numbers them.
        gpus_present: GPUs that the driver knows, usable or not.
        visible_devices: ``CUDA_VISIBLE_DEVICES`` as set; ``None`` when unset.
        driver: version of the NVIDIA driver; ``None`` without one.
        cuda_driver: newest CUDA that the driver supports (``13.0``).
        gpu_problem: why the driver of a host that has GPUs does not answer; empty otherwise.
        visible_problem: what is wrong with ``CUDA_VISIBLE_DEVICES``; empty otherwise.
    """

    hostname: str
    os: str
    kernel: str
    machine: str
    python: str
    cpu_model: str
    cpu_flags: tuple[str, ...]
    physical_cores: int
    logical_cores: int
    cpu_quota: float | None
    memory_gib: float
    numa_nodes: int
    container: str | None = None
    gpus: tuple[GpuFacts, ...] = ()
    gpus_present: int = 0
    visible_devices: str | None = None
    driver: str | None = None
    cuda_driver: str | None = None
    gpu_problem: str = ""
    visible_problem: str = ""

    @property
    def usable_cores(self) -> int:
        """Threads of work that make sense at once: physical cores within the cgroup's quota, at least 1."""
        if self.cpu_quota is None:
            return max(1, self.physical_cores)
        return max(1, min(self.physical_cores, int(self.cpu_quota)))
