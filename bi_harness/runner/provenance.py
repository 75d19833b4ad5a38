"""What the harness itself is and was given: its version, git state, digests, command."""

from __future__ import annotations

import base64
import hashlib
import subprocess
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import bi_harness
from bi_harness.certificate.findings import printable
from bi_harness.spec.load import Spec

# Variables that change what an engine runs. Values of others (tokens, keys) stay out of certificates.
_TELLING = ("VLLM_", "BI_HARNESS_", "CUDA_VISIBLE_DEVICES", "NCCL_", "OMP_", "MKL_", "KMP_", "TORCH_")
_SECRET = ("KEY", "TOKEN", "SECRET", "PASSWORD")


def harness_provenance(spec: Spec, command: Sequence[str], environ: Mapping[str, str]) -> dict[str, Any]:
    """The part of the provenance that is known before an engine starts."""
    package = Path(bi_harness.__file__).resolve().parent
    return {
        "harness": {
            "version": bi_harness.__version__,
            **(git_state(package.parent) or installed_state(package)),
        },
        "digests": {
            **spec.digests,
            "suites": tree_digest(spec.paths.suites),
            "bi_harness": tree_digest(package),
        },
        "command": [printable(word) for word in command],
        "environment": {
            name: printable(value) for name, value in sorted(environ.items()) if is_telling(name)
        },
    }


def is_telling(name: str) -> bool:
    """Whether a variable changes what an engine runs, and may be shown."""
    return name.startswith(_TELLING) and not any(word in name for word in _SECRET)


def git_state(folder: Path) -> dict[str, Any]:
    """Commit and whether files differ from it; empty where ``folder`` is no checkout."""
    if not (folder / ".git").exists():
        return {}
    try:
        commit = _git(folder, "rev-parse", "HEAD").strip()
        # Reports are what runs write; they are no part of what was run.
        dirty = bool(_git(folder, "status", "--porcelain", "--", ".", ":(exclude)reports").strip())
    except (OSError, subprocess.SubprocessError):
        return {}
    return {"git_commit": commit, "dirty": dirty}


def installed_state(package: Path) -> dict[str, Any]:
    """Of a wheel that was installed: the digest of its RECORD, and whether files differ from it (``dirty``).

    Empty where ``package`` is of no wheel: then nothing is known of what it should be.
    """
    try:
        wheel = metadata.distribution("bi-harness")
    except metadata.PackageNotFoundError:
        return {}
    record = wheel.read_text("RECORD")
    listed = {
        Path(str(wheel.locate_file(file))).resolve(): file.hash.value
        for file in wheel.files or ()
        if file.hash is not None and file.hash.mode == "sha256"
    }
    if record is None or (package / "__init__.py").resolve() not in listed:
        return {}
    there = {path.resolve() for path in package.rglob("*") if path.is_file() and path.suffix != ".pyc"}
    theirs = {path for path in listed if path.is_relative_to(package.resolve())}
    dirty = there != theirs or any(_record_digest(path) != listed[path] for path in theirs)
    return {"record_sha256": hashlib.sha256(record.encode()).hexdigest(), "dirty": dirty}


def _record_digest(path: Path) -> str:
    """As RECORD has it: URL-safe base64 without padding."""
    digest = hashlib.sha256(path.read_bytes()).digest()
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()


def tree_digest(folder: Path) -> str:
    """``sha256:...`` over the names and bytes of a folder's source files, in the order of their names."""
    total = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.suffix in (".py", ".yaml", ".j2", ".html", ".css") and path.is_file():
            name = path.relative_to(folder).as_posix()
            total.update(f"{name}\0{hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return f"sha256:{total.hexdigest()}"


def _git(folder: Path, *arguments: str) -> str:
    return subprocess.run(
        ["git", "-C", str(folder), *arguments],
        check=True,
        capture_output=True,
        text=True,
        timeout=30,
    ).stdout
