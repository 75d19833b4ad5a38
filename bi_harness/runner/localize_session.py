"""The process that localizes one failure: pytest gives the check's plan, and engines are started for it.

The check's own test function is called as in a unit, with a recorder that takes the plan and lets nothing
run; so a plan is never made in two ways.
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, cast

import pytest

from bi_harness.certificate.events import Localized
from bi_harness.certificate.localized import Localization
from bi_harness.certificate.records import Evidence, Fact
from bi_harness.engine.client import EngineClient
from bi_harness.engine.config import ArmName, EngineConfig
from bi_harness.errors import EngineError
from bi_harness.localize.driver import localize
from bi_harness.localize.reproduce import Case, Up
from bi_harness.matrix.cells import Cell
from bi_harness.runner.context import Context
from bi_harness.runner.engines import Client, Driven, safe_name
from bi_harness.runner.journal import Journal, now
from bi_harness.runner.localize_task import LocalizeTask
from bi_harness.runner.starts import Starts
from bi_harness.runner.suite_session import CheckRecorder, SuiteSession
from bi_harness.spec.load import Spec
from bi_harness.workload.checkplan import CheckPlan
from bi_harness.workload.plan import Workload


class PlanTaker(CheckRecorder):
    """A recorder that takes what a check would send."""

    def __init__(self) -> None:
        self.plan: CheckPlan | None = None
        self.own = self.against_plain = self.restarted = False
        self.raised_: BaseException | None = None

    def begin(self) -> None:
        """Nothing is journaled."""

    def end(self) -> None:
        """Nothing is journaled."""

    def raised(self, error: BaseException) -> None:
        """Keep what was raised in place of sending something."""
        if not isinstance(error, pytest.skip.Exception):
            self.raised_ = error

    def compare(
        self,
        engine: Driven,
        what: CheckPlan | Workload,
        *,
        restarted: Callable[[], Driven] | None = None,
    ) -> Evidence:
        """Take the plan."""
        self.plan = what.bs1_vs_bsN() if isinstance(what, Workload) else what
        self.restarted = restarted is not None
        pytest.skip("taken")

    def compare_with_plain(
        self,
        plan: CheckPlan,
        *,
        arms: Sequence[ArmName],
        plain: Callable[[ArmName], Driven],
        own: Callable[[ArmName], Driven],
    ) -> None:
        """Take the plan."""
        self.plan, self.against_plain = plan, True
        pytest.skip("taken")

    def observe(self, arm: ArmName, facts: Sequence[Fact]) -> None:
        """Of no interest."""

    def conclude(self) -> None:
        """Nothing was compared."""
        pytest.skip("nothing to take")


class _NoEngine:
    """Stands where a check has its engine, until the plan is taken."""

    def speaking(self, *args: Any, **kwargs: Any) -> _NoEngine:
        """In any way."""
        return self


class LocalizeSession(SuiteSession):
    """A session whose checks are asked for their plans, and which then localizes one failure."""

    def __init__(self, spec: Spec, context: Context, journal: Journal, task: LocalizeTask) -> None:
        super().__init__(spec, context, journal)
        self._task, self._taker = task, PlanTaker()

    @staticmethod
    def open(options: Namespace) -> LocalizeSession:
        """From the runner's files.

        Raises:
            HarnessError: see ``SuiteSession.open``.
        """
        whole = SuiteSession.open(options)
        task = LocalizeTask.read(Path(options.bi_localize))
        return LocalizeSession(whole._spec, whole._context, whole._journal, task)

    def recorder(self, cell: Cell, path: Path, test: str) -> CheckRecorder:
        """The one that takes the plan."""
        return self._taker

    def engine(self, cell: Cell, path: Path, test: str, arm: ArmName) -> Client:
        """None is started for a check's sake."""
        return cast("Client", _NoEngine())

    def observe_choice(self, cell: Cell, recorder: CheckRecorder) -> None:
        """Not here."""

    def observe_kernels(self, cell: Cell, engine: EngineClient, recorder: CheckRecorder) -> None:
        """Not here."""

    def observe_ops(self, cell: Cell, path: Path, test: str, recorder: CheckRecorder) -> None:
        """Not here."""

    def starts(self, cell: Cell, path: Path, test: str) -> Starts:
        """Not here."""
        pytest.skip("a check that starts engines has no pair of requests")

    def finish(self) -> None:
        """Localize, and journal what came of it."""
        cell = next(s.cell for s in self._context.cells if s.cell.id == self._task.cell)
        self._journal.write(Localized(time=now(), localization=self._localize(cell)))

    def _localize(self, cell: Cell) -> Localization:
        task, taker = self._task, self._taker
        told = {"cell": task.cell, "check": task.check, "outcome": "failed"}
        if taker.plan is None:
            why = f": {taker.raised_}" if taker.raised_ is not None else ""
            return Localization(**told, reason=f"the check compares no requests that could be rerun{why}")
        if cell.dp > 1:
            return Localization(**told, reason="the modules of a data parallel engine are not watched")
        if not (task.subject < len(taker.plan.subjects) and task.arm < len(taker.plan.arms)):
            return Localization(**told, reason="the certificate names a request that the check does not send")
        case = Case(
            cell=task.cell,
            check=task.check,
            plan=taker.plan,
            subject=task.subject,
            arm=task.arm,
            compiled=cell.mode != "eager",
            restarted=taker.restarted,
        )
        suite = self._spec.suites[cell.suite]
        timeout_s = min(suite.timeouts.check_s, max(60.0, task.budget_s))
        return localize(case, self._starting(cell), budget_s=task.budget_s, timeout_s=timeout_s)

    def _starting(self, cell: Cell) -> Callable[[Callable[[EngineConfig], EngineConfig]], Any]:
        """What starts the check's engines: one, or the plain one and the check's own beside it."""
        suite = self._spec.suites[cell.suite]
        check = suite.check(self._task.check)
        count = 0

        def up(name: str, own: bool, change: Callable[[EngineConfig], EngineConfig]) -> EngineClient:
            config = change(self.engines.config(cell, "treatment", check if own else None))
            client = self.engines.library(config, safe_name(f"{cell.id}-localize-{name}"))
            client.spawn()
            return client

        @contextmanager
        def start(change: Callable[[EngineConfig], EngineConfig]) -> Iterator[Up]:
            nonlocal count
            count += 1
            with ExitStack() as stack:
                arm = stack.enter_context(up(f"{count}", check.own_engine, change))
                ready = arm.wait_ready(suite.timeouts.start_s)
                alone = arm
                if self._taker.against_plain:
                    if not arm.config.room_for_two:
                        raise EngineError("the plain engine and the check's own do not fit side by side")
                    alone = stack.enter_context(up(f"{count}-plain", False, change))
                    alone.wait_ready(suite.timeouts.start_s)
                yield Up(alone, arm, ready.effective)

        return start
