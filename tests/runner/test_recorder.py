"""What a check's recorder makes of engines that restart, of arms that come first, and of arms that score."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from bi_harness.certificate.events import CheckFinished, Event
from bi_harness.certificate.records import CheckResult, Fact
from bi_harness.compare.observations import Observations
from bi_harness.engine.client import Burst
from bi_harness.engine.protocol import StepSummary
from bi_harness.errors import EngineDied, EngineError, EngineStartError
from bi_harness.invariance.faults.registry import PLANT_VARIABLE
from bi_harness.matrix.cells import Cell
from bi_harness.runner.run import RunOptions
from bi_harness.runner.suite_session import CheckRecorder
from bi_harness.workload.checkplan import CheckPlan, together
from bi_harness.workload.prompts import make_requests
from bi_harness.workload.requests import Limits, Member, Request
from tests.runner.standin import Outcome, Standin

STEPS = 3
SUBJECTS = make_requests(seed=1, count=4, steps=STEPS, top_k=1, vocab_size=99, longest=9)
PLAN = CheckPlan(SUBJECTS, (together("pairs", SUBJECTS, 2),))


class Stub:
    """An engine: its bits are of the prompt alone, with ``off`` of the batch too.

    Attributes:
        asked: for each call the requests and the sizes of the bursts.
        wrong: added to all it gives.
        score_wrong: added to what it scores.
        error: raised in the call of that number, from 0.
        plants: whether a difference can be planted in it.
        planted: what was planted in each call.
    """

    def __init__(self, arm: str = "treatment", pid: int = 1, *, off: bool | None = None) -> None:
        self.config = SimpleNamespace(arm=arm)
        self.pid = pid
        self.off = arm == "control" if off is None else off
        self.asked: list[tuple[tuple[Request, ...], list[int]]] = []
        self.wrong = self.score_wrong = 0.0
        self.plants = True
        self.planted: list[str | None] = []
        self.peak: int | None = None
        self.error: tuple[int, EngineError] | None = None

    def generate(
        self,
        requests: Sequence[Request],
        bursts: Sequence[Sequence[Member]],
        *,
        timeout_s: float,
        progress: Callable[[int, int], None] = lambda done, of: None,
        limits: Limits | None = None,
    ) -> Burst:
        first = not self.asked
        self.planted.append(limits.planted if limits is not None else None)
        self.asked.append((tuple(requests), [len(burst) for burst in bursts]))
        if self.error is not None and len(self.asked) == self.error[0] + 1:
            raise self.error[1]
        size = max(len(burst) for burst in bursts)
        width = max(r.observed for r in requests)
        shape = (len(requests), width, 2)
        logprobs = np.full(shape, -1.0 - (size if self.off else 0) + self.wrong, np.float32)
        tokens = np.zeros(shape[:2], np.int32)
        for row, request in enumerate(requests):
            # What is scored was generated before: the tokens are in the prompt's end.
            made = request.prompt[-request.score :] if request.score else [sum(request.prompt) % 90] * width
            tokens[row] = made
            logprobs[row] -= tokens[row][:, None]
            logprobs[row] += self.score_wrong if request.score else 0.0
        if self.planted[-1] is not None and size > 1:
            logprobs = np.nextafter(logprobs, np.float32(0))
        for number in range(len(bursts)):
            progress(number + 1, len(bursts))
        peak = [len(burst) if self.peak is None else self.peak for burst in bursts]
        steps = tuple(
            StepSummary(width, p, 9, 0, 0, first_bursts=int(first and n == 0)) for n, p in enumerate(peak)
        )
        lengths = np.full(len(requests), width, np.int32)
        ids = np.zeros(shape, np.int32)
        ids[:, :, 0] = tokens
        return Burst(Observations(tokens, lengths, ids, logprobs), steps, 0.1)

    @property
    def sizes(self) -> list[list[int]]:
        return [sizes for _, sizes in self.asked]


class Engines:
    """Takes the engines that failed."""

    def __init__(self) -> None:
        self.gone: list[object] = []

    def failed(self, client: object, error: EngineError) -> None:
        self.gone.append(client)

    def log(self) -> str | None:
        return "logs/engine.log" if self.gone else None


@dataclass
class Check:
    """A recorder, and what it journals."""

    recorder: CheckRecorder
    events: list[Event]
    engines: Engines

    def compare(self, engine: Stub, plan: CheckPlan = PLAN, **more: Any) -> Any:
        return self.recorder.compare(engine, plan, **more)  # type: ignore[arg-type]

    def end(self) -> CheckResult:
        """Conclude, and give the result."""
        try:
            self.recorder.conclude()
        except pytest.fail.Exception as error:
            self.recorder.raised(error)
        return self.result()

    def raises(self, kind: type[BaseException], act: Callable[[], object]) -> CheckResult:
        with pytest.raises(kind) as caught:
            act()
        self.recorder.raised(caught.value)
        return self.result()

    def result(self) -> CheckResult:
        self.recorder.end()
        (event,) = [event for event in self.events if isinstance(event, CheckFinished)]
        return event.result


def make(
    references: dict[Any, Any] | None = None,
    plain: dict[Any, Any] | None = None,
    *,
    on_plain: bool = True,
) -> Check:
    events: list[Event] = []
    engines = Engines()
    recorder = CheckRecorder(
        Cell("cpu", "tiny", "CPU_ATTN", 1, 1, "eager", "core"),
        "one",
        on_plain=on_plain,
        engines=engines,  # type: ignore[arg-type]
        references={} if references is None else references,
        plain={} if plain is None else plain,
        emit=events.append,
        timeout_s=60,
        control_min_fraction=0.5,
    )
    recorder.begin()
    return Check(recorder, events, engines)


@pytest.fixture
def check() -> Check:
    return make()


def test_alone_comes_before_the_arms(check: Check) -> None:
    engine = Stub()
    check.compare(engine)
    assert engine.sizes == [[1, 1, 1, 1], [2, 2]]
    check.compare(Stub("control"))
    assert check.end().status == "pass"


def test_arms_that_come_first_do(check: Check) -> None:
    engine = Stub()
    plan = replace(PLAN, arms_first=True, needs=(("first_bursts", 1),))
    evidence = check.compare(engine, plan)
    assert engine.sizes == [[2, 2], [1, 1, 1, 1]]
    assert [batch.name for batch in evidence.batches] == ["alone", "pairs"]
    assert (evidence.needed[0].reached, evidence.differing_prompts) == (1, 0)
    check.compare(Stub("control"), plan)
    assert check.end().status == "pass"


def test_arms_that_come_first_are_compared_all_the_same(check: Check) -> None:
    check.compare(Stub(off=True), replace(PLAN, arms_first=True))
    check.compare(Stub("control"), replace(PLAN, arms_first=True))
    result = check.end()
    assert (result.status, result.evidence and result.evidence.differing_prompts) == ("fail", 4)


def test_first_arms_on_an_engine_that_has_served_before_show_nothing() -> None:
    engine, plan = Stub(), replace(PLAN, arms_first=True, needs=(("first_bursts", 1),))
    references: dict[Any, Any] = {}
    make(references).compare(engine)
    check = make(references)
    check.compare(engine, plan)
    check.compare(Stub("control"), plan)
    result = check.end()
    assert result.status == "inconclusive"
    assert "first_bursts: 0" in result.reason


def test_what_ran_alone_on_an_engine_is_not_run_again_whichever_comes_first() -> None:
    for first in (True, False):
        engine, references = Stub(), {}
        make(references).compare(engine, replace(PLAN, arms_first=first))
        make(references).compare(engine, replace(PLAN, arms_first=not first))
        assert sorted(engine.sizes) == [[1, 1, 1, 1], [2, 2], [2, 2]]


def test_what_ran_alone_on_another_engine_does_not_count() -> None:
    references: dict[Any, Any] = {}
    make(references).compare(Stub())
    other = Stub()
    make(references).compare(other)
    assert other.sizes == [[1, 1, 1, 1], [2, 2]]


def test_after_a_restart_the_arms_run_on_the_new_process_against_the_old_one_alone(check: Check) -> None:
    old, new = Stub(pid=1), Stub(pid=2)
    evidence = check.compare(old, restarted=lambda: new)
    assert (old.sizes, new.sizes) == ([[1, 1, 1, 1]], [[2, 2]])
    assert [(n.name, n.needed, n.reached) for n in evidence.needed] == [("restarts", 1, 1)]
    check.compare(Stub("control"))
    assert check.end().status == "pass"


def test_a_fresh_process_that_gives_other_bits_is_a_failure(check: Check) -> None:
    new = Stub(pid=2)
    new.wrong = 0.5
    check.compare(Stub(pid=1), restarted=lambda: new)
    check.compare(Stub("control"))
    result = check.end()
    assert (result.status, result.evidence and result.evidence.differing_prompts) == ("fail", 4)


def no_restart(old: Stub) -> dict[str, Stub]:
    return {"the same engine": old, "another handle on the same process": Stub(pid=old.pid)}


@pytest.mark.parametrize("which", ["the same engine", "another handle on the same process"])
def test_a_restart_that_is_none_shows_nothing(check: Check, which: str) -> None:
    old = Stub(pid=1)
    check.compare(old, restarted=lambda: no_restart(old)[which])
    check.compare(Stub("control"))
    result = check.end()
    assert result.status == "inconclusive"
    assert "restarts: 0" in result.reason


def test_a_process_id_that_is_read_after_the_end_is_not_mistaken(check: Check) -> None:
    old, new = Stub(pid=1), Stub(pid=2)

    def restart() -> Stub:
        old.pid = None  # type: ignore[assignment]
        return new

    assert check.compare(old, restarted=restart).needed[0].reached == 1


def test_a_restart_that_fails_is_an_error(check: Check) -> None:
    def restart() -> Stub:
        raise EngineStartError("not again")

    result = check.raises(EngineStartError, lambda: check.compare(Stub(), restarted=restart))
    assert (result.status, result.reason, result.evidence) == ("error", "not again", None)


def test_the_engine_that_failed_is_the_new_one(check: Check) -> None:
    old, new = Stub(pid=1), Stub(pid=2)
    new.error = (0, EngineDied("killed by SIGKILL"))
    result = check.raises(EngineDied, lambda: check.compare(old, restarted=lambda: new))
    assert check.engines.gone == [new]
    assert (result.status, result.reason, result.log) == ("error", "killed by SIGKILL", "logs/engine.log")


def test_arms_that_come_first_run_on_the_new_process_too(check: Check) -> None:
    old, new = Stub(pid=1), Stub(pid=2)
    check.compare(old, replace(PLAN, arms_first=True), restarted=lambda: new)
    assert old.sizes == []
    assert new.sizes == [[2, 2], [1, 1, 1, 1]]


def scoring(*names: str) -> CheckPlan:
    arms = tuple(replace(together(name, SUBJECTS, 2), scored=True) for name in names)
    return CheckPlan(SUBJECTS, arms)


def test_an_arm_that_scores_sends_what_was_generated_alone(check: Check) -> None:
    engine = Stub()
    evidence = check.compare(engine, scoring("scored"))
    alone, sent = engine.asked[0][0], engine.asked[1][0]
    for subject, request in zip(alone, sent, strict=True):
        made = (sum(subject.prompt) % 90,) * STEPS
        assert request.prompt == subject.prompt + made
        assert (request.score, request.max_tokens) == (STEPS, 1)
        assert (request.temperature, request.seed) == (0.0, None)
    assert (evidence.prompts, evidence.steps, evidence.differing_prompts) == (4, 4 * STEPS, 0)
    check.compare(Stub("control"), scoring("scored"))
    assert check.end().status == "pass"


def test_a_score_that_differs_is_a_failure(check: Check) -> None:
    engine = Stub()
    engine.score_wrong = 0.25
    check.compare(engine, scoring("scored"))
    check.compare(Stub("control"), scoring("scored"))
    result = check.end()
    assert (result.status, result.evidence and result.evidence.differing_prompts) == ("fail", 4)


def test_each_engine_scores_what_it_made_itself(check: Check) -> None:
    treatment, control = Stub(), Stub("control")
    check.compare(treatment, scoring("a", "b"))
    check.compare(control, scoring("a", "b"))
    assert treatment.sizes == control.sizes == [[1, 1, 1, 1], [2, 2], [2, 2]]
    assert [r.score for requests, _ in control.asked for r in requests] == [0] * 4 + [STEPS] * 8


def test_scoring_before_anything_was_generated_is_an_error_and_no_pass(check: Check) -> None:
    plan = replace(scoring("scored"), arms_first=True)
    result = check.raises(KeyError, lambda: check.compare(Stub(), plan))
    assert (result.status, result.evidence) == ("error", None)


def test_an_arm_that_scores_has_no_neighbours(check: Check) -> None:
    arm = replace(together("scored", SUBJECTS, 2), scored=True)
    plan = CheckPlan(SUBJECTS[:2], (replace(arm, subjects=(0, 1)),))
    result = check.raises(ValueError, lambda: check.compare(Stub(), plan))
    assert result.status == "error"
    assert "no neighbours" in result.reason


class Pair:
    """Starts the engines of both arms when they are asked for, and remembers the order."""

    def __init__(self) -> None:
        self.order: list[str] = []
        self.engines = {(kind, arm): Stub(arm) for kind in ("plain", "own") for arm in ARMS}

    def start(self, kind: str) -> Callable[[str], Stub]:
        def engine(arm: str) -> Stub:
            self.order.append(f"{kind} {arm}")
            return self.engines[kind, arm]

        return engine

    def compare(self, check: Check, arms: Sequence[str] = ("treatment", "control")) -> None:
        plain: Any = self.start("plain")
        check.recorder.compare_with_plain(PLAN, arms=arms, plain=plain, own=self.start("own"))  # type: ignore[arg-type]


ARMS = ("treatment", "control")


def test_plain_engines_run_alone_and_the_checks_own_run_the_arms() -> None:
    check, pair = make(on_plain=False), Pair()
    pair.compare(check)
    # One kind of engine after the other: each kind is started once.
    assert pair.order == ["plain treatment", "plain control", "own treatment", "own control"]
    for arm in ARMS:
        assert pair.engines["plain", arm].sizes == [[1, 1, 1, 1]]
        assert pair.engines["own", arm].sizes == [[2, 2]]
    result = check.end()
    assert result.evidence is not None
    assert (result.status, result.evidence.prompts) == ("pass", 4)


def test_an_engine_that_gives_other_bits_than_the_plain_one_is_a_failure() -> None:
    check, pair = make(on_plain=False), Pair()
    pair.engines["own", "treatment"].wrong = 0.5
    pair.compare(check)
    result = check.end()
    assert (result.status, result.evidence and result.evidence.differing_prompts) == ("fail", 4)


@pytest.mark.parametrize("plants", [True, False])
def test_a_control_that_gives_the_plain_ones_bits_needs_a_planted_difference(plants: bool) -> None:
    check, pair = make(on_plain=False), Pair()
    own = pair.engines["own", "control"]
    own.off, own.plants = False, plants
    for arm in ARMS:
        pair.engines["plain", arm].off = False
    pair.compare(check)
    result = check.end()
    assert result.status == ("pass" if plants else "inconclusive")
    assert (result.planted_control is not None) == plants
    assert own.planted == ([None, "together"] if plants else [None])


def test_what_the_plain_engines_gave_before_is_not_asked_for_again() -> None:
    plain: dict[Any, Any] = {}
    shared, first = make(plain=plain), Pair()
    for arm in ARMS:
        shared.compare(first.engines["plain", arm])
    pair = Pair()
    pair.compare(make(plain=plain, on_plain=False))
    assert pair.order == ["own treatment", "own control"]


def test_what_a_checks_own_engine_gave_is_not_what_the_plain_one_gives() -> None:
    plain: dict[Any, Any] = {}
    make(plain=plain, on_plain=False).compare(Stub())
    pair = Pair()
    pair.compare(make(plain=plain, on_plain=False))
    assert "plain treatment" in pair.order


def test_against_plain_there_is_one_chance_too() -> None:
    check, pair = make(on_plain=False), Pair()
    pair.compare(check)
    result = check.raises(RuntimeError, lambda: pair.compare(check))
    assert result.status == "error"


def test_without_a_control_nothing_of_it_is_started() -> None:
    check, pair = make(on_plain=False), Pair()
    pair.compare(check, arms=("treatment",))
    assert pair.order == ["plain treatment", "own treatment"]
    assert check.end().status == "inconclusive"


KERNEL = Fact(name="kernel", found="Emulation", expected=("Emulation",))
OTHER = KERNEL.model_copy(update={"found": "Marlin"})


@pytest.mark.parametrize(
    ("facts", "control", "status"),
    [
        ([KERNEL], [OTHER], "pass"),
        ([OTHER], [OTHER], "fail"),
        ([KERNEL], [KERNEL], "inconclusive"),
        ([KERNEL], [], "inconclusive"),
        ([], [OTHER], "inconclusive"),
    ],
)
def test_facts_conclude_a_check_that_compares_no_bits(
    check: Check, facts: list[Fact], control: list[Fact], status: str
) -> None:
    check.recorder.observe("treatment", facts)
    check.recorder.observe("control", control)
    result = check.end()
    assert (result.status, result.evidence) == (status, None)
    assert (result.facts, result.control_facts) == (tuple(facts), tuple(control))


@pytest.mark.parametrize(
    ("wrong", "facts", "status"), [(0.0, OTHER, "fail"), (0.5, KERNEL, "fail"), (0.0, KERNEL, "pass")]
)
def test_of_bits_and_facts_both_must_hold(check: Check, wrong: float, facts: Fact, status: str) -> None:
    engine = Stub(off=bool(wrong))
    check.compare(engine)
    check.compare(Stub("control"))
    check.recorder.observe("treatment", [facts])
    check.recorder.observe("control", [OTHER])
    assert check.end().status == status


def test_a_wrong_fact_stays_a_failure_whatever_happens_afterwards(check: Check) -> None:
    check.recorder.observe("treatment", [OTHER])
    check.recorder.raised(EngineDied("killed"))
    result = check.result()
    assert (result.status, result.facts) == ("fail", (OTHER,))
    assert "then: killed" in result.reason


def test_facts_are_observed_once(check: Check) -> None:
    check.recorder.observe("treatment", [KERNEL])
    result = check.raises(RuntimeError, lambda: check.recorder.observe("treatment", [OTHER]))
    assert result.status == "error"


def test_what_is_told_is_added_and_judges_nothing(check: Check) -> None:
    told = Fact(name="start", found="12 s")
    with pytest.raises(RuntimeError, match="nothing of the treatment"):
        check.recorder.tell("treatment", [told])
    check.recorder.observe("treatment", [KERNEL])
    with pytest.raises(ValueError, match="kernel is judged"):
        check.recorder.tell("treatment", [told, KERNEL])
    check.recorder.tell("treatment", [told])
    check.recorder.observe("control", [OTHER])
    result = check.end()
    assert (result.status, result.facts) == ("pass", (KERNEL, told))
    with pytest.raises(RuntimeError):
        check.recorder.tell("treatment", [told])


def test_another_engine_is_compared_beside_and_concludes_nothing(check: Check) -> None:
    engine, other = Stub(), Stub()
    check.compare(engine)
    check.compare(Stub("control"))
    other.wrong = 0.5
    evidence = check.recorder.beside(other, SUBJECTS, engine)  # type: ignore[arg-type]
    assert (evidence.prompts, evidence.differing_prompts) == (4, 4)
    assert other.sizes == [[1, 1, 1, 1]]
    result = check.end()
    assert result.status == "pass"
    assert result.evidence is not None
    assert result.evidence.differing_prompts == 0


def test_an_engine_that_fails_beside_is_an_error(check: Check) -> None:
    engine, other = Stub(), Stub()
    check.compare(engine)
    other.error = (0, EngineDied("killed"))
    result = check.raises(EngineDied, lambda: check.recorder.beside(other, SUBJECTS, engine))  # type: ignore[arg-type]
    assert result.status == "error"
    assert check.engines.gone == [other]


def test_progress_counts_alone_and_arms_in_any_order() -> None:
    for first in (True, False):
        check = make()
        check.compare(Stub(), replace(PLAN, arms_first=first))
        done = [(e.arm, e.done, e.of) for e in check.events if e.type == "check_progress"]
        assert done == [("treatment", n, 6) for n in range(1, 7)]


def test_without_a_control_equality_is_never_a_pass(check: Check) -> None:
    check.compare(Stub())
    result = check.end()
    assert (result.status, result.control) == ("inconclusive", None)
    assert "did not run" in result.reason


def test_without_a_control_a_difference_is_a_failure(check: Check) -> None:
    check.compare(Stub(off=True))
    assert check.end().status == "fail"


def uncontrolled(standin: Standin, fixtures: str = "control", **tests: str) -> Outcome:
    """Run a unit whose context says that no control runs; the checks ask for the fixture."""
    standin.write(**tests)
    path = standin.suite / "test_core.py"
    path.write_text(re.sub(r"(def test_\w+\()cell", rf"\1{fixtures}, cell", path.read_text()))
    task = standin.task()
    told = replace(task, context=replace(task.context, control=False))
    standin.task = lambda timeout_s=60: told  # type: ignore[method-assign]
    return standin.unit()


ENDS_THERE = "check.compare(Stub('treatment'), workload)\ncontrol()\n"
NO_CONTROL = {
    "asks for it": "check.compare(Stub('treatment'), workload)\ncheck.compare(control(), workload)\n"
    "check.conclude()",
    "goes on": ENDS_THERE + "os._exit(0)",
    "swallows the end and compares": (
        "check.compare(Stub('treatment'), workload)\ntry:\n    control()\nexcept BaseException:\n    pass\n"
        "check.compare(Stub('control'), workload)\ncheck.conclude()"
    ),
    "swallows the end": "check.compare(Stub('treatment'), workload)\n"
    "try:\n    control()\nexcept BaseException:\n    pass",
    "asks twice": "check.compare(Stub('treatment'), workload)\n"
    "try:\n    control()\nexcept BaseException:\n    control()",
    "asks before it compares": "control()\ngood(check, workload)",
    "expects a failure": f"@pytest.mark.xfail\n---\n{ENDS_THERE}",
    "skips": "try:\n    control()\nfinally:\n    pytest.skip('no')",
}


def test_a_run_without_a_control_is_never_certified(standin: Standin) -> None:
    names = {f"n{number}": body for number, body in enumerate(NO_CONTROL.values())}
    outcome = uncontrolled(standin, **names)
    assert outcome.verdict == "INCONCLUSIVE"
    for what, name in zip(NO_CONTROL, names, strict=True):
        result = outcome.results[name]
        assert result.status in ("inconclusive", "error"), f"{what}: {result.status}: {result.reason}"
        assert result.control is None, what
    first = outcome.results["n0"]
    assert (first.status, first.reason) == ("inconclusive", "the control (invariance off) did not run")
    assert first.evidence is not None
    assert outcome.results["n5"].reason == "the check compared nothing with invariance on"
    assert not [e for e in outcome.events if e.type == "engine_ready"], "no engine was started for it"


def test_a_difference_fails_a_run_without_a_control(standin: Standin) -> None:
    body = "check.compare(Stub('treatment', sound=False), workload)\ncontrol()"
    outcome = uncontrolled(
        standin, one=body, two=f"try:\n    {body.splitlines()[0]}\nfinally:\n    control()"
    )
    assert {result.status for result in outcome.results.values()} == {"fail"}
    assert outcome.verdict == "NOT_CERTIFIED"


def test_nothing_can_be_restarted_that_is_not_up(standin: Standin) -> None:
    body = "up = Stub('treatment')\nup.pid = 1\ncheck.compare(up, workload, restarted=restarted)"
    outcome = uncontrolled(standin, "restarted", one=body)
    assert outcome.results["one"].status == "error"
    assert "is not up, so it cannot be restarted" in outcome.results["one"].reason


def test_a_fault_is_in_the_environment_of_the_units_process(
    standin: Standin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(PLANT_VARIABLE, raising=False)
    body = f"assert os.environ.get('{PLANT_VARIABLE}') == 'norm-256'\ngood(check, workload)"
    standin.write(one=body)
    planted = RunOptions(device="cpu", out=tmp_path, fault="norm-256").environment()
    assert standin.unit(environ=planted).results["one"].status == "pass"
    assert standin.unit().results["one"].status == "error"


def test_a_control_that_diverges_by_itself_gets_no_planted_difference(check: Check) -> None:
    control = Stub("control")
    check.compare(Stub())
    check.compare(control)
    result = check.end()
    assert (result.status, result.planted_control) == ("pass", None)
    assert control.planted == [None, None]


def test_a_control_that_agrees_runs_its_arms_again_with_a_planted_difference(check: Check) -> None:
    treatment, control = Stub(), Stub("control", off=False)
    check.compare(treatment)
    check.compare(control)
    result = check.end()
    assert result.status == "pass"
    assert (treatment.planted, control.planted) == ([None, None], [None, None, "together"])
    assert control.sizes == [[1, 1, 1, 1], [2, 2], [2, 2]]  # what ran alone is not run again
    assert result.control is not None
    assert result.control.differing_prompts == 0
    assert result.planted_control is not None
    assert result.planted_control.requests == "together"
    assert result.planted_control.evidence.differing_prompts == 4


def test_a_planted_difference_that_nobody_sees_leaves_the_check_inconclusive(check: Check) -> None:
    class Deaf(Stub):
        def generate(self, *args: Any, limits: Limits | None = None, **kwargs: Any) -> Burst:
            return super().generate(*args, **kwargs)

    check.compare(Stub())
    check.compare(Deaf("control", off=False))
    result = check.end()
    assert result.status == "inconclusive"
    assert "a difference planted in it was seen in 0 of 4" in result.reason


def test_nothing_is_planted_where_the_check_fails_or_shows_nothing_anyway() -> None:
    for treatment in (Stub(off=True), Stub()):
        check = make()
        if not treatment.off:
            treatment.peak = 1  # the batch never formed
        control = Stub("control", off=False)
        check.compare(treatment)
        check.compare(control)
        assert check.end().status == ("fail" if treatment.off else "inconclusive")
        assert control.planted == [None, None]


def test_a_server_that_is_not_ours_gets_no_planted_difference(check: Check) -> None:
    control = Stub("control", off=False)
    control.plants = False
    check.compare(Stub())
    check.compare(control)
    result = check.end()
    assert (result.status, result.planted_control) == ("inconclusive", None)
    assert "no power" in result.reason


def test_an_engine_that_dies_with_a_planted_difference_is_an_error(check: Check) -> None:
    control = Stub("control", off=False)
    control.error = (2, EngineDied("it died"))
    check.compare(Stub())
    result = check.raises(EngineDied, lambda: check.compare(control))
    assert (result.status, result.reason) == ("error", "it died")
    assert check.engines.gone == [control]
