"""Caches that engines share."""

from __future__ import annotations

from pathlib import Path

from bi_harness.runner.caches import share_model_infos


def test_what_one_engine_notes_of_a_model_the_next_one_finds(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "deep" / "two"
    for root in (one, two, one):
        share_model_infos(root, tmp_path / "shared")
    (one / "modelinfos" / "a.json").write_text("{}")
    assert (two / "modelinfos" / "a.json").read_text() == "{}"


def test_nothing_else_is_shared(tmp_path: Path) -> None:
    for name in ("one", "two"):
        share_model_infos(tmp_path / name, tmp_path / "shared")
    (tmp_path / "one" / "graph").write_text("x")
    assert [path.name for path in (tmp_path / "two").iterdir()] == ["modelinfos"]


def test_a_folder_that_is_there_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "one" / "modelinfos").mkdir(parents=True)
    share_model_infos(tmp_path / "one", tmp_path / "shared")
    assert not (tmp_path / "one" / "modelinfos").is_symlink()
