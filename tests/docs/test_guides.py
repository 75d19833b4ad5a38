"""The guides' commands, run as they are written."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.kept import ROOT, kept_folders

GUIDES = sorted(p for p in (ROOT / "docs/guides").glob("*.md") if p.name != "README.md")
_BLOCK = re.compile(r"^```sh(?P<kind>[^\n]*)\n(?P<body>.*?)^```$", re.MULTILINE | re.DOTALL)
_EXIT = re.compile(r"\s#\s*exit (?P<code>\d+)\s*$")


@dataclass(frozen=True)
class Block:
    """One block of shell commands: its line in the guide, where it can run, its commands."""

    line: int
    kind: str
    body: str


def blocks(guide: Path) -> Iterator[Block]:
    text = guide.read_text(encoding="utf-8")
    for found in _BLOCK.finditer(text):
        yield Block(text.count("\n", 0, found.start()) + 1, found["kind"].strip(), found["body"])


def script(block: Block) -> str:
    """The block, in which each command that names another exit code than 0 is held to it."""
    lines = []
    for line in block.body.splitlines():
        expected = _EXIT.search(line)
        if expected is None:
            lines.append(line)
        else:
            command = line[: expected.start()]
            lines.append(
                f"code=0; {command} || code=$?; test $code -eq {expected['code']} || "
                f'{{ echo "$code instead of {expected["code"]}: {command.split()[0]}"; exit 99; }}'
            )
    return "set -eo pipefail\n" + "\n".join(lines) + "\nexport -p > .exported\n"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A folder with what a checkout has at its top, and a ``bi-harness`` that is this one."""
    for name in ("models.yaml", "hardware.yaml"):
        shutil.copy(ROOT / name, tmp_path)
    shutil.copytree(ROOT / "suites", tmp_path / "suites", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    for run in kept_folders("h200/0.25.1")[:2]:
        shutil.copytree(run, tmp_path / "reports/h200/0.25.1" / run.name)
    command = tmp_path / "bin/bi-harness"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m bi_harness.cli "$@"\n')
    command.chmod(0o755)
    return tmp_path


def run(project: Path, guide: Path, kinds: tuple[str, ...]) -> int:
    env = {k: v for k, v in os.environ.items() if not k.startswith("BI_HARNESS_") or k == "BI_HARNESS_CACHE"}
    env |= {"PATH": f"{project / 'bin'}{os.pathsep}{env['PATH']}", "PYTHONPATH": str(ROOT)}
    done = 0
    for block in blocks(guide):
        assert block.kind in ("", "engine", "elsewhere"), f"{guide.name}:{block.line}"
        if block.kind not in kinds:
            continue
        text = f"[ ! -f .exported ] || . ./.exported\n{script(block)}"
        result = subprocess.run(
            ["bash", "-c", text],
            cwd=project,
            env=env,
            capture_output=True,
            text=True,
            timeout=1200,
            check=False,
        )
        where = f"{guide.name}:{block.line}"
        assert result.returncode == 0, f"{where}\n{result.stdout[-3000:]}\n{result.stderr[-3000:]}"
        done += 1
    return done


@pytest.mark.parametrize("guide", GUIDES, ids=lambda p: p.stem)
def test_a_guide_does_what_it_says(guide: Path, project: Path) -> None:
    if "jq " in guide.read_text(encoding="utf-8") and shutil.which("jq") is None:
        pytest.skip("this guide uses jq, which is not installed")
    assert run(project, guide, ("",))


@pytest.mark.engine
@pytest.mark.long
@pytest.mark.parametrize(
    "guide", [g for g in GUIDES if any(b.kind == "engine" for b in blocks(g))], ids=lambda p: p.stem
)
def test_with_its_engines(guide: Path, project: Path) -> None:
    assert run(project, guide, ("", "engine"))


def test_an_exit_code_that_is_not_the_one_is_seen(project: Path) -> None:
    guide = project / "guide.md"
    for code, ok in ((3, True), (0, False), (4, False)):
        guide.write_text(f"```sh\nsh -c 'exit 3'   # exit {code}\n```\n")
        if ok:
            assert run(project, guide, ("",)) == 1
        else:
            with pytest.raises(AssertionError, match="3 instead of"):
                run(project, guide, ("",))
    guide.write_text("```sh\nfalse\n```\n")
    with pytest.raises(AssertionError):
        run(project, guide, ("",))


def test_each_guide_is_listed_and_each_link_leads_somewhere() -> None:
    index = (ROOT / "docs/guides/README.md").read_text(encoding="utf-8")
    for guide in GUIDES:
        assert f"({guide.name})" in index
    for page in (*GUIDES, ROOT / "docs/guides/README.md"):
        for link in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
            assert (page.parent / link).exists(), f"{page.name}: {link}"
