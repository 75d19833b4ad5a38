"""What the host is: a fake driver, a fake /proc and /sys, and once the real host."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from types import SimpleNamespace

import psutil
import pynvml
import pytest

from bi_harness.device import detect as module
from bi_harness.device.detect import detect, detect_gpus, gpu_users, visible_gpus

from .conftest import FakeGpu, make_gpu


def write(root: Path, path: str, text: str) -> None:
    file = root / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


def pci_gpu(root: Path) -> None:
    write(root, "sys/bus/pci/devices/0000:01:00.0/vendor", "0x10de\n")
    write(root, "sys/bus/pci/devices/0000:01:00.0/class", "0x030200\n")


def test_this_host() -> None:
    host = detect({})
    assert host.python == platform.python_version()
    assert 1 <= host.usable_cores <= host.logical_cores <= (os.cpu_count() or 1)
    assert 0 < host.memory_gib <= psutil.virtual_memory().total / 2**30 + 0.01
    assert host.cpu_model
    assert host.os


# --- the driver


@pytest.mark.parametrize("error", [pynvml.NVML_ERROR_LIBRARY_NOT_FOUND, pynvml.NVML_ERROR_DRIVER_NOT_LOADED])
def test_no_driver_is_no_error(nvml, tmp_path: Path, error: int) -> None:
    nvml(error=error)
    found = detect_gpus({}, root=tmp_path)
    assert (found.usable, found.problem, found.driver) == ((), "", None)


def test_gpus_without_library_are_a_container_that_was_not_given_them(nvml, tmp_path: Path) -> None:
    pci_gpu(tmp_path)
    nvml(error=pynvml.NVML_ERROR_LIBRARY_NOT_FOUND)
    assert detect_gpus({}, root=tmp_path).problem == ""


def test_gpus_with_an_unloaded_driver_are_a_problem(nvml, tmp_path: Path) -> None:
    pci_gpu(tmp_path)
    nvml(error=pynvml.NVML_ERROR_DRIVER_NOT_LOADED)
    found = detect_gpus({}, root=tmp_path)
    assert "Driver Not Loaded" in found.problem
    assert found.present == 1


def test_broken_driver_is_reported(nvml, tmp_path: Path) -> None:
    nvml(error=pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH)
    problem = detect_gpus({}, root=tmp_path).problem
    assert "does not answer" in problem
    assert "nvidia-smi" in problem


def test_gpus_are_read(nvml) -> None:
    nvml(FakeGpu(), FakeGpu(uuid="GPU-0001", used_gib=70))
    found = detect_gpus({})
    assert (found.present, found.driver, found.cuda_driver) == (2, "580.65", "13.0")
    first, second = found.usable
    assert (first.index, first.name, first.uuid, first.sm) == (0, "NVIDIA H200", "GPU-0000", "sm_90")
    assert (first.memory_gib, first.mig) == (140.0, False)
    assert second.memory_used_gib == 70.0


def test_a_gpu_without_mig(nvml) -> None:
    nvml(FakeGpu("Tesla T4", capability=(7, 5)))
    (gpu,) = detect_gpus({}).usable
    assert not gpu.mig


def test_slices_stand_for_their_gpu(nvml) -> None:
    parts = [FakeGpu(f"NVIDIA H200 MIG {n}g", f"MIG-{n}", memory_gib=16) for n in (1, 2)]
    nvml(FakeGpu(slices=parts), FakeGpu(uuid="GPU-0001"))
    found = detect_gpus({})
    assert [(g.uuid, g.mig, g.index) for g in found.usable] == [
        ("MIG-1", True, 0),
        ("MIG-2", True, 0),
        ("GPU-0001", False, 1),
    ]
    assert {g.capability for g in found.usable} == {"9.0"}
    assert [g.uuid for g in detect_gpus({"CUDA_VISIBLE_DEVICES": "MIG-2"}).usable] == ["MIG-2"]


def test_processes_on_the_gpus(nvml) -> None:
    mine = SimpleNamespace(pid=os.getpid(), usedGpuMemory=1 << 30)
    known = SimpleNamespace(pid=os.getppid(), usedGpuMemory=3 << 30)
    unknown = SimpleNamespace(pid=2**22 + 1, usedGpuMemory=None)
    nvml(FakeGpu(processes=[mine, known, unknown]))
    users = gpu_users(detect_gpus({}).usable)
    assert [(u.pid, u.memory_gib) for u in users] == [(known.pid, 3.0), (unknown.pid, None)]
    assert users[0].name == psutil.Process(known.pid).name()
    assert users[1].name == "?"


def test_processes_without_a_driver(nvml) -> None:
    nvml(error=pynvml.NVML_ERROR_LIBRARY_NOT_FOUND)
    assert gpu_users([make_gpu()]) == []


# --- CUDA_VISIBLE_DEVICES

SAME = [make_gpu(index=i) for i in range(4)]
MIXED = [make_gpu(index=0), make_gpu("NVIDIA L4", "8.9", 1)]


@pytest.mark.parametrize(
    ("visible", "indices"),
    [
        (None, [0, 1, 2, 3]),
        ("", []),
        ("-1", []),
        ("NoDevFiles", []),
        ("0", [0]),
        ("3,1", [3, 1]),
        (" 2 , 0 ", [2, 0]),
        ("1,-1,2", [1]),
        ("GPU-0002", [2]),
        ("GPU-0003,GPU-0000", [3, 0]),
    ],
)
def test_visible_devices(visible: str | None, indices: list[int]) -> None:
    chosen, problem = visible_gpus(SAME, visible, pci_order=False)
    assert [g.index for g in chosen] == indices
    assert problem == ""


@pytest.mark.parametrize(
    ("visible", "told"),
    [
        ("0,7", "'7' names no GPU"),
        ("GPU-ffff", "names no GPU"),
        ("GPU-000", "names 4 GPUs"),
        ("1,1", "names '1' twice"),
    ],
)
def test_unreadable_visible_devices(visible: str, told: str) -> None:
    assert told in visible_gpus(SAME, visible, pci_order=False)[1]


def test_numbers_are_ambiguous_among_kinds() -> None:
    chosen, problem = visible_gpus(MIXED, "0", pci_order=False)
    assert chosen == []
    assert "CUDA_DEVICE_ORDER=PCI_BUS_ID" in problem
    assert [g.index for g in visible_gpus(MIXED, "1", pci_order=True)[0]] == [1]
    assert [g.index for g in visible_gpus(MIXED, "GPU-0001", pci_order=False)[0]] == [1]


# --- cgroups, CPU, container


def test_cgroup_v2_limits_count(tmp_path: Path) -> None:
    write(tmp_path, "proc/self/cgroup", "0::/a/b\n")
    write(tmp_path, "sys/fs/cgroup/a/memory.max", str(2 << 30))
    write(tmp_path, "sys/fs/cgroup/a/b/memory.max", "max\n")
    write(tmp_path, "sys/fs/cgroup/a/b/cpu.max", "max 100000\n")
    write(tmp_path, "sys/fs/cgroup/a/cpu.max", "150000 100000\n")
    host = detect({}, root=tmp_path)
    assert host.memory_gib == 2.0
    assert host.cpu_quota == 1.5
    assert host.usable_cores == 1


def test_cgroup_v1_limits_count(tmp_path: Path) -> None:
    write(tmp_path, "proc/self/cgroup", "4:memory:/job\n2:cpu,cpuacct:/job\n0::/\n")
    write(tmp_path, "sys/fs/cgroup/memory/job/memory.limit_in_bytes", str(1 << 30))
    write(tmp_path, "sys/fs/cgroup/cpu/job/cpu.cfs_quota_us", "400000")
    write(tmp_path, "sys/fs/cgroup/cpu/job/cpu.cfs_period_us", "100000")
    host = detect({}, root=tmp_path)
    assert host.memory_gib == 1.0
    assert host.cpu_quota == 4.0


def test_no_limits(tmp_path: Path) -> None:
    write(tmp_path, "proc/self/cgroup", "4:memory:/\n0::/\n")
    write(tmp_path, "sys/fs/cgroup/memory/memory.limit_in_bytes", str(2**63 - 4096))
    write(tmp_path, "sys/fs/cgroup/cpu/cpu.cfs_quota_us", "-1")
    host = detect({}, root=tmp_path)
    assert host.memory_gib == pytest.approx(psutil.virtual_memory().total / 2**30, abs=0.01)
    assert host.cpu_quota is None


def test_cpu_is_read(tmp_path: Path) -> None:
    cpu = "model name\t: AMD EPYC 9575F\nflags\t\t: fpu avx2 avx512f avx512_bf16 amx_bf16\n"
    write(tmp_path, "proc/cpuinfo", cpu + "model name : other\nflags : none\n")
    write(tmp_path, "etc/os-release", 'NAME="x"\nPRETTY_NAME="Debian GNU/Linux 12"\n')
    for node in ("node0", "node1"):
        write(tmp_path, f"sys/devices/system/node/{node}/cpulist", "0")
    host = detect({}, root=tmp_path)
    assert host.cpu_model == "AMD EPYC 9575F"
    assert host.cpu_flags == ("avx2", "avx512f", "avx512_bf16", "amx_bf16")
    assert (host.os, host.numa_nodes) == ("Debian GNU/Linux 12", 2)


def test_siblings_are_one_core(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_affinity", lambda: frozenset({0, 1, 2, 3}))
    for cpu, siblings in enumerate(("0,2", "1,3", "0,2", "1,3")):
        write(tmp_path, f"sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list", siblings)
    host = detect({}, root=tmp_path)
    assert (host.physical_cores, host.logical_cores) == (2, 4)


@pytest.mark.parametrize(
    ("env", "file", "container"),
    [
        ({"KUBERNETES_SERVICE_HOST": "10.0.0.1"}, ".dockerenv", "kubernetes"),
        ({}, ".dockerenv", "docker"),
        ({}, "run/.containerenv", "podman"),
        ({"container": "lxc"}, "x", "lxc"),
        ({}, "x", None),
    ],
)
def test_container(tmp_path: Path, env: dict[str, str], file: str, container: str | None) -> None:
    write(tmp_path, file, "")
    assert detect(env, root=tmp_path).container == container
