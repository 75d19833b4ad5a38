"""The small spec, loaded."""

from __future__ import annotations

from pathlib import Path

import pytest

from bi_harness.spec.load import Spec
from tests.spec.small import Files


@pytest.fixture
def spec(tmp_path: Path) -> Spec:
    return Files(tmp_path).load()
