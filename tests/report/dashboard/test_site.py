"""On disk: in its own folder alone, and a build that fails leaves the old site."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from bi_harness.errors import InfrastructureError, UsageError
from bi_harness.report.dashboard import site
from bi_harness.report.dashboard.site import MARKER, check_folder, write_site


def tree(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_written_and_written_anew(tmp_path: Path) -> None:
    out = tmp_path / "a" / "site"
    assert write_site(out, [("index.html", b"1"), ("cells/x.html", b"x"), ("badges/d/m.svg", b"m")]) == 3
    assert write_site(out, [("index.html", b"2"), ("cells/y.html", b"y")]) == 2
    assert {k: v for k, v in tree(out).items() if k != MARKER} == {"index.html": b"2", "cells/y.html": b"y"}
    assert [p.name for p in (tmp_path / "a").iterdir()] == ["site"]


def test_a_build_that_fails_leaves_the_old_site(tmp_path: Path) -> None:
    out = tmp_path / "site"
    write_site(out, [("index.html", b"1"), ("cells/x.html", b"x")])
    before = tree(out)

    def failing() -> Iterator[tuple[str, bytes]]:
        yield "index.html", b"2"
        raise RuntimeError("a page that cannot be rendered")

    with pytest.raises(RuntimeError):
        write_site(out, failing())
    assert tree(out) == before


def test_a_swap_that_fails_is_taken_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "site"
    write_site(out, [("index.html", b"1"), ("cells/x.html", b"x"), ("feed.xml", b"f")])
    before = tree(out)
    rename = Path.rename

    def refuses(self: Path, target: Path) -> Path:
        if self.name == "feed.xml" and "new" in self.parts:
            raise OSError(28, "No space left on device")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", refuses)
    with pytest.raises(InfrastructureError, match="disk is full"):
        write_site(out, [("index.html", b"2"), ("cells/y.html", b"y"), ("feed.xml", b"g")])
    assert tree(out) == before


def test_what_a_killed_build_left_goes(tmp_path: Path) -> None:
    out = tmp_path / "site"
    write_site(out, [("index.html", b"1")])
    (out / f"{site._WORK}x").mkdir()
    write_site(out, [("index.html", b"2")])
    assert set(tree(out)) == {"index.html", MARKER}
    assert not list(out.glob(f"{site._WORK}*"))


def test_a_folder_of_somebody_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("all of it")
    with pytest.raises(UsageError, match="not empty"):
        write_site(tmp_path, [("index.html", b"1")])
    assert tree(tmp_path) == {"thesis.txt": b"all of it"}


def test_a_marker_that_is_a_folder_marks_nothing(tmp_path: Path) -> None:
    (tmp_path / MARKER).mkdir()
    with pytest.raises(UsageError, match="not empty"):
        check_folder(tmp_path)


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "site").symlink_to("real")
    with pytest.raises(UsageError, match="link"):
        write_site(tmp_path / "site", [("index.html", b"1")])
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="no folder"):
        check_folder(tmp_path / "file")


@pytest.mark.parametrize("name", ["../x", "/etc/x", "a/../../x", "a//b", "", "a\0b", "a\\b", "."])
def test_no_path_leads_out(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="none of a site"):
        write_site(tmp_path / "site", [(name, b"x")])
    assert not (tmp_path / "x").exists()


def test_no_file_is_written_over(tmp_path: Path) -> None:
    with pytest.raises(InfrastructureError):
        write_site(tmp_path / "site", [("cells/x.html", b"1"), ("cells/x.html", b"2")])


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises((InfrastructureError, UsageError)):
        write_site(tmp_path / "file" / "site", [("index.html", b"1")])
