"""The search for runs: nothing that may hold a failure is left out without a word."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bi_harness.errors import UsageError
from bi_harness.report.discovery import RUN_FILES, WORK, discover
from tests.kept import ROOT


def run_folder(path: Path, *names: str) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    for name in names or ("certificate.json",):
        (path / name).write_text("{}")
    return path


def runs(*paths: Path) -> list[str]:
    return [str(run.path) for run in discover(paths).runs]


def unread(*paths: Path) -> dict[str, str]:
    return {str(place.path): place.why for place in discover(paths).unread}


def test_run_in_the_given_folder_hides_none_below_it(tmp_path: Path) -> None:
    folders = [run_folder(tmp_path), run_folder(tmp_path / "a"), run_folder(tmp_path / "a" / "logs" / "b")]
    assert runs(tmp_path) == [str(folder) for folder in folders]
    assert unread(tmp_path) == {}


@pytest.mark.parametrize("name", RUN_FILES)
def test_any_file_of_a_run_makes_a_folder_a_run(tmp_path: Path, name: str) -> None:
    assert runs(tmp_path) == []
    run_folder(tmp_path / "x" / "y", name)
    assert runs(tmp_path) == [str(tmp_path / "x" / "y")]


def test_signed_run_without_certificate_and_journal_is_named(tmp_path: Path) -> None:
    run_folder(tmp_path / "x", "files.dsse.json", "certificate.html")
    assert runs(tmp_path) == []
    assert unread(tmp_path) == {
        str(tmp_path / "x"): "a signed run of which neither certificate nor journal is there"
    }
    run_folder(tmp_path / "x", "events.jsonl")
    assert unread(tmp_path) == {}


def test_hidden_folders_are_searched(tmp_path: Path) -> None:
    run_folder(tmp_path / ".old" / "x")
    assert runs(tmp_path) == [str(tmp_path / ".old" / "x")]


def test_each_folder_is_found_once(tmp_path: Path) -> None:
    run_folder(tmp_path / "a" / "b")
    (tmp_path / "link").symlink_to(tmp_path / "a")
    given = (tmp_path / "a" / "b", tmp_path, tmp_path / "a", tmp_path / "link")
    assert runs(*given) == [str(tmp_path / "a" / "b")]
    assert unread(*given) == {}


def test_link_to_a_folder_elsewhere_is_not_followed_and_named(tmp_path: Path) -> None:
    run_folder(tmp_path / "elsewhere" / "bad")
    reports = run_folder(tmp_path / "reports" / "good").parent
    (reports / "h200").symlink_to(tmp_path / "elsewhere")
    assert runs(reports) == [str(reports / "good")]
    (why,) = unread(reports).values()
    assert f"a link to {tmp_path / 'elsewhere'}, and links are not followed" in why
    # What the message asks for helps.
    assert len(runs(reports, tmp_path / "elsewhere")) == 2
    assert unread(reports, tmp_path / "elsewhere") == {}


def test_link_that_was_given_by_name_is_followed(tmp_path: Path) -> None:
    run_folder(tmp_path / "elsewhere" / "bad")
    (tmp_path / "h200").symlink_to(tmp_path / "elsewhere")
    assert runs(tmp_path / "h200") == [str(tmp_path / "h200" / "bad")]
    (tmp_path / "c.json").symlink_to(tmp_path / "elsewhere" / "bad" / "certificate.json")
    assert runs(tmp_path / "c.json") == [str(tmp_path / "c.json")]


@pytest.mark.parametrize("name", RUN_FILES)
def test_link_in_place_of_a_file_of_a_run(tmp_path: Path, name: str) -> None:
    file = run_folder(tmp_path / "elsewhere", name) / name
    reports = tmp_path / "reports"
    (reports / "x").mkdir(parents=True)
    (reports / "x" / name).symlink_to(file)
    assert runs(reports) == [str(reports / "x")]
    assert list(unread(reports)) == [str(reports / "x" / name)]
    assert unread(reports, file) == unread(reports, file.parent) == {}


def test_link_to_a_file_that_no_run_has_is_of_no_interest(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("x")
    reports = run_folder(tmp_path / "reports")
    (reports / "notes.txt").symlink_to(tmp_path / "notes.txt")
    assert unread(reports) == {}


@pytest.mark.parametrize("target", ["nowhere", "link", "../reports/link/x", "x" * 250 + "/y"])
def test_link_that_leads_nowhere_is_named(tmp_path: Path, target: str) -> None:
    reports = run_folder(tmp_path / "reports")
    (reports / "link").symlink_to(target)
    (why,) = unread(reports).values()
    assert "a link that leads nowhere" in why


def test_circle_of_links_ends(tmp_path: Path) -> None:
    run_folder(tmp_path / "a")
    (tmp_path / "a" / "up").symlink_to(tmp_path)
    (tmp_path / "a" / "here").symlink_to(".")
    assert runs(tmp_path) == [str(tmp_path / "a")]
    assert unread(tmp_path) == {}


def test_what_a_killed_run_left_is_named(tmp_path: Path) -> None:
    run_folder(tmp_path / "run")
    (tmp_path / "run" / WORK).mkdir()
    assert unread(tmp_path) == {}, "an empty one holds nothing"
    left = run_folder(tmp_path / "run" / WORK / "attempt-1" / "unit", "events.jsonl")
    assert runs(tmp_path) == [str(tmp_path / "run")]
    (why,) = unread(tmp_path).values()
    assert "left by a run that was killed" in why
    assert runs(tmp_path / "run" / WORK) == [str(left)], "given by name it is searched"
    assert unread(tmp_path, tmp_path / "run" / WORK) == {}
    (tmp_path / "link").symlink_to(tmp_path / "run" / WORK)
    assert len(unread(tmp_path)) == 2


@pytest.mark.parametrize("name", RUN_FILES)
def test_folder_with_the_name_of_a_file_of_a_run_is_named_and_searched(tmp_path: Path, name: str) -> None:
    run_folder(tmp_path / name / "x")
    assert runs(tmp_path) == [str(tmp_path / name / "x")]
    assert unread(tmp_path) == {str(tmp_path / name): "a folder that has the name of a run's file"}


def test_folder_that_cannot_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_folder(tmp_path / "good")
    run_folder(tmp_path / "secret")
    scandir = os.scandir

    def refuse(path: Path) -> object:
        if Path(path).name == "secret":
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    assert runs(tmp_path) == [str(tmp_path / "good")]
    assert unread(tmp_path) == {str(tmp_path / "secret"): "cannot be looked into: Permission denied"}


def test_folder_below_a_path_that_is_too_long_is_named(tmp_path: Path) -> None:
    folder = tmp_path
    here = os.open(tmp_path, os.O_RDONLY)
    try:
        for _ in range(30):
            folder /= "x" * 200
            os.mkdir("x" * 200, dir_fd=here)
            below = os.open("x" * 200, os.O_RDONLY, dir_fd=here)
            os.close(here)
            here = below
    finally:
        os.close(here)
    (why,) = unread(tmp_path).values()
    assert why == "cannot be looked into: File name too long"
    subprocess.run(["rm", "-rf", tmp_path / ("x" * 200)], check=True)


def test_name_that_is_not_utf8_is_found_and_can_be_shown(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9")
    run_folder(tmp_path / name)
    (tmp_path / f"{name}-link").symlink_to(f"/nowhere/{name}")
    found = discover([tmp_path])
    assert [run.path.name for run in found.runs] == [name]
    (place,) = found.unread
    assert "caf\\udce9-link" in str(place).encode().decode()


@pytest.mark.parametrize("path", ["nowhere", "x" * 300, "x/" * 3_000, "a\0b", "loop", "dangling", "\udce9"])
def test_given_path_that_cannot_be_looked_at_is_a_mistake(tmp_path: Path, path: str) -> None:
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "dangling").symlink_to("nowhere")
    with pytest.raises(UsageError, match="cannot read "):
        discover([tmp_path / path])


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become somebody else")
def test_unreadable_folder_is_named_to_whoever_cannot_read_it(tmp_path: Path) -> None:
    run_folder(tmp_path / "secret").chmod(0)
    for folder in (tmp_path, *tmp_path.parents):
        if folder != Path("/") and folder.is_relative_to("/tmp"):
            folder.chmod(folder.stat().st_mode | 0o055)
    program = (
        "import os, sys; from pathlib import Path; from bi_harness.report.discovery import discover\n"
        "os.setuid(65534); print(*discover([Path(sys.argv[1])]).unread)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, tmp_path], capture_output=True, text=True, timeout=60, cwd=ROOT
    )
    assert "secret: cannot be looked into: Permission denied" in done.stdout, done.stderr


NAMES = st.sampled_from(["a", "b", ".hidden", "logs", "h200", os.fsdecode(b"\xff"), "c d"])
PLACES = st.lists(st.lists(NAMES, max_size=4).map(tuple), min_size=1, max_size=6, unique=True)


@given(PLACES, st.sampled_from(RUN_FILES))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_every_run_of_a_tree_is_found_once(
    tmp_path_factory: pytest.TempPathFactory, places: list[tuple[str, ...]], name: str
) -> None:
    base = tmp_path_factory.mktemp("tree")
    made = {run_folder(base.joinpath(*place), name) for place in places}
    found = discover([base])
    assert [run.path for run in found.runs] == sorted(made)
    assert found.unread == ()


@given(PLACES, st.lists(NAMES, max_size=3).map(tuple), st.lists(NAMES, min_size=1, max_size=3).map(tuple))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_every_link_is_read_or_named(
    tmp_path_factory: pytest.TempPathFactory,
    places: list[tuple[str, ...]],
    at: tuple[str, ...],
    to: tuple[str, ...],
) -> None:
    """Whether it leads up, down, out of the folder or nowhere: what is behind it is found, or it is named."""
    base = tmp_path_factory.mktemp("tree")
    for place in places:
        run_folder((base / "in").joinpath(*place))
    target = base.joinpath(*to)
    run_folder(target)
    folder = (base / "in").joinpath(*at)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "link").symlink_to(target)
    found = discover([base / "in"])
    behind = target.resolve()
    assert any(run.path.resolve() == behind for run in found.runs) or [
        place.path for place in found.unread
    ] == [folder / "link"]
