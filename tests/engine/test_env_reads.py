"""Who reads which variable is seen, however Python code does it; handing out all of them is no read."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable

import pytest

from bi_harness.engine.env_reads import environment_reads

NAME = "BI_HARNESS_TEST_READ"


@pytest.mark.parametrize("there", [True, False])
@pytest.mark.parametrize(
    "read",
    [
        lambda: os.environ.get(NAME),
        lambda: os.getenv(NAME, "1"),
        lambda: NAME in os.environ,
        lambda: os.environ.setdefault(NAME, "1"),
        lambda: os.environ.pop(NAME, None),
        lambda: [os.environ.get(name) for name in [*os.environ.keys(), NAME]],
    ],
)
def test_a_read_is_seen_whether_the_variable_is_there_or_not(
    read: Callable[[], object], there: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(NAME, raising=False)
    if there:
        monkeypatch.setenv(NAME, "0")
    with environment_reads() as reads:
        read()
    assert (NAME, __name__) in reads
    assert {module for name, module in reads if name == NAME} == {__name__}


@pytest.mark.parametrize(
    "whole",
    [
        lambda: os.environ.copy(),
        lambda: dict(os.environ),
        lambda: {**os.environ, "A": "1"},
        lambda: list(os.environ.items()),
        lambda: list(os.environ.values()),
        lambda: list(os.environ),
        lambda: subprocess.run([sys.executable, "-c", ""], check=True),
    ],
)
def test_handing_out_all_of_them_is_none(
    whole: Callable[[], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(NAME, "0")
    with environment_reads() as reads:
        whole()
    assert NAME not in {name for name, _ in reads}


def test_it_is_over_afterwards() -> None:
    before = type(os.environ).__getitem__
    with pytest.raises(ZeroDivisionError), environment_reads():
        raise ZeroDivisionError
    assert type(os.environ).__getitem__ is before
    assert "keys" not in vars(type(os.environ))
