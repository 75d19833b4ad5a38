"""The small spec, and a way to break it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.spec.small import Files


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Files:
    monkeypatch.chdir(tmp_path)
    return Files(tmp_path)


@pytest.fixture
def change(files: Files) -> Callable[[str, str, str], list[str]]:
    """Replace one text of one file and give the errors of loading it."""

    def act(file: str, old: str, new: str) -> list[str]:
        text = getattr(files, file)
        assert text.count(old) >= 1
        setattr(files, file, text.replace(old, new, 1))
        return files.errors()

    return act
