"""What a start left in a cache: added, rewritten, compiled."""

from __future__ import annotations

import os
from pathlib import Path

from bi_harness.certificate.startup import CacheChange
from bi_harness.runner.cache_files import change, files


def test_what_is_new_and_what_is_another(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    for name in ("a/kept.so", "a/model", "a/old.so"):
        (tmp_path / name).write_bytes(b"one")
    before = files(tmp_path)
    assert set(before) == {"a/kept.so", "a/model", "a/old.so"}
    assert change({}, before) == CacheChange(3, 0, 2, ("kept (1)", "old (1)"))
    assert change(before, files(tmp_path)) == CacheChange(0, 0, 0)
    (tmp_path / "b.cubin").write_bytes(b"x")
    (tmp_path / "b.json").write_bytes(b"x")
    # Replaced by a file of the same size and time.
    stat = (tmp_path / "a/old.so").stat()
    (tmp_path / "new").write_bytes(b"two")
    os.utime(tmp_path / "new", ns=(stat.st_atime_ns, stat.st_mtime_ns))
    (tmp_path / "new").replace(tmp_path / "a/old.so")
    assert change(before, files(tmp_path)) == CacheChange(2, 1, 2, ("b (1)", "old (1)"))


def test_a_kernel_that_is_tuned_to_another_configuration_is_told(tmp_path: Path) -> None:
    """Inductor measures and keeps the fastest; the time that it took is not what changes the bits."""

    def tuned(name: str, text: str) -> None:
        (tmp_path / "new").write_text(text)
        (tmp_path / "new").replace(tmp_path / f"{name}.best_config")

    tuned("3329f829b4", '{"XBLOCK": 64, "R0_BLOCK": 64, "num_warps": 16, "time_taken_ms": 20}')
    tuned("slower", '{"XBLOCK": 8, "time_taken_ms": 20}')
    tuned("torn", "{")
    tuned("other", "[1]")
    before = files(tmp_path)
    tuned("3329f829b4", '{"XBLOCK": 8, "R0_BLOCK": 256, "num_warps": 16, "time_taken_ms": 20}')
    tuned("slower", '{"XBLOCK": 8, "time_taken_ms": 21}')
    tuned("other", "[2]")
    found = change(before, files(tmp_path))
    assert found.rewritten == 3
    assert found.retuned == ("3329f829: R0_BLOCK 64 to 256, XBLOCK 64 to 8",)


def test_locks_and_links_do_not_count(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "k.so").write_bytes(b"x")
    cache = tmp_path / "cache"
    cache.mkdir()
    (cache / "linked").symlink_to(elsewhere)
    (cache / "k.so").symlink_to(elsewhere / "k.so")
    (cache / "x.lock").write_bytes(b"")
    assert files(cache) == {}
    assert files(tmp_path / "nowhere") == {}
