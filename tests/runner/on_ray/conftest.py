"""A stand-in suite for each test, and one cluster for those that need a real one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from tests.runner.conftest import standin

if TYPE_CHECKING:
    from tests.runner.on_ray.clusters import Nodes

__all__ = ["cluster", "nodes", "standin"]


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nodes]:
    """A real cluster, without nodes that work at first."""
    pytest.importorskip("ray")
    from tests.runner.on_ray.clusters import Nodes

    made = Nodes(tmp_path_factory.mktemp("cluster"))
    made.start()
    yield made
    made.stop()


@pytest.fixture
def nodes(cluster: Nodes) -> Iterator[Nodes]:
    """It, on which nothing of a unit may be left in the end."""
    yield cluster
    left = cluster.units()
    for process in left:
        process.kill()
    assert not left, f"left over: {left}"
