"""What stops this host from certifying, check by check, and what to do about it.

``examine`` looks; each ``check_*`` decides on what was seen, without I/O of its own where that can be helped.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from bi_harness.device.detect import GpuUser, detect, gpu_users
from bi_harness.device.engine_probe import EngineFacts, probe_engine
from bi_harness.device.facts import HostFacts
from bi_harness.device.match import DeviceLike, describe_gpus, match_device
from bi_harness.errors import HarnessError, UsageError
from bi_harness.spec.releases import ReleasesFile, ReleaseStanding, TriedRun, release_standing

Level = Literal["ok", "warn", "blocks"]

_GIB = float(1 << 30)
_STEERING = (
    "VLLM_",
    "TORCHINDUCTOR_",
    "TORCH_",
    "PYTORCH_",
    "NCCL_",
    "CUBLAS_",
    "CUDA_",
    "OMP_",
    "MKL_",
    "KMP_",
)
"""Prefixes of variables that change which kernels run, or how."""
_SECRET = ("KEY", "TOKEN", "SECRET", "PASSWORD")


@dataclass(frozen=True, slots=True)
class Finding:
    """One check's outcome.

    Attributes:
        check: its name.
        level: ``ok``; ``warn``, certifying works but read this; ``blocks``, certifying does not work.
        found: what is so, one line.
        todo: what to do; empty for ``ok``.
    """

    check: str
    level: Level
    found: str
    todo: str = ""


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """All of it.

    Attributes:
        requested: ``--device`` as given.
        device: the device that the host is; ``None`` where that could not be told.
        host: the facts.
        engine: what engine there is; ``None`` where the interpreter did not answer.
        findings: in a fixed order.
        tried: the runs on record for this device: which vLLM releases bi-harness was tried with.
    """

    requested: str
    device: str | None
    host: HostFacts
    engine: EngineFacts | None
    findings: tuple[Finding, ...]
    tried: tuple[TriedRun, ...] = ()

    @property
    def can_certify(self) -> bool:
        """Whether nothing blocks."""
        return all(f.level != "blocks" for f in self.findings)

    def as_json(self) -> dict[str, Any]:
        """For ``--json``."""
        return {
            "requested": self.requested,
            "device": self.device,
            "can_certify": self.can_certify,
            "checks": [asdict(f) for f in self.findings],
            "host": asdict(self.host),
            "engine": asdict(self.engine) if self.engine is not None else None,
            "releases": [run.model_dump(mode="json") for run in self.tried],
        }


def examine(
    requested: str,
    load_devices: Callable[[], Mapping[str, DeviceLike]],
    *,
    out: Path,
    engine_python: str | None = None,
    env: Mapping[str, str] | None = None,
    load_tried: Callable[[], ReleasesFile] | None = None,
) -> Diagnosis:
    """Look at this host and say what stops it from certifying.

    Args:
        requested: ``--device``.
        load_devices: reads and validates every YAML file and gives ``hardware.yaml``'s devices; its
            ``HarnessError`` is reported as a finding.
        out: where reports would go.
        engine_python: the interpreter that has the engine; this one by default.
        env: the environment; the process's own by default.
        load_tried: reads ``releases.yaml``; its ``HarnessError`` is reported as a finding. Without it there
            is no finding on the release.
    """
    env = os.environ if env is None else env
    host = detect(env)
    findings: list[Finding] = [check_python(sys.version_info[:3])]

    devices: Mapping[str, DeviceLike] | None = None
    try:
        devices = load_devices()
        findings.append(Finding("yaml", "ok", "models.yaml, hardware.yaml and the suites are valid"))
    except HarnessError as error:
        findings.append(_from_error("yaml", error))

    device, kind = None, None
    findings.append(check_driver(host))
    if devices is not None:
        try:
            device = match_device(requested, devices, host)
            kind = devices[device].kind
            findings.append(Finding("device", "ok", f"{device}: {_what(host, kind)}"))
        except HarnessError as error:
            findings.append(_from_error("device", error))

    engine: EngineFacts | None = None
    try:
        engine = probe_engine(engine_python)
    except UsageError as error:
        findings.append(_from_error("engine", error, "give --engine-python the path of a Python with vLLM"))
    if engine is not None:
        findings += check_engine(engine, kind)
        findings.append(check_compiler(engine, _compiler(env)))
    tried: tuple[TriedRun, ...] = ()
    try:
        if load_tried is not None and device is not None:
            runs = load_tried().runs
            tried = tuple(run for run in runs if run.device == device)
            if engine is not None and engine.vllm_version is not None:
                findings.append(check_release(release_standing(engine.vllm_version, device, runs)))
    except HarnessError as error:
        # It blocks nothing: the file informs, and no check reads it.
        findings.append(replace(_from_error("release", error), level="warn"))

    if kind == "cuda":
        findings.append(check_gpu_memory(host, gpu_users(host.gpus)))
    findings.append(check_memory(host))
    findings.append(check_shm(_size("/dev/shm")))
    findings.append(check_writable(out))
    findings += check_disk({"reports": _free(out), "caches": _free(_cache_root(env))})
    findings.append(check_environment(env))
    findings.append(check_git(out))
    return Diagnosis(requested, device, host, engine, tuple(findings), tried)


# --- the checks -----------------------------------------------------------------------------------------


def check_python(version: Sequence[int]) -> Finding:
    """The harness's own interpreter."""
    found = "Python " + ".".join(map(str, version))
    if tuple(version) < (3, 11):
        return Finding("python", "blocks", found, "use Python 3.11 or later")
    return Finding("python", "ok", found)


def check_driver(host: HostFacts) -> Finding:
    """The NVIDIA driver: absent is fine, broken is not."""
    if host.gpu_problem:
        return Finding("driver", "warn", host.gpu_problem, "mend the driver, or certify with --device cpu")
    if host.driver is None:
        return Finding("driver", "ok", "no NVIDIA driver: a CPU host")
    found = f"NVIDIA driver {host.driver}, up to CUDA {host.cuda_driver}, {host.gpus_present} GPUs"
    if host.visible_problem:
        return Finding("driver", "warn", f"{found}; {host.visible_problem}", "correct CUDA_VISIBLE_DEVICES")
    if len(host.gpus) < host.gpus_present:
        found += f", {len(host.gpus)} visible (CUDA_VISIBLE_DEVICES={host.visible_devices})"
    return Finding("driver", "ok", found)


def check_engine(engine: EngineFacts, kind: str | None) -> list[Finding]:
    """Whether the engine is there, fits the device, and has nothing beside it that breaks its import.

    Args:
        kind: the device's, ``cpu`` or ``cuda``; ``None`` where it is not known.
    """
    install = {
        "cpu": "make setup, or pip install --no-deps -r requirements/cpu.lock",
        "cuda": "pip install 'bi-harness[cuda]', or --engine-python PATH of a Python that has vLLM",
        None: "install vLLM, or give --engine-python PATH of a Python that has it",
    }[kind]
    if not engine.distributions:
        return [Finding("engine", "blocks", f"no vLLM in {engine.executable}", install)]
    described = ", ".join(f"{name} {engine.versions[name]}" for name in engine.distributions)
    found = f"{described} (Python {engine.python}, {engine.executable})"
    if len(engine.distributions) > 1:
        todo = "both bring the package vllm, each with the other's files: make the environment anew"
        return [Finding("engine", "blocks", found, todo)]
    if kind is not None and engine.kind != kind:
        return [
            Finding("engine", "blocks", f"{found} is built for {engine.kind}, the device is {kind}", install)
        ]
    return [Finding("engine", "ok", found), _check_torch(engine, install), *_check_companions(engine)]


def _check_torch(engine: EngineFacts, install: str) -> Finding:
    if "torch" not in engine.versions:
        return Finding("torch", "blocks", "no torch beside vLLM", install)
    cuda = engine.cuda.get("torch")
    found = f"torch {engine.versions['torch']} ({f'CUDA {cuda}' if cuda else 'CPU'} build)"
    if (engine.kind == "cuda") != (cuda is not None):
        return Finding("torch", "blocks", f"{found} beside a {engine.kind} build of vLLM", install)
    return Finding("torch", "ok", found)


def _check_companions(engine: EngineFacts) -> list[Finding]:
    """torchvision of another build than torch's breaks ``import vllm``; its kin may."""
    if engine.kind != "cpu":
        return []
    extra = [n for n in ("torchvision", "torchaudio", "torchcodec") if n in engine.versions]
    if not extra:
        return [
            Finding(
                "torchvision", "ok", "no torchvision, torchaudio, torchcodec: nothing to clash with CPU torch"
            )
        ]
    found = ", ".join(f"{n} {engine.versions[n]}" for n in extra)
    todo = f"{engine.executable} -m pip uninstall -y {' '.join(extra)}"
    if engine.cuda.get("torchvision") is not None:
        found += ": a CUDA build, which breaks `import vllm` (operator torchvision::nms does not exist)"
        return [Finding("torchvision", "blocks", found, todo)]
    return [Finding("torchvision", "warn", f"{found}: vLLM needs none of them, and builds may clash", todo)]


def check_compiler(engine: EngineFacts, compiler: str | None) -> Finding:
    """What ``torch.compile`` needs to build its kernels."""
    missing = []
    if compiler is None:
        missing.append("no C++ compiler (g++ or clang++)")
    if not engine.python_h:
        missing.append(f"no Python.h in {engine.include}")
    if missing:
        todo = "Debian: apt-get install g++ python3-dev. Without them compile-mode cells end in error"
        return Finding("compiler", "warn", ", ".join(missing), todo)
    return Finding("compiler", "ok", f"{compiler}, Python.h")


def check_release(standing: ReleaseStanding) -> Finding:
    """Whether bi-harness was tried with this vLLM release on this device, and with which result."""
    if standing.standing == "tried":
        verdicts = Counter(run.verdict.replace("_", " ") for run in standing.runs)
        results = ", ".join(f"{count} {verdict}" for verdict, count in sorted(verdicts.items()))
        last = max(run.date for run in standing.runs)
        runs = "1 run" if len(standing.runs) == 1 else f"{len(standing.runs)} runs"
        found = f"vLLM {standing.vllm} was tried on {standing.device}: {runs}, the last on {last}: {results}"
        return Finding("release", "ok", found)
    todo = "certifying works as usual; `bi-harness releases` lists what was tried"
    if standing.warning is not None:
        return Finding("release", "warn", standing.warning, todo)
    found = f"vLLM {standing.vllm} was not tried on {standing.device} with this version of bi-harness"
    return Finding("release", "warn", found, todo)


def check_gpu_memory(host: HostFacts, users: Sequence[GpuUser]) -> Finding:
    """Whether the GPUs are ours: others' work takes memory, and changes how long things take."""
    busy = [g for g in host.gpus if g.memory_used_gib > max(2.0, 0.02 * g.memory_gib)]
    if not busy and not users:
        return Finding("gpu memory", "ok", "nobody else holds memory of the GPUs")
    used = ", ".join(f"GPU {g.index}: {g.memory_used_gib:.1f} of {g.memory_gib:.1f} GiB used" for g in busy)
    who = ", ".join(f"{u.name} (pid {u.pid})" for u in users[:5]) + (", ..." if len(users) > 5 else "")
    found = "; ".join(text for text in (used, who and f"held by {who}") if text)
    return Finding("gpu memory", "warn", found, "wait for it, or choose free GPUs with CUDA_VISIBLE_DEVICES")


def check_memory(host: HostFacts) -> Finding:
    """Main memory: a CPU engine keeps its weights and its KV cache in it."""
    found = f"{host.memory_gib:.1f} GiB for this process, {host.usable_cores} cores"
    if host.memory_gib < 3:
        return Finding("memory", "blocks", found, "an engine alone takes about 3 GiB: raise the limit")
    if host.memory_gib < 8:
        return Finding("memory", "warn", found, "enough for one small engine: keep --jobs at 1")
    return Finding("memory", "ok", found)


def check_shm(size: float | None) -> Finding:
    """/dev/shm, by which the processes of a TP or DP engine talk."""
    if size is None:
        return Finding("shared memory", "warn", "no /dev/shm", "cells with TP or DP may fail")
    found = f"/dev/shm has {size / _GIB:.2f} GiB"
    if size < _GIB:
        return Finding(
            "shared memory", "warn", found, "cells with TP or DP may fail: docker run --shm-size=8g"
        )
    return Finding("shared memory", "ok", found)


def check_writable(out: Path) -> Finding:
    """Whether reports can be written; leaves nothing behind."""
    folder = _existing(out)
    try:
        with tempfile.TemporaryFile(dir=folder):
            return Finding("reports", "ok", f"{out} can be written")
    except OSError as error:
        why = f"{out} cannot be written: {error.strerror or error}"
        return Finding("reports", "blocks", why, "give --out a folder that can")


def check_disk(free: Mapping[str, float | None]) -> list[Finding]:
    """Room for reports (small) and caches (checkpoints made on the spot, compiled graphs)."""
    findings = []
    for what, size in free.items():
        name = f"disk: {what}"
        if size is None:
            findings.append(Finding(name, "warn", "free space unknown", "see that it has a few GiB"))
        elif size < 0.25 * _GIB:
            findings.append(
                Finding(name, "blocks", f"{size / _GIB:.2f} GiB free", "make room: 5 GiB are enough")
            )
        elif size < 5 * _GIB:
            findings.append(
                Finding(name, "warn", f"{size / _GIB:.1f} GiB free", "large checkpoints need more")
            )
        else:
            findings.append(Finding(name, "ok", f"{size / _GIB:.0f} GiB free"))
    return findings


def check_environment(env: Mapping[str, str]) -> Finding:
    """Variables that change what runs. The certificate records them; they are rarely meant."""
    mine = sorted(k for k in env if k.startswith("BI_HARNESS_"))
    shown = f"; flags from the environment: {', '.join(mine)}" if mine else ""
    steering = sorted(k for k in env if k.startswith(_STEERING) and k != "CUDA_VISIBLE_DEVICES")
    if not steering:
        return Finding("environment", "ok", f"no variable steers vLLM or its kernels{shown}")
    values = ", ".join(f"{k}={'***' if any(s in k for s in _SECRET) else env[k]}" for k in steering)
    todo = "unset them unless they are part of what is to be certified"
    return Finding("environment", "warn", f"{values}{shown}", todo)


def check_git(folder: Path) -> Finding:
    """The commit that a certificate would name."""

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", "-C", str(_existing(folder)), *arguments],
            capture_output=True,
            text=True,
            check=True,
            timeout=30,
            stdin=subprocess.DEVNULL,
        ).stdout.strip()

    try:
        commit = git("rev-parse", "--short=12", "HEAD")
        changed = len(git("status", "--porcelain").splitlines())
    except (OSError, subprocess.SubprocessError):
        return Finding("git", "ok", "not in a git checkout: the certificate goes by digests alone")
    if changed:
        found = f"commit {commit} with {changed} changed or new files"
        return Finding("git", "warn", found, "commit first if others are to repeat the run")
    return Finding("git", "ok", f"commit {commit}, nothing changed")


# --- looking --------------------------------------------------------------------------------------------


def _from_error(check: str, error: HarnessError, todo: str = "") -> Finding:
    found, _, advice = str(error).partition("\nWhat to do: ")
    return Finding(check, "blocks", found, advice or todo or "correct it")


def _what(host: HostFacts, kind: str) -> str:
    if kind == "cuda":
        return describe_gpus(host.gpus)
    return (
        f"{host.cpu_model}, {host.usable_cores} cores, {', '.join(host.cpu_flags) or 'no flags of interest'}"
    )


def _existing(path: Path) -> Path:
    """The nearest folder above that is there."""
    path = path.absolute()
    while not path.is_dir() and path != path.parent:
        path = path.parent
    return path


def _free(path: Path) -> float | None:
    try:
        return float(shutil.disk_usage(_existing(path)).free)
    except OSError:
        return None


def _size(path: str) -> float | None:
    try:
        return float(shutil.disk_usage(path).total)
    except OSError:
        return None


def _cache_root(env: Mapping[str, str]) -> Path:
    return Path(env.get("XDG_CACHE_HOME") or Path(env.get("HOME") or "/tmp") / ".cache")


def _compiler(env: Mapping[str, str]) -> str | None:
    return next((c for c in (env.get("CXX"), "g++", "clang++") if c and shutil.which(c)), None)
