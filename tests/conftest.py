"""For all tests."""

from __future__ import annotations

import os

import pytest
from hypothesis import HealthCheck, settings

# How long an example takes says how busy the host is. CI's two cores have two tests on them at a time.
settings.register_profile("any-host", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any-host")


@pytest.fixture(autouse=True)
def _outside_of_buildkite(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where these tests are a Buildkite job themselves, its build's page is not theirs to write on."""
    for name in [name for name in os.environ if name.startswith("BUILDKITE")]:
        monkeypatch.delenv(name)
