"""The control's part of a check, while the treatment's is running.

Each arm is a process with a GPU's queue of its own, and mostly waits for its own Python: two take hardly
longer than one. What each gives does not depend on the other (``benchmarks.sharing`` measures that it does
not), and each is compared with itself alone.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait

from bi_harness.certificate.records import Evidence
from bi_harness.errors import EngineError
from bi_harness.runner.engines import Driven
from bi_harness.workload.checkplan import CheckPlan


class Ahead:
    """A comparison that goes on in a thread of its own.

    Args:
        engine: what it runs on; nobody else may use it until the end.
        plan: what it runs.
        compare: does it; whatever it raises is raised by ``result``.
    """

    def __init__(self, engine: Driven, plan: CheckPlan, compare: Callable[[], Evidence]) -> None:
        self.engine, self._plan = engine, plan
        with_one = ThreadPoolExecutor(1, thread_name_prefix="ahead")
        self._future: Future[Evidence] = with_one.submit(compare)
        with_one.shutdown(wait=False)

    def is_of(self, engine: Driven, plan: CheckPlan) -> bool:
        """Whether it is what that engine is asked for."""
        return self.engine is engine and self._plan == plan

    def result(self) -> Evidence:
        """What it found, once it is over.

        Raises:
            EngineError: the engine failed.
        """
        return self._future.result()

    def abandoned(self) -> EngineError | None:
        """Wait for its end, where nobody wants what it found: how its engine failed, if it did."""
        wait([self._future])
        error = self._future.exception()
        return error if isinstance(error, EngineError) else None
