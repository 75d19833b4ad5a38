"""A stand-in suite for each test, and no process of it left over."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.runner.standin import Standin, marked


@pytest.fixture
def standin(tmp_path: Path) -> Iterator[Standin]:
    """A suite to write; whatever it starts must be gone in the end."""
    made = Standin(tmp_path, mark=uuid.uuid4().hex)
    yield made
    left = marked(made.mark)
    for process in left:
        process.kill()
    assert not left, f"left over: {left}"
