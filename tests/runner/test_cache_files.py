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
    assert change({}, before) == CacheChange(added=3, rewritten=0, kernels=2)
    assert change(before, files(tmp_path)) == CacheChange(0, 0, 0)
    (tmp_path / "b.cubin").write_bytes(b"x")
    (tmp_path / "b.json").write_bytes(b"x")
    # Replaced by a file of the same size and time.
    stat = (tmp_path / "a/old.so").stat()
    (tmp_path / "new").write_bytes(b"two")
    os.utime(tmp_path / "new", ns=(stat.st_atime_ns, stat.st_mtime_ns))
    (tmp_path / "new").replace(tmp_path / "a/old.so")
    assert change(before, files(tmp_path)) == CacheChange(added=2, rewritten=1, kernels=2)


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
