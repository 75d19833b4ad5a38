"""The shipped YAML."""

from __future__ import annotations

import pytest

from bi_harness.spec.load import Spec, default_paths, load_spec


@pytest.fixture(scope="session")
def spec() -> Spec:
    paths = default_paths(environ={})
    return load_spec(paths.models, paths.hardware, paths.suites)
