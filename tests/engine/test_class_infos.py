"""A model's class is looked at in a fork: the same answer, and vLLM's own way where that fails."""

from __future__ import annotations

import os
import sys
import time
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from bi_harness.engine import class_infos
from bi_harness.engine.class_infos import by_fork, in_forks


class Ordinary:
    """vLLM's own way, which counts its calls."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, look: Any) -> Any:
        self.calls += 1
        return "ordinary"


@pytest.fixture
def ordinary() -> Ordinary:
    return Ordinary()


def children() -> list[psutil.Process]:
    return psutil.Process().children()


def test_it_runs_in_a_process_that_is_gone_afterwards(ordinary: Ordinary) -> None:
    before = children()
    pid, big = by_fork(lambda: (os.getpid(), "x" * 1_000_000), ordinary)
    assert pid != os.getpid()
    assert len(big) == 1_000_000
    assert ordinary.calls == 0
    assert children() == before


def raising() -> None:
    raise ImportError("no such class")


@pytest.mark.parametrize(
    "look", [raising, lambda: os._exit(0), lambda: os.kill(os.getpid(), 9), lambda: lambda: 1]
)
def test_vllm_does_it_where_the_fork_says_nothing(look: Any, ordinary: Ordinary) -> None:
    assert by_fork(look, ordinary) == "ordinary"
    assert ordinary.calls == 1


def test_a_fork_that_hangs_is_ended(ordinary: Ordinary, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(class_infos, "LIMIT_S", 0.3)
    before = children()
    assert by_fork(lambda: time.sleep(60), ordinary) == "ordinary"
    assert children() == before


def test_a_process_that_has_touched_cuda_does_not_fork(
    ordinary: Ordinary, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch = SimpleNamespace(cuda=SimpleNamespace(is_initialized=lambda: True))
    monkeypatch.setitem(sys.modules, "torch", torch)
    assert by_fork(os.getpid, ordinary) == "ordinary"


def test_it_takes_the_place_of_vllms_own(monkeypatch: pytest.MonkeyPatch, ordinary: Ordinary) -> None:
    registry = SimpleNamespace(_run_in_subprocess=ordinary)
    monkeypatch.setitem(sys.modules, class_infos.REGISTRY, registry)
    in_forks()
    assert registry._run_in_subprocess(os.getpid) not in (os.getpid(), "ordinary")
    monkeypatch.setitem(sys.modules, class_infos.REGISTRY, SimpleNamespace())
    in_forks()  # another vLLM: left as it is


def test_vllm_has_what_it_takes_the_place_of() -> None:
    registry = pytest.importorskip(class_infos.REGISTRY)
    assert callable(getattr(registry, class_infos.NAME))
