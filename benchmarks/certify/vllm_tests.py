"""vLLM's own determinism tests, from the source distribution of a release: nothing of them is kept here.

``python -m benchmarks.certify.vllm_tests 0.25.1 FOLDER`` fetches them, for a GPU host that has no network.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import sys
import tarfile
import urllib.request
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

import typer

FOLDER = "tests/v1/determinism"
INDEX = "https://pypi.org/simple"
LIMIT = 256 * 1024 * 1024
"""Bytes of a source distribution; that of 0.25.1 has 35 million."""


def fetch(release: str, folder: Path, index: str | None = None) -> Path:
    """Put the tests of a release into ``folder``, unless they are there, and return it.

    Args:
        release: of vLLM.
        folder: takes the files of ``tests/v1/determinism`` and a file that names the release.
        index: a package index that speaks PEP 691; by default ``PIP_INDEX_URL``, else PyPI.

    Raises:
        OSError: the index or the file cannot be reached.
        ValueError: it has no such release, what came is not what the index promised, the archive has no such
            tests, or the folder holds another release's.
    """
    mark = folder / "vllm-release.txt"
    if mark.exists():
        if (there := mark.read_text(encoding="utf-8").strip()) != release:
            raise ValueError(f"{folder} holds the tests of vLLM {there}, not {release}: name another folder")
        return folder
    listing, base = _listing(index or os.environ.get("PIP_INDEX_URL") or INDEX)
    name = f"vllm-{release}.tar.gz"
    found = [file for file in listing["files"] if file["filename"] == name]
    if not found:
        raise ValueError(f"the index {base} has no {name}")
    with urllib.request.urlopen(urljoin(base, found[0]["url"]), timeout=120) as answer:
        data = answer.read(LIMIT)
    if hashlib.sha256(data).hexdigest() != found[0]["hashes"]["sha256"]:
        raise ValueError(f"{name} is not what the index {base} promised (sha256)")
    extract(data, release, folder)
    return folder


def extract(data: bytes, release: str, folder: Path) -> None:
    """Take the tests out of a source distribution: regular files of that one folder, and nothing else.

    Raises:
        ValueError: there are none.
    """
    inside = f"vllm-{release}/{FOLDER}/"
    folder.mkdir(parents=True, exist_ok=True)
    found = 0
    with tarfile.open(fileobj=io.BytesIO(data), mode="r:gz") as archive:
        for member in archive:
            name = member.name.removeprefix(inside)
            if not member.name.startswith(inside) or not member.isfile() or "/" in name:
                continue
            file = archive.extractfile(member)
            assert file is not None
            (folder / Path(name).name).write_bytes(file.read())
            found += name.startswith("test_")
    if not found:
        raise ValueError(f"the source distribution of vLLM {release} has no {FOLDER}")
    (folder / "vllm-release.txt").write_text(f"{release}\n", encoding="utf-8")


def _listing(index: str) -> tuple[dict[str, Any], str]:
    base = f"{index.rstrip('/')}/vllm/"
    request = urllib.request.Request(base, headers={"Accept": "application/vnd.pypi.simple.v1+json"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer), base


if __name__ == "__main__":
    try:
        typer.echo(fetch(sys.argv[1], Path(sys.argv[2])))
    except (OSError, ValueError) as error:
        sys.exit(f"{error}")
