"""The bar of a run goes forward alone, whether a check's arms take turns or generate at once."""

from __future__ import annotations

from io import StringIO
from typing import Any

import pytest
from rich.console import Console
from rich.progress import Progress

from bi_harness.certificate.events import CheckProgress
from bi_harness.runner.progress import Watcher

TURNS = [("treatment", 1), ("treatment", 2), ("control", 1), ("control", 2)]
AT_ONCE = [("treatment", 1), ("control", 1), ("treatment", 2), ("control", 2)]
CONTROL_FIRST = [("control", 1), ("control", 2), ("treatment", 1), ("treatment", 2)]


def told(arm: str, done: int) -> CheckProgress:
    return CheckProgress(time="2026-01-14T09:15:00Z", cell="c", check="one", arm=arm, done=done, of=2)


@pytest.mark.parametrize("order", [TURNS, AT_ONCE, CONTROL_FIRST])
def test_each_sign_of_life_is_a_step_forward(order: Any) -> None:
    bar = Progress(console=Console(file=StringIO()))
    watcher = Watcher(bar.console, bar)
    watcher._task = bar.add_task("run", total=1, checks="", units="")
    seen = [0.0]
    for arm, done in order:
        watcher(told(arm, done))
        seen.append(bar.tasks[0].completed)
    assert seen == sorted(set(seen)), "never back, never still"
    assert seen[-1] == pytest.approx(1)
