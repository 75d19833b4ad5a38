"""What the harness says of itself: its git state, its files, its environment without secrets."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import subprocess
from importlib import metadata
from pathlib import Path

import pytest

from bi_harness import __version__
from bi_harness.runner.caches import model_cache
from bi_harness.runner.provenance import git_state, harness_provenance, installed_state, tree_digest
from tests.spec.small import Files


def git(folder: Path, *arguments: str) -> str:
    environ = {**os.environ, "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull}
    command = ["git", "-C", str(folder), "-c", "user.name=T", "-c", "user.email=t@example.org", *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True, env=environ).stdout.strip()


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    folder = tmp_path / "checkout"
    folder.mkdir()
    git(folder, "init", "-q")
    (folder / "a.py").write_text("a = 1\n")
    git(folder, "add", ".")
    git(folder, "commit", "-q", "-m", "one")
    return folder


def test_the_state_of_a_checkout(checkout: Path) -> None:
    commit = git(checkout, "rev-parse", "HEAD")
    assert git_state(checkout) == {"git_commit": commit, "dirty": False}
    (checkout / "a.py").write_text("a = 2\n")
    assert git_state(checkout) == {"git_commit": commit, "dirty": True}
    git(checkout, "checkout", "-q", "a.py")
    (checkout / "new.py").write_text("")
    assert git_state(checkout)["dirty"] is True


def test_reports_do_not_make_a_checkout_dirty(checkout: Path) -> None:
    (checkout / "reports" / "cpu").mkdir(parents=True)
    (checkout / "reports" / "cpu" / "certificate.json").write_text("{}")
    assert git_state(checkout)["dirty"] is False


def test_no_checkout_and_no_commit(tmp_path: Path) -> None:
    assert git_state(tmp_path) == {}
    git(tmp_path, "init", "-q")
    assert git_state(tmp_path) == {}


def test_a_broken_checkout_or_no_git(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    assert git_state(checkout) == {}
    monkeypatch.undo()
    (checkout / ".git" / "HEAD").write_text("nonsense")
    assert git_state(checkout) == {}


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """bi-harness as pip leaves it: a package, and the RECORD of its wheel."""
    package, info = tmp_path / "bi_harness", tmp_path / "bi_harness-9.dist-info"
    package.mkdir()
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: bi-harness\nVersion: 9\n")
    lines = []
    for name, text in (("__init__.py", ""), ("a.py", "a = 1\n")):
        (package / name).write_text(text)
        digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
        lines.append(f"bi_harness/{name},sha256={digest},{len(text)}\n")
    lines += ["bi_harness/__pycache__/a.pyc,,\n", "bi_harness-9.dist-info/RECORD,,\n"]
    (info / "RECORD").write_text("".join(lines))
    monkeypatch.setattr(
        "bi_harness.runner.provenance.metadata.distribution", lambda name: metadata.PathDistribution(info)
    )
    return package


def test_the_state_of_a_wheel(installed: Path) -> None:
    record = (installed.parent / "bi_harness-9.dist-info" / "RECORD").read_bytes()
    clean = {"record_sha256": hashlib.sha256(record).hexdigest(), "dirty": False}
    assert installed_state(installed) == clean
    (installed / "__pycache__").mkdir()
    (installed / "__pycache__" / "a.pyc").write_text("x")
    assert installed_state(installed) == clean
    for name, text in (("a.py", "a = 2\n"), ("new.py", "")):
        before = (installed / name).read_text() if (installed / name).exists() else None
        (installed / name).write_text(text)
        assert installed_state(installed)["dirty"] is True
        if before is None:
            (installed / name).unlink()
        else:
            (installed / name).write_text(before)
    assert installed_state(installed) == clean
    (installed / "a.py").unlink()
    assert installed_state(installed)["dirty"] is True


def test_of_no_wheel_nothing_is_known(installed: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    assert installed_state(tmp_path / "elsewhere") == {}, "editable, or a copy beside the installed one"


def test_the_digest_of_a_tree(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("1")
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "b.yaml").write_text("2")
    first = tree_digest(tmp_path)
    (tmp_path / "notes.txt").write_text("x")
    (tmp_path / "__pycache__").mkdir()
    (tmp_path / "__pycache__" / "a.pyc").write_text("x")
    assert tree_digest(tmp_path) == first, "only sources count"
    for change in (
        lambda: (tmp_path / "a.py").write_text("2"),
        lambda: (tmp_path / "a.py").rename(tmp_path / "c.py"),
        lambda: (tmp_path / "sub" / "b.yaml").unlink(),
        lambda: (tmp_path / "empty.py").touch(),
    ):
        before = tree_digest(tmp_path)
        change()
        assert tree_digest(tmp_path) != before


def test_the_environment_without_secrets(tmp_path: Path) -> None:
    environ = {
        "VLLM_LOGGING_LEVEL": "DEBUG",
        "VLLM_API_KEY": "hunter2",
        "BI_HARNESS_SIGNING_KEY": "hunter2",
        "BI_HARNESS_DEVICE": "cpu",
        "BI_HARNESS_TOKEN": "hunter2",
        "TORCH_SECRET": "hunter2",
        "NCCL_PASSWORD_FILE": "hunter2",
        "HF_TOKEN": "hunter2",
        "AWS_SECRET_ACCESS_KEY": "hunter2",
        "HOME": "/home/hunter2",
        "OMP_NUM_THREADS": "2",
        "CUDA_VISIBLE_DEVICES": "0",
    }
    told = harness_provenance(Files(tmp_path).load(), ["bi-harness", "run"], environ)
    assert told["environment"] == {
        "BI_HARNESS_DEVICE": "cpu",
        "CUDA_VISIBLE_DEVICES": "0",
        "OMP_NUM_THREADS": "2",
        "VLLM_LOGGING_LEVEL": "DEBUG",
    }
    assert "hunter2" not in json.dumps(told)


def test_bytes_that_are_no_text_are_escaped(tmp_path: Path) -> None:
    surrogate = os.fsdecode(b"caf\xe9")
    told = harness_provenance(
        Files(tmp_path).load(), ["bi-harness", surrogate], {"BI_HARNESS_OUT": f"/tmp/{surrogate}"}
    )
    assert json.dumps(told, ensure_ascii=False).encode("utf-8")
    assert told["command"] == ["bi-harness", "caf\\udce9"]
    assert told["environment"] == {"BI_HARNESS_OUT": "/tmp/caf\\udce9"}


def test_what_it_names(tmp_path: Path) -> None:
    spec = Files(tmp_path).load()
    told = harness_provenance(spec, [], {})
    assert told["harness"]["version"] == __version__
    assert set(told["digests"]) == {*spec.digests, "suites", "bi_harness"}
    assert all(d.startswith("sha256:") and len(d) == 71 for d in told["digests"].values())
    before = told["digests"]
    (tmp_path / "suites" / "core" / "test_a.py").write_text("def test_a(): pass\n")
    after = harness_provenance(spec, [], {})["digests"]
    assert before["suites"] != after["suites"]
    assert {k: v for k, v in before.items() if k != "suites"} == {
        k: v for k, v in after.items() if k != "suites"
    }


def test_where_checkpoints_are_kept() -> None:
    home = Path.home() / ".cache" / "bi-harness" / "models"
    assert model_cache({}) == home
    assert model_cache({"BI_HARNESS_CACHE": "", "XDG_CACHE_HOME": ""}) == home
    assert model_cache({"XDG_CACHE_HOME": "/x"}) == Path("/x/bi-harness/models")
    assert model_cache({"XDG_CACHE_HOME": "/x", "BI_HARNESS_CACHE": "/y"}) == Path("/y/models")
    assert model_cache({"BI_HARNESS_CACHE": "y"}).is_absolute()
