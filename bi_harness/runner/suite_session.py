"""The life of one pytest process over suites: its cells, its engines, and the record of its checks."""

from __future__ import annotations

import os
import sys
import tempfile
import time
from argparse import Namespace
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from bi_harness.certificate.events import CheckFinished, CheckProgress, CheckStarted, EngineReady, Event
from bi_harness.certificate.facts import facts_differ, facts_weakness
from bi_harness.certificate.modules import modules_weakness
from bi_harness.certificate.ops import ops_weakness
from bi_harness.certificate.records import (
    CheckResult,
    Evidence,
    Fact,
    ModuleResult,
    Needed,
    OpResult,
    PlantedControl,
    Status,
)
from bi_harness.compare.evidence import Arm, conclude, control_weakness, differs, gather, weakness
from bi_harness.engine.arms import References, needed, run_arm, scored
from bi_harness.engine.client import EngineClient
from bi_harness.engine.config import ArmName
from bi_harness.engine.protocol import StepSummary
from bi_harness.engine.server import Speaking
from bi_harness.errors import EngineError, UsageError
from bi_harness.invariance.faults.registry import PLANT_VARIABLE
from bi_harness.matrix.cells import Cell
from bi_harness.runner.ahead import Ahead
from bi_harness.runner.context import Context, SelectedCell
from bi_harness.runner.engines import Client, Driven, Engines, safe_name
from bi_harness.runner.journal import Journal, now
from bi_harness.runner.kernel_facts import chosen_kernels, kernels_of
from bi_harness.runner.module_checks import audit
from bi_harness.runner.op_checks import ArmFound, measure_ops
from bi_harness.runner.starts import Starts
from bi_harness.spec.load import EXPECTED, Spec, default_paths, load_spec
from bi_harness.spec.operators import ModuleAmount
from bi_harness.workload.checkplan import ArmPlan, CheckPlan, together
from bi_harness.workload.plan import Workload
from bi_harness.workload.requests import Request


class SuiteSession:
    """What the pytest plugin holds from configure to unconfigure."""

    def __init__(self, spec: Spec, context: Context, journal: Journal) -> None:
        self._spec = spec
        self._context = context
        self._journal = journal
        self.engines = Engines(spec, context, journal.write)
        self._references: dict[Driven, References] = {}
        self._plain: dict[tuple[str, str, ArmName], References] = {}
        self._ops: dict[Cell, dict[ArmName, ArmFound]] = {}

    @staticmethod
    def open(options: Namespace) -> SuiteSession:
        """From pytest's options: the runner's file, or the ``--bi-*`` options of a run by hand.

        Raises:
            HarnessError: when the options, the spec or the device do not allow it.
        """
        if options.bi_unit_file:
            context = Context.read(Path(options.bi_unit_file))
            if context.cores:
                os.sched_setaffinity(0, context.cores)  # the engines inherit it
            spec = load_spec(Path(context.models), Path(context.hardware), Path(context.suites))
            if dict(spec.digests) != context.spec_digests:
                raise UsageError("the YAML files changed since the run began; start it again")
        else:
            spec, context = _by_hand(options)
        return SuiteSession(spec, context, Journal(Path(context.journal), new=False))

    @property
    def controlled(self) -> bool:
        """Whether the control runs."""
        return self._context.control

    def cells_of(self, path: Path, test: str) -> list[Cell]:
        """The cells that the test function of that suite module was selected for."""
        name = self._check(path, test)
        return [s.cell for s in self._context.cells if s.cell.suite == path.parent.name and name in s.checks]

    def place(self, cell: Cell, path: Path, test: str) -> tuple[int, int]:
        """Where a check stands in the plan: cells in their order, their checks in that of ``suite.yaml``."""
        for index, selected in enumerate(self._context.cells):
            if selected.cell == cell:
                return index, selected.checks.index(self._check(path, test))
        raise ValueError(f"{cell.id} is not of this session")

    def recorder(self, cell: Cell, path: Path, test: str) -> CheckRecorder:
        """The recorder of one check on one cell."""
        suite = self._spec.suites[cell.suite]
        name = self._check(path, test)
        return CheckRecorder(
            cell,
            name,
            on_plain=not suite.check(name).own_engine,
            engines=self.engines,
            references=self._references,
            plain=self._plain,
            emit=self._journal.write,
            timeout_s=suite.timeouts.check_s,
            control_min_fraction=suite.control_min_fraction,
            beside=(lambda: self.engine(cell, path, test, "control")) if self._side_by_side(cell) else None,
        )

    def _side_by_side(self, cell: Cell) -> bool:
        """Whether both arms of a check may generate at once.

        Not on a CPU, whose cores each would take from the other; nor servers, where requests arrive by the
        clock; nor engines that checks start by themselves.
        """
        kind, suite = self._spec.devices[cell.device].kind, self._spec.suites[cell.suite]
        own = cell.suite in self._spec.startup
        return self._context.control and kind == "cuda" and suite.interface == "library" and not own

    def arms(self) -> tuple[ArmName, ...]:
        """Those that run."""
        return ("treatment", "control") if self._context.control else ("treatment",)

    def plain(self, cell: Cell, arm: ArmName) -> Client:
        """The engine that the suite's checks share, ready.

        Raises:
            EngineError: it did not start, or failed in an earlier check.
        """
        return self.engines.get(cell, arm)

    def engine(self, cell: Cell, path: Path, test: str, arm: ArmName) -> Client:
        """The engine of that arm for one check on one cell, ready.

        Raises:
            EngineError: it did not start, or failed in an earlier check.
        """
        check = self._spec.suites[cell.suite].check(self._check(path, test))
        return self.engines.get(cell, arm, check)

    def observe_choice(self, cell: Cell, recorder: CheckRecorder) -> None:
        """Have the recorder observe which NVFP4 kernels vLLM's selection takes.

        Raises:
            HarnessError: see ``chosen_kernels``.
        """
        chosen = chosen_kernels(self._spec, self._context, cell, self.arms())
        for arm, (facts, what) in chosen.items():
            self._journal.write(EngineReady(time=now(), arm=what, provenance={}))
            recorder.observe(arm, facts)

    def observe_kernels(self, cell: Cell, engine: EngineClient, recorder: CheckRecorder) -> None:
        """Have the recorder observe which NVFP4 kernels an engine's layers have.

        Raises:
            EngineError: it has none.
        """
        recorder.observe(engine.config.arm, kernels_of(self._spec, cell, engine.effective))

    def observe_ops(self, cell: Cell, path: Path, test: str, recorder: CheckRecorder) -> None:
        """Have the recorder observe the operators of the check's family, which has its name. The families of
        all the cell's checks are measured at once, when the first of them asks.

        Raises:
            HarnessError: the suite's profile is wrong, or something could not be measured.
        """
        if cell not in self._ops:
            (families,) = (s.checks for s in self._context.cells if s.cell == cell)
            self._ops[cell] = measure_ops(self._spec, self._context, cell, families, self.arms())
            for found in self._ops[cell].values():
                if found.effective is not None:
                    self._journal.write(
                        EngineReady(time=now(), arm=found.effective, provenance=found.provenance)
                    )
        family = self._check(path, test)
        for arm, found in self._ops[cell].items():
            log = os.path.relpath(found.log, self._context.run_dir)
            if (own := found.families.get(family)) is None:
                recorder.logged(log)
                raise found.error or EngineError(f"{family} was not measured")
            recorder.observe(arm, own.facts)
            if arm == "treatment":
                recorder.measured(own.ops)
            if own.errors:
                recorder.logged(log)
                more = f" (and {len(own.errors) - 1} more)" if len(own.errors) > 1 else ""
                raise EngineError(f"the {arm} could not measure {own.errors[0]}{more}")

    def observe_modules(self, cell: Cell, engine: EngineClient, recorder: CheckRecorder) -> None:
        """Have the recorder observe the modules of an engine's loaded model.

        Raises:
            HarnessError: the suite's profile is wrong, or the engine failed.
        """
        arm = engine.config.arm
        amount = ModuleAmount.of(self._spec.suites[cell.suite], self._context.profile)
        try:
            found = audit(
                engine,
                self.engines.workload(cell),
                amount,
                control=arm == "control",
                timeout_s=self._spec.suites[cell.suite].timeouts.check_s,
                progress=lambda done, of: recorder.progress(arm, done, of),
            )
        except EngineError as error:
            recorder.failed(engine, error)
            raise
        recorder.observe(arm, found.facts)
        if arm == "treatment":
            recorder.audited(found.modules)

    def starts(self, cell: Cell, path: Path, test: str) -> Starts:
        """For a check that starts engines by itself.

        Raises:
            pytest.UsageError: its suite has no ``expected.yaml``.
        """
        if cell.suite not in self._spec.startup:
            raise pytest.UsageError(f"suites/{cell.suite} has no {EXPECTED}: what are its starts to count?")
        name = safe_name(f"{cell.id}-{self._check(path, test)}")
        return Starts(
            self.engines,
            cell,
            Path(self._context.folder) / "starts" / name,
            controlled=self._context.control,
            expected=self._spec.startup[cell.suite],
            kind=self._spec.devices[cell.device].kind,
        )

    def finish(self) -> None:
        """All checks have run."""

    def close(self) -> None:
        """End the engines."""
        self.engines.close()

    def _check(self, path: Path, test: str) -> str:
        suite = self._spec.suites.get(path.parent.name)
        for check in suite.checks if suite else ():
            if check.test == f"{path.name}::{test}":
                return check.id
        raise pytest.UsageError(
            f"{path.parent.name}/suite.yaml names no check {path.name}::{test}: add it to its checks"
        )


class CheckRecorder:
    """Takes what a check finds, and journals exactly one result of it.

    A check calls ``compare`` once for the treatment and once for the control, then ``conclude``. Whatever it
    raises instead is an ``error``; ending without a conclusion is one too.
    """

    def __init__(
        self,
        cell: Cell,
        name: str,
        *,
        on_plain: bool,
        engines: Engines,
        references: dict[Driven, References],
        plain: dict[tuple[str, str, ArmName], References],
        emit: Callable[[Event], None],
        timeout_s: float,
        control_min_fraction: float,
        beside: Callable[[], Driven] | None = None,
    ) -> None:
        self._cell, self._name = cell, name
        self._beside = beside
        self._ahead: Ahead | None = None
        self._engines, self._emit = engines, emit
        self._on_plain, self._references, self._plain = on_plain, references, plain
        self._timeout_s, self._control_min_fraction = timeout_s, control_min_fraction
        self._evidence: dict[str, Evidence] = {}
        self._planted: PlantedControl | None = None
        self._facts: dict[str, tuple[Fact, ...]] = {}
        self._ops: tuple[OpResult, ...] = ()
        self._modules: tuple[ModuleResult, ...] = ()
        self._status: Status | None = None
        self._reason = ""
        self._error = ""
        self._log: str | None = None
        self._began = 0.0

    def begin(self) -> None:
        """The check begins, its engines' start included."""
        self._began = time.monotonic()
        self._emit(CheckStarted(time=now(), cell=self._cell.id, check=self._name))

    def compare(
        self,
        engine: Driven,
        what: CheckPlan | Workload,
        *,
        restarted: Callable[[], Driven] | None = None,
    ) -> Evidence:
        """Run every subject alone and then each arm on ``engine``, and compare bit by bit.

        Args:
            engine: the treatment or the control.
            what: the check.
            restarted: gives a fresh process of the same engine, on which the arms run in place of the first.

        Raises:
            EngineError: see ``EngineClient.generate``.
            RuntimeError: this arm was compared before, or the check has concluded: there is one chance.
        """
        arm_name = engine.config.arm
        self._once(arm_name)
        plan = what.bs1_vs_bsN() if isinstance(what, Workload) else what
        if self._ahead is not None and self._ahead.is_of(engine, plan):
            ahead, self._ahead = self._ahead, None
            try:
                self._evidence[arm_name] = ahead.result()
            except EngineError as error:
                self.failed(engine, error)
                raise
            self._plant(engine, plan)
            return self._evidence[arm_name]
        self._abandon()
        if arm_name == "treatment" and restarted is None:
            self._ahead = self._control_beside(engine, plan)
        self._evidence[arm_name] = self._compared(engine, plan, restarted, self.failed)
        self._plant(engine, plan)
        return self._evidence[arm_name]

    def _plant(self, engine: Driven, plan: CheckPlan) -> None:
        """Run the control once more with a planted difference, where it does not diverge by itself and
        nothing else stands in the way of a pass.

        Raises:
            EngineError: see ``EngineClient.generate``.
        """
        if self._wants_planted(engine):
            found = self._compared(engine, plan.with_planted(), None, self.failed)
            self._planted = PlantedControl(requests=plan.planted, evidence=found)

    def _wants_planted(self, engine: Driven) -> bool:
        treatment, control = self._evidence.get("treatment"), self._evidence.get("control")
        return (
            engine.config.arm == "control"
            and engine.plants
            and treatment is not None
            and control is not None
            and control.prompts == treatment.prompts
            and not (differs(treatment) or weakness(treatment))
            and bool(control_weakness(treatment, control, self._control_min_fraction))
        )

    def _control_beside(self, treatment: Driven, plan: CheckPlan) -> Ahead | None:
        """Have the control begin with the same plan; ``None`` where it cannot."""
        if self._beside is None or not treatment.config.room_for_two:
            return None
        try:
            engine = self._beside()
        except EngineError:
            return None  # Raised again when the check asks for it: it has no second start.
        # Engines are ended by the check's own thread, which takes what came of it.
        return Ahead(engine, plan, lambda: self._compared(engine, plan, None, lambda engine, error: None))

    def _abandon(self) -> None:
        """See the control at rest, where the check ended before it came to it, or asks for something else."""
        ahead, self._ahead = self._ahead, None
        if ahead is not None and (error := ahead.abandoned()) is not None:
            self.failed(ahead.engine, error)

    def _compared(
        self,
        engine: Driven,
        plan: CheckPlan,
        restarted: Callable[[], Driven] | None,
        failed: Callable[[Driven, EngineError], None],
    ) -> Evidence:
        arm_name = engine.config.arm
        course = _Course(self, engine, time.monotonic() + self._timeout_s, failed)
        references = self._references.setdefault(engine, References())
        if self._on_plain and not isinstance(engine, Speaking):
            # What a server gave in another way of speaking is its own reference, and nobody else's.
            self._plain[self._cell.unit_key, self._cell.suite, arm_name] = references
        alone = references.missing(plan.subjects)
        course.total = sum(len(arm.bursts) for arm in [*plan.arms, *([alone] if alone else ())])
        found: list[Arm] = []
        steps: list[StepSummary] = []

        def run_alone() -> None:
            if alone is not None:
                references.add(alone, *course.run(alone))

        if not plan.arms_first:
            run_alone()
        restarts = 0
        if restarted is not None:
            before = engine.pid
            course.engine = restarted()
            restarts = int(course.engine is not engine and course.engine.pid != before)
        for arm in plan.arms:
            if arm.scored:
                arm = scored(arm, plan.subjects, references.arm(plan.subjects).observations)
            result, summaries = course.run(arm)
            found.append(result)
            steps += summaries
        if plan.arms_first:
            run_alone()
        needs = needed(plan, steps)
        if restarted is not None:
            needs = (*needs, Needed(name="restarts", needed=1, reached=restarts))
        return gather(references.arm(plan.subjects), found, [len(r.prompt) for r in plan.subjects], needs)

    def compare_with_plain(
        self,
        plan: CheckPlan,
        *,
        arms: Sequence[ArmName],
        plain: Callable[[ArmName], Driven],
        own: Callable[[ArmName], Driven],
    ) -> None:
        """Run every subject alone on the engine that the suite's checks share, then each arm on the check's
        own, which is another one (it speculates, say), and compare bit by bit.

        What the plain engines gave is kept, so that they start once for all the checks of a suite.

        Args:
            plan: the check.
            arms: treatment and control, or the treatment alone.
            plain, own: start the engine of an arm. Both arms' plain engines are done before an own one.

        Raises:
            EngineError: see ``EngineClient.generate``.
            RuntimeError: as ``compare``.
        """
        deadline = time.monotonic() + self._timeout_s
        for arm in arms:
            self._once(arm)
            references = self._plain.setdefault((self._cell.unit_key, self._cell.suite, arm), References())
            if (alone := references.missing(plan.subjects)) is not None:
                course = _Course(self, plain(arm), deadline, self.failed, total=len(alone.bursts))
                references.add(alone, *course.run(alone))
        for arm in arms:
            engine = own(arm)
            self._evidence[arm] = self._against_plain(engine, plan, deadline)
            if self._wants_planted(engine):
                found = self._against_plain(engine, plan.with_planted(), deadline)
                self._planted = PlantedControl(requests=plan.planted, evidence=found)

    def _against_plain(self, engine: Driven, plan: CheckPlan, deadline: float) -> Evidence:
        """What the arms give on ``engine``, compared with the subjects alone on the plain engine of its arm.

        Raises:
            EngineError: see ``EngineClient.generate``.
        """
        course = _Course(self, engine, deadline, self.failed, sum(len(arm.bursts) for arm in plan.arms))
        ran = [course.run(arm) for arm in plan.arms]
        references = self._plain[self._cell.unit_key, self._cell.suite, engine.config.arm]
        return gather(
            references.arm(plan.subjects),
            [result for result, _ in ran],
            [len(r.prompt) for r in plan.subjects],
            needed(plan, [summary for _, summaries in ran for summary in summaries]),
        )

    def observe(self, arm: ArmName, facts: Sequence[Fact]) -> None:
        """Take what engines of that arm said of themselves. The check may compare bits, too, or not.

        Raises:
            RuntimeError: this arm was observed before, or the check has concluded.
        """
        if arm in self._facts or self._status is not None:
            raise RuntimeError(f"the check observes the {arm} a second time")
        self._facts[arm] = tuple(facts)

    def measured(self, ops: Sequence[OpResult]) -> None:
        """Take the operators that the treatment's facts are about.

        Raises:
            RuntimeError: some were taken before, or the check has concluded.
        """
        if self._ops or self._status is not None:
            raise RuntimeError("the check takes operators a second time")
        self._ops = tuple(ops)

    def audited(self, modules: Sequence[ModuleResult]) -> None:
        """Take the modules that the treatment's facts are about.

        Raises:
            RuntimeError: some were taken before, or the check has concluded.
        """
        if self._modules or self._status is not None:
            raise RuntimeError("the check takes modules a second time")
        self._modules = tuple(modules)

    def logged(self, log: str) -> None:
        """Name the log that tells more, relative to the run's folder, should the check be an error."""
        self._log = log

    def tell(self, arm: ArmName, facts: Sequence[Fact]) -> None:
        """Add facts for a reader, which are not judged.

        Raises:
            ValueError: one of them is judged; ``observe`` takes those.
            RuntimeError: nothing of this arm was observed yet, or the check has concluded.
        """
        if arm not in self._facts or self._status is not None:
            raise RuntimeError(f"the check has nothing of the {arm} to add to")
        if judged := [fact.name for fact in facts if fact.judged]:
            raise ValueError(f"{judged[0]} is judged, and is to be observed")
        self._facts[arm] += tuple(facts)

    def beside(self, engine: EngineClient, subjects: Sequence[Request], reference: EngineClient) -> Evidence:
        """What the subjects alone give on another engine, against what they gave alone on ``reference``: for
        a reader, and no part of the conclusion.

        Raises:
            EngineError: see ``EngineClient.generate``.
            KeyError: they did not run alone on ``reference``.
        """
        alone = together("alone", subjects, 1)
        course = _Course(self, engine, time.monotonic() + self._timeout_s, self.failed, len(alone.bursts))
        found, _ = course.run(alone)
        return gather(self._references[reference].arm(subjects), [found], [len(r.prompt) for r in subjects])

    def _once(self, arm: ArmName) -> None:
        if arm in self._evidence or self._status is not None:
            raise RuntimeError(f"the check compares the {arm} a second time")

    def progress(self, arm: str, done: int, of: int) -> None:
        """Say how far the check is."""
        self._emit(CheckProgress(time=now(), cell=self._cell.id, check=self._name, arm=arm, done=done, of=of))

    def failed(self, engine: Driven, error: EngineError) -> None:
        """An engine failed in the check."""
        self._engines.failed(engine, error)

    def conclude(self) -> None:
        """Decide the status from what was compared.

        Raises:
            RuntimeError: when it was decided before.
            pytest.fail.Exception: when it is not a pass, with the reason.
        """
        if self._status is not None:
            raise RuntimeError("the check concludes a second time")
        self._status, self._reason = self._conclusion()
        if self._status == "skip":
            pytest.skip(self._reason)
        if self._status != "pass":
            pytest.fail(f"{self._status}: {self._reason}", pytrace=False)

    def _conclusion(self) -> tuple[Status, str]:
        treatment, facts = self._evidence.get("treatment"), self._facts.get("treatment", ())
        if reason := facts_differ(facts):
            return "fail", reason
        if self._ops and all(op.missing for op in self._ops):
            return "skip", f"this vLLM has none of its operators here: {self._ops[0].missing}"
        status: Status = "pass"
        if treatment is not None:
            status, reason = conclude(
                treatment,
                self._evidence.get("control"),
                control_min_fraction=self._control_min_fraction,
                planted=self._planted,
            )
        elif not facts:
            return "inconclusive", "the check compared nothing with invariance on"
        # Beside evidence, facts may be there to be told alone.
        judged = treatment is None or any(fact.judged for fact in facts)
        if status == "pass" and judged and (why := facts_weakness(facts, self._facts.get("control", ()))):
            return "inconclusive", why
        if status == "pass" and (why := ops_weakness(self._ops, facts, self._facts.get("control", ()))):
            return "inconclusive", why
        if status == "pass" and (
            why := modules_weakness(self._modules, facts, self._facts.get("control", ()))
        ):
            return "inconclusive", why
        return status, reason

    def raised(self, error: BaseException) -> None:
        """Something was raised in set-up, call or tear-down."""
        if self._status not in (None, "pass") and isinstance(
            error, pytest.fail.Exception | pytest.skip.Exception
        ):
            return  # conclude() said so itself
        if isinstance(error, EngineError):
            self._log = self._log or self._engines.log()
        self._error = self._error or str(error).strip() or type(error).__name__

    def end(self) -> None:
        """Journal the result."""
        self._abandon()
        status, reason = self._status, self._reason
        treatment = self._evidence.get("treatment")
        if self._error:
            status, reason = "error", self._error
            facts = self._facts.get("treatment", ())
            if difference := (differs(treatment) if treatment is not None else "") or facts_differ(facts):
                # What already differed stays a failure, whatever happened afterwards.
                status, reason = "fail", f"{difference}; then: {self._error}"
        elif status is None:
            status, reason = "error", "the check ended without a conclusion"
        self._emit(
            CheckFinished(
                time=now(),
                result=CheckResult(
                    cell=self._cell.id,
                    check=self._name,
                    status=status,
                    reason=reason[:4000],
                    evidence=treatment,
                    control=self._evidence.get("control"),
                    planted_control=self._planted,
                    facts=self._facts.get("treatment", ()),
                    control_facts=self._facts.get("control", ()),
                    ops=self._ops,
                    modules=self._modules,
                    log=self._log,
                    duration_s=round(time.monotonic() - self._began, 3),
                ),
            )
        )


@dataclass
class _Course:
    """The arms of one comparison, one after the other, within one limit of time."""

    recorder: CheckRecorder
    engine: Driven
    deadline: float
    failed: Callable[[Driven, EngineError], None]
    total: int = 0
    done: int = 0

    def run(self, arm: ArmPlan) -> tuple[Arm, tuple[StepSummary, ...]]:
        """Run one arm.

        Raises:
            EngineError: see ``EngineClient.generate``.
        """
        engine, before = self.engine, self.done

        def progress(bursts: int, _: int) -> None:
            self.recorder.progress(engine.config.arm, before + bursts, self.total)

        try:
            result = run_arm(
                engine, arm, timeout_s=max(0.0, self.deadline - time.monotonic()), progress=progress
            )
        except EngineError as error:
            self.failed(engine, error)
            raise
        self.done += len(arm.bursts)
        return result


def _by_hand(options: Namespace) -> tuple[Spec, Context]:
    from bi_harness.device.detect import detect
    from bi_harness.device.engine_probe import probe_engine
    from bi_harness.device.match import match_device
    from bi_harness.matrix.expand import expand
    from bi_harness.matrix.select import select
    from bi_harness.runner.caches import model_cache

    paths = default_paths()
    spec = load_spec(paths.models, paths.hardware, paths.suites)
    host = detect()
    device = match_device(options.bi_device, spec.devices, host)
    python = options.bi_engine_python or sys.executable
    vllm = probe_engine(python).vllm_version
    plan = expand(
        spec,
        device,
        vllm_version=vllm or spec.reference(device),
        profile=options.bi_profile,
        weights=options.bi_weights,
        layers=options.bi_layers,
        gpus=len(host.gpus) if spec.devices[device].kind == "cuda" else None,
        models=options.bi_model,
        backends=options.bi_backend,
        modes=options.bi_mode,
    )
    selection = select(plan, spec)
    cells = tuple(SelectedCell(p.cell, selection.checks[p.cell.id]) for p in plan.cells if p.status == "run")
    folder = Path(tempfile.mkdtemp(prefix="bi-harness-"))
    sys.stderr.write(f"bi-harness: journal and logs in {folder}\n")
    return spec, Context(
        device=device,
        cells=cells,
        profile=options.bi_profile,
        weights=options.bi_weights,
        layers=options.bi_layers,
        seed=options.bi_seed,
        engine_python=python,
        models=str(paths.models),
        hardware=str(paths.hardware),
        suites=str(paths.suites),
        spec_digests=dict(spec.digests),
        folder=str(folder / "work"),
        logs=str(folder / "logs"),
        run_dir=str(folder),
        journal=str(folder / "events.jsonl"),
        model_cache=str(model_cache(os.environ)),
        vllm=vllm or "",
        # Stock vLLM is the same with and without a planted fault.
        control=not os.environ.get(PLANT_VARIABLE),
    )
