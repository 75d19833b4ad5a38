"""Running units, several at once where there is room: see ``schedule`` for who goes when."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from queue import Empty, SimpleQueue

from bi_harness.runner.schedule import Free, Need, following

_POLL_S = 0.5

Place = tuple[int, ...]
"""GPUs of the host, by number; on a CPU the number of a share of its cores."""


@dataclass(frozen=True, slots=True)
class Turn:
    """A unit's turn, as its thread has it: called, it says whether to stop.

    Attributes:
        unit: its id.
        stopped: whether to stop.
        changes: takes what it needs from now on.
    """

    unit: str
    stopped: Callable[[], bool]
    changes: SimpleQueue[tuple[str, Need | Future[None]]]

    def __call__(self) -> bool:
        return self.stopped()

    def takes(self, need: Need) -> None:
        """From now on it takes no more than this, on the place that it has: others may go meanwhile."""
        self.changes.put((self.unit, need))


RunOne = Callable[[str, Place, Turn], None]
"""Runs a unit on its place, asking all the time whether to stop."""


def side_by_side(
    needs: Mapping[str, Need], host: Free, jobs: int, run_one: RunOne, stopped: Callable[[], bool]
) -> None:
    """Run all units. Each runs once; a stop leaves out those that wait.

    Args:
        needs: by unit, in the order of the plan, in which they run where one runs at a time.
        host: with nothing running.
        jobs: units at once, at most.
        run_one: called in a thread of its own for each unit, which lives as long as the unit.
        stopped: whether to stop.

    Raises:
        Exception: the first that ``run_one`` raised; the others are stopped, and waited for, before.
    """
    changes = SimpleQueue[tuple[str, Need | Future[None]]]()
    if jobs == 1 or len(needs) == 1:
        for unit, need in needs.items():
            if stopped():
                return
            found = following({unit: need}, {}, host, 1)
            assert found is not None, "a unit that is alone always has a place"
            run_one(unit, found[1], Turn(unit, stopped, changes))
        return
    waiting, running = dict(needs), dict[str, tuple[Need, Place]]()
    failed = threading.Event()
    errors: list[BaseException] = []

    def enough() -> bool:
        return stopped() or failed.is_set()

    def start(pool: ThreadPoolExecutor, unit: str, place: Place) -> None:
        future = pool.submit(run_one, unit, place, Turn(unit, enough, changes))
        future.add_done_callback(lambda done: changes.put((unit, done)))

    with ThreadPoolExecutor(max_workers=jobs, thread_name_prefix="unit") as pool:
        while True:
            while not enough() and (found := following(waiting, running, host, jobs)) is not None:
                unit, place = found
                running[unit] = (waiting.pop(unit), place)
                start(pool, unit, place)
            if not running:
                break
            try:
                unit, change = changes.get(timeout=_POLL_S)
            except Empty:
                # A signal's handler runs in this thread, and a wait without an end may never let it.
                continue
            if isinstance(change, Need):
                running[unit] = (change, running[unit][1])
                continue
            del running[unit]
            if (error := change.exception()) is not None:
                failed.set()
                errors.append(error)
    if errors:
        raise errors[0]
