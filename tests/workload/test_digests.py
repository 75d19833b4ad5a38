"""A checkpoint's digest is computed once for a run, and again whenever a file of it may be another."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from bi_harness.workload import digests
from bi_harness.workload.digests import DONE, checkpoint_digest, digest_in_run


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The folders that were read, with files that count as settled at once."""
    found: list[Path] = []

    def digest(folder: Path) -> str:
        found.append(folder)
        return checkpoint_digest(folder)

    monkeypatch.setattr(digests, "checkpoint_digest", digest)
    monkeypatch.setattr(digests, "SETTLED_S", 0.0)
    return found


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "model"
    made.mkdir()
    (made / "config.json").write_text("{}")
    (made / "weights").write_bytes(b"12345678")
    (made / DONE).write_text("no part of it")
    return made


def test_it_is_read_once_for_a_run(folder: Path, tmp_path: Path, read: list[Path]) -> None:
    right = checkpoint_digest(folder)
    assert [digest_in_run(folder, tmp_path / "notes") for _ in range(3)] == [right] * 3
    assert len(read) == 1
    assert digest_in_run(folder, tmp_path / "another run") == right
    assert digest_in_run(folder, None) == right
    assert len(read) == 3


def test_another_folder_with_the_same_names_is_another(
    folder: Path, tmp_path: Path, read: list[Path]
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "weights").write_bytes(b"87654321")
    found = {digest_in_run(one, tmp_path / "notes") for one in (folder, other)}
    assert found == {checkpoint_digest(folder), checkpoint_digest(other)}
    (tmp_path / "link").symlink_to(folder)
    assert digest_in_run(tmp_path / "link", tmp_path / "notes") in found
    assert len(read) == 2


@pytest.mark.parametrize("what", ["bytes", "behind its back", "added", "removed", "renamed", "link"])
def test_a_change_is_seen(folder: Path, tmp_path: Path, read: list[Path], what: str) -> None:
    weights = folder / "weights"
    if what == "link":  # a hub's snapshot has nothing but links
        weights.rename(tmp_path / "blob")
        weights.symlink_to(tmp_path / "blob")
    before = digest_in_run(folder, tmp_path / "notes")
    stat = weights.stat()
    if what in ("bytes", "behind its back", "link"):
        with open(weights, "r+b") as file:
            file.write(b"1234567x")
    if what == "behind its back":
        os.utime(weights, ns=(stat.st_atime_ns, stat.st_mtime_ns))
        assert weights.stat().st_mtime_ns == stat.st_mtime_ns
    elif what == "added":
        (folder / "more").touch()
    elif what == "removed":
        weights.unlink()
    elif what == "renamed":
        weights.rename(folder / "other")
    after = digest_in_run(folder, tmp_path / "notes")
    assert after == checkpoint_digest(folder) != before
    assert len(read) == 2


def test_what_changed_a_moment_ago_is_read_again(
    folder: Path, tmp_path: Path, read: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(digests, "SETTLED_S", 3600.0)
    for _ in range(2):
        digest_in_run(folder, tmp_path / "notes")
    assert len(read) == 2


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"digest": 3, "files": FILES}', '{"digest": "x", "files": []}']
)
def test_a_note_that_is_none_is_not_believed(
    folder: Path, tmp_path: Path, read: list[Path], text: str
) -> None:
    right = digest_in_run(folder, tmp_path / "notes")
    (note,) = (tmp_path / "notes").glob("*.json")
    note.write_text(text.replace("FILES", json.dumps(json.loads(note.read_text())["files"])))
    assert digest_in_run(folder, tmp_path / "notes") == right
    assert len(read) == 2


def test_processes_that_ask_at_once_read_it_once(folder: Path, tmp_path: Path) -> None:
    code = """
import sys, time
from pathlib import Path
from bi_harness.workload import digests
right = digests.checkpoint_digest
def digest(folder):
    with open(sys.argv[1] + "/read", "a") as log:
        log.write("x")
    time.sleep(0.3)
    return right(folder)
digests.checkpoint_digest, digests.SETTLED_S = digest, 0.0
print(digests.digest_in_run(Path(sys.argv[1]) / "model", Path(sys.argv[1]) / "notes"))
"""
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", code, str(tmp_path)]
    running = [subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    said = {process.communicate(timeout=60)[0].strip() for process in running}
    assert said == {checkpoint_digest(folder)}
    assert (tmp_path / "read").read_text() == "x"
