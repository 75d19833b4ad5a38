"""Finds out what this host is. All of the package's input is here; nothing here imports torch or vLLM."""

from __future__ import annotations

import os
import platform
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pynvml

from bi_harness.device.facts import GpuFacts, HostFacts

CPU_FLAGS = (
    "avx2",
    "avx512f",
    "avx512_bf16",
    "avx512_vnni",
    "avx512_fp16",
    "amx_tile",
    "amx_bf16",
    "amx_int8",
    "asimd",
    "bf16",
    "i8mm",
    "sve",
)
"""CPU features that choose between vLLM's and oneDNN's CPU kernels."""

_GIB = float(1 << 30)
_NVIDIA_PCI_VENDOR = "0x10de"
_ABSENT = (pynvml.NVML_ERROR_LIBRARY_NOT_FOUND, pynvml.NVML_ERROR_DRIVER_NOT_LOADED)
"""What NVML says on a host that has no NVIDIA driver, which is a fine host to have."""


@dataclass(frozen=True, slots=True)
class _Gpus:
    """What NVML told."""

    usable: tuple[GpuFacts, ...] = ()
    present: int = 0
    driver: str | None = None
    cuda_driver: str | None = None
    problem: str = ""
    visible_problem: str = ""


@dataclass(frozen=True, slots=True)
class GpuUser:
    """A process that holds memory of a GPU.

    ``memory_gib`` is ``None`` where the driver does not tell (inside a container, for others' processes).
    """

    gpu: str
    pid: int
    name: str
    memory_gib: float | None


def detect(env: Mapping[str, str] | None = None, *, root: Path = Path("/")) -> HostFacts:
    """Look at this host.

    Args:
        env: the environment to honour (``CUDA_VISIBLE_DEVICES``); the process's own by default.
        root: where ``proc`` and ``sys`` are.

    Returns:
        The facts. A host without an NVIDIA driver is no error; one whose driver is broken has
        ``gpu_problem`` set.
    """
    env = os.environ if env is None else env
    model, flags = _cpu(root)
    logical = _affinity()
    gpus = detect_gpus(env, root=root)
    return HostFacts(
        hostname=socket.gethostname(),
        os=_os_name(root),
        kernel=f"{platform.system()} {platform.release()}",
        machine=platform.machine(),
        python=platform.python_version(),
        cpu_model=model,
        cpu_flags=flags,
        physical_cores=_physical_cores(root, logical),
        logical_cores=len(logical),
        cpu_quota=_cpu_quota(root),
        memory_gib=round(_memory_limit(root) / _GIB, 2),
        numa_nodes=_numa_nodes(root),
        container=_container(env, root),
        gpus=gpus.usable,
        gpus_present=gpus.present,
        visible_devices=env.get("CUDA_VISIBLE_DEVICES"),
        driver=gpus.driver,
        cuda_driver=gpus.cuda_driver,
        gpu_problem=gpus.problem,
        visible_problem=gpus.visible_problem,
    )


def detect_gpus(env: Mapping[str, str], *, root: Path = Path("/")) -> _Gpus:
    """Ask the driver for its GPUs, and keep those that ``CUDA_VISIBLE_DEVICES`` leaves."""
    driver = cuda = None
    try:
        with _nvml():
            driver = _text(pynvml.nvmlSystemGetDriverVersion())
            version = int(pynvml.nvmlSystemGetCudaDriverVersion_v2())
            cuda = f"{version // 1000}.{version % 1000 // 10}"
            whole: list[GpuFacts] = []
            slices: dict[str, list[GpuFacts]] = {}
            for index in range(int(pynvml.nvmlDeviceGetCount())):
                handle = pynvml.nvmlDeviceGetHandleByIndex(index)
                gpu = _gpu(handle, index, driver, capability=_capability(handle), mig=False)
                whole.append(gpu)
                slices[gpu.uuid] = _mig_slices(handle, gpu, driver)
    except pynvml.NVMLError as error:
        if error.value in _ABSENT and (error.value == _ABSENT[0] or not _pci_gpus(root)):
            return _Gpus()
        return _Gpus(
            present=_pci_gpus(root),
            driver=driver,
            cuda_driver=cuda,
            problem=f"the NVIDIA driver does not answer: {error}. See what `nvidia-smi` says on this host",
        )
    units: list[GpuFacts] = []
    for gpu in whole:
        units += slices[gpu.uuid] or [gpu]
    usable, problem = visible_gpus(
        units, env.get("CUDA_VISIBLE_DEVICES"), pci_order=env.get("CUDA_DEVICE_ORDER") == "PCI_BUS_ID"
    )
    return _Gpus(
        usable=tuple(usable), present=len(whole), driver=driver, cuda_driver=cuda, visible_problem=problem
    )


def visible_gpus(
    gpus: Sequence[GpuFacts], visible: str | None, *, pci_order: bool
) -> tuple[list[GpuFacts], str]:
    """What CUDA makes of ``CUDA_VISIBLE_DEVICES``: entries in their order, up to the first invalid one.

    Args:
        gpus: in NVML's order.
        visible: the variable; ``None`` when unset.
        pci_order: ``CUDA_DEVICE_ORDER=PCI_BUS_ID`` is set. Without it CUDA counts the fastest first, so
            that a number means something else than in NVML as soon as the GPUs differ.

    Returns:
        The usable GPUs, and what is wrong with the variable (empty when nothing is).
    """
    if visible is None:
        return list(gpus), ""
    chosen: list[GpuFacts] = []
    for entry in (e.strip() for e in visible.split(",")):
        if entry in ("", "-1", "NoDevFiles", "none", "void"):
            break
        if entry.isdigit():
            if not pci_order and len({(g.name, g.capability) for g in gpus}) > 1:
                return [], (
                    f"CUDA_VISIBLE_DEVICES={visible} counts GPUs, and this host has several kinds: which one "
                    "is meant depends on CUDA_DEVICE_ORDER. Set CUDA_DEVICE_ORDER=PCI_BUS_ID, or give UUIDs "
                    "(nvidia-smi -L)"
                )
            # A slice cannot be counted, only named by its UUID; CUDA takes the first one of the GPU.
            found = [g for g in gpus if g.index == int(entry)][:1]
        else:
            found = [g for g in gpus if g.uuid.startswith(entry)]
        if len(found) != 1:
            what = "no GPU" if not found else f"{len(found)} GPUs"
            return chosen, f"CUDA_VISIBLE_DEVICES={visible}: {entry!r} names {what} of this host"
        if found[0] in chosen:
            return [], f"CUDA_VISIBLE_DEVICES={visible} names {entry!r} twice: CUDA then shows no GPU at all"
        chosen += found
    return chosen, ""


def gpu_users(gpus: Sequence[GpuFacts]) -> list[GpuUser]:
    """The processes that hold memory of these GPUs now, this one left out; empty where NVML does not tell."""
    users: list[GpuUser] = []
    try:
        with _nvml():
            for gpu in gpus:
                handle = pynvml.nvmlDeviceGetHandleByUUID(gpu.uuid)
                for process in pynvml.nvmlDeviceGetComputeRunningProcesses(handle):
                    if process.pid == os.getpid():
                        continue
                    used = process.usedGpuMemory
                    users.append(
                        GpuUser(
                            gpu=gpu.uuid,
                            pid=int(process.pid),
                            name=_process_name(int(process.pid)),
                            memory_gib=None if used is None else round(used / _GIB, 2),
                        )
                    )
    except pynvml.NVMLError:
        return users
    return users


# --- NVML ---------------------------------------------------------------------------------------------


@contextmanager
def _nvml() -> Iterator[None]:
    pynvml.nvmlInit()
    try:
        yield
    finally:
        pynvml.nvmlShutdown()


def _gpu(handle: Any, index: int, driver: str, *, capability: str, mig: bool) -> GpuFacts:
    memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
    return GpuFacts(
        index=index,
        name=_text(pynvml.nvmlDeviceGetName(handle)),
        uuid=_text(pynvml.nvmlDeviceGetUUID(handle)),
        capability=capability,
        memory_gib=round(memory.total / _GIB, 2),
        driver=driver,
        mig=mig,
        memory_used_gib=round(memory.used / _GIB, 2),
    )


def _capability(handle: Any) -> str:
    major, minor = pynvml.nvmlDeviceGetCudaComputeCapability(handle)
    return f"{major}.{minor}"


def _mig_slices(handle: Any, gpu: GpuFacts, driver: str) -> list[GpuFacts]:
    """The slices of a GPU in MIG mode; empty for a whole one."""
    try:
        mode, _ = pynvml.nvmlDeviceGetMigMode(handle)
        if mode != pynvml.NVML_DEVICE_MIG_ENABLE:
            return []
        count = int(pynvml.nvmlDeviceGetMaxMigDeviceCount(handle))
    except pynvml.NVMLError:
        return []  # a GPU without MIG
    found: list[GpuFacts] = []
    for place in range(count):
        try:
            part = pynvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, place)
        except pynvml.NVMLError:
            continue  # not made
        found.append(_gpu(part, gpu.index, driver, capability=gpu.capability, mig=True))
    return found


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value


def _pci_gpus(root: Path) -> int:
    """NVIDIA display controllers on the PCI bus, driver or not."""
    count = 0
    for device in sorted((root / "sys/bus/pci/devices").glob("*")):
        if _read(device / "vendor") == _NVIDIA_PCI_VENDOR and _read(device / "class").startswith("0x03"):
            count += 1
    return count


def _process_name(pid: int) -> str:
    try:
        return str(psutil.Process(pid).name())
    except psutil.Error:
        return "?"


# --- CPU, memory, container -----------------------------------------------------------------------------


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return ""


def _os_name(root: Path) -> str:
    for line in _read(root / "etc/os-release").splitlines():
        if line.startswith("PRETTY_NAME="):
            return line.partition("=")[2].strip('"')
    return platform.system()


def _cpu(root: Path) -> tuple[str, tuple[str, ...]]:
    model, flags = "", set[str]()
    for line in _read(root / "proc/cpuinfo").splitlines():
        key, _, value = line.partition(":")
        key = key.strip().lower()
        if key == "model name" and not model:
            model = value.strip()
        elif key in ("flags", "features") and not flags:
            flags = set(value.split())
    return model or platform.processor() or platform.machine(), tuple(f for f in CPU_FLAGS if f in flags)


def _affinity() -> frozenset[int]:
    if hasattr(os, "sched_getaffinity"):
        return frozenset(os.sched_getaffinity(0))
    return frozenset(range(os.cpu_count() or 1))


def _physical_cores(root: Path, logical: frozenset[int]) -> int:
    """Cores behind the usable threads, siblings counted once."""
    cores = set[str]()
    for cpu in logical:
        topology = root / f"sys/devices/system/cpu/cpu{cpu}/topology"
        siblings = _read(topology / "thread_siblings_list")
        if not siblings:
            return len(logical)
        cores.add(siblings)
    return len(cores)


def _cgroup_dirs(root: Path, controller: str) -> Iterator[Path]:
    """The folders of this process's cgroup and of its parents, v2 or v1, innermost first."""
    base = root / "sys/fs/cgroup"
    for line in _read(root / "proc/self/cgroup").splitlines():
        number, _, rest = line.partition(":")
        names, _, path = rest.partition(":")
        if number == "0" and not names:
            mount = base
        elif controller in names.split(","):
            mount = base / controller
        else:
            continue
        folder = mount / path.lstrip("/")
        while True:
            yield folder
            if folder == mount or mount not in folder.parents:
                break
            folder = folder.parent


def _memory_limit(root: Path) -> int:
    limit = int(psutil.virtual_memory().total)
    for folder in _cgroup_dirs(root, "memory"):
        for name in ("memory.max", "memory.limit_in_bytes"):
            value = _read(folder / name)
            if value.isdigit():
                limit = min(limit, int(value))
    return limit


def _cpu_quota(root: Path) -> float | None:
    quota: float | None = None
    for folder in _cgroup_dirs(root, "cpu"):
        granted, _, period = _read(folder / "cpu.max").partition(" ")
        if not granted:
            granted, period = _read(folder / "cpu.cfs_quota_us"), _read(folder / "cpu.cfs_period_us")
        if granted.isdigit() and period.isdigit() and int(period) > 0:
            cores = int(granted) / int(period)
            quota = cores if quota is None else min(quota, cores)
    return None if quota is None else round(quota, 2)


def _numa_nodes(root: Path) -> int:
    nodes = [p for p in (root / "sys/devices/system/node").glob("node*") if p.name[4:].isdigit()]
    return len(nodes) or 1


def _container(env: Mapping[str, str], root: Path) -> str | None:
    if "KUBERNETES_SERVICE_HOST" in env:
        return "kubernetes"
    if (root / ".dockerenv").exists():
        return "docker"
    if (root / "run/.containerenv").exists():
        return "podman"
    return env.get("container") or None
