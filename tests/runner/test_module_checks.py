"""What a check of modules observes: the audit's steps, its controls, and answers that make no sense."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from bi_harness.certificate.modules import HOLDS
from bi_harness.certificate.ops import PLANTED
from bi_harness.errors import EngineDied, EngineError
from bi_harness.runner.module_checks import ModulesFound, audit
from bi_harness.spec.load import default_paths, load_spec
from bi_harness.spec.operators import ModuleAmount
from bi_harness.workload.plan import Workload, plan_workload
from tests.certificate.test_modules import BROKEN, DIFFERS, LINEAR, NORM
from tests.runner.test_recorder import Stub, make

_paths = default_paths(environ={})
SPEC = load_spec(_paths.models, _paths.hardware, _paths.suites)
SUITE = SPEC.suites["module_invariance"]
AMOUNT = ModuleAmount.of(SUITE, "smoke")
WORKLOAD: Workload = plan_workload(SPEC.models["qwen3-tiny"], SUITE, profile="smoke", seed=5)
HEAD = {"type": "ParallelLMHead", "name": "lm_head", "parameters": 1, "instances": 1, "through": "logits"}


def told(module: Any, **changes: Any) -> dict[str, Any]:
    data: dict[str, Any] = module.model_dump(mode="json")
    return {**data, **changes}


class Engine(Stub):
    """Answers an audit.

    Attributes:
        records: of ``measure``.
        answers: in place of what it would say to a step.
        steps: that it was asked for.
    """

    def __init__(self, *records: Any, arm: str = "treatment", **answers: Any) -> None:
        super().__init__(arm)
        self.records, self.answers = records, answers
        self.steps: list[tuple[str, dict[str, Any]]] = []

    def modules(self, ask: str, given: Mapping[str, Any], *, timeout_s: float) -> dict[str, Any]:
        self.steps.append((ask, dict(given)))
        if isinstance(answer := self.answers.get(ask), Exception):
            raise answer
        if answer is not None:
            return answer  # type: ignore[no-any-return]
        if ask == "captured":
            return {"calls": [f"m{i}" for i in range(len(self.records))]}
        if ask == "measure":
            return {"record": self.records[given["index"]]}
        return {"records": [HEAD]} if ask == "rest" else {}


def run(engine: Engine, *, control: bool = False) -> ModulesFound:
    return audit(engine, WORKLOAD, AMOUNT, control=control, timeout_s=60)


def test_the_requests_run_alone_and_together_between_the_first_look_and_the_measuring() -> None:
    engine = Engine(told(LINEAR), told(NORM))
    found = run(engine)
    assert [ask for ask, _ in engine.steps] == [
        *("begin", "arm", "arm", "captured", "measure", "measure", "rest", "end")
    ]
    assert [given["name"] for ask, given in engine.steps if ask == "arm"] == ["alone", "together, 12"]
    assert engine.sizes == [[1] * 12, [12]]
    assert engine.steps[4][1]["most_rows"] == AMOUNT.most_rows
    assert [module.type for module in found.modules] == ["RowParallelLinear", "RMSNorm", "ParallelLMHead"]
    assert [fact.found for fact in found.facts] == [
        *(HOLDS, HOLDS, "audited through logits", "0 of 12, by up to 0 ULP")
    ]


def test_logprobs_that_agree_are_told_beside_a_module_that_differs() -> None:
    found = run(Engine(told(DIFFERS)))
    assert found.facts[0].wrong
    assert (found.facts[-1].found, found.facts[-1].judged) == ("0 of 12, by up to 0 ULP", False)


def test_a_control_asks_for_planted_differences_and_tells_them() -> None:
    planted = {"what": "a bit", **{k: v for k, v in told(DIFFERS).items() if k in BROKEN}}
    engine = Engine(told(DIFFERS), told(NORM, planted=planted), arm="control")
    found = run(engine, control=True)
    assert all(given["planted"] for ask, given in engine.steps if ask in ("measure", "rest"))
    assert found.facts[0].found.startswith("differs from M = 2")
    assert found.facts[1].found.startswith(f"{PLANTED}a bit: differs")
    assert not any(fact.judged for fact in found.facts)


@pytest.mark.parametrize(
    "answers",
    [
        {"captured": {}},
        {"captured": {"calls": 3}},
        {"rest": {"records": None}},
        {"rest": {"records": [{"type": "x"}]}},
        {"rest": {"records": ["x"]}},
        {"measure": {}},
        {"measure": {"record": {**told(LINEAR), "more": 1}}},
        {"measure": {"record": {**told(LINEAR), "rows": -1}}},
        {"measure": {"record": {**told(LINEAR), "planted": {}}}},
    ],
)
def test_an_answer_that_makes_no_sense_is_an_engines_error(answers: dict[str, Any]) -> None:
    with pytest.raises(EngineError, match="the audit"):
        run(Engine(told(LINEAR), **answers))


def test_a_batch_that_never_formed_is_an_error() -> None:
    engine = Engine(told(LINEAR))
    engine.peak = 3
    with pytest.raises(EngineError, match=r"no batch of 12 formed \(3 requests at most\)"):
        run(engine)


def test_an_engine_that_dies_is_that_error() -> None:
    with pytest.raises(EngineDied):
        run(Engine(told(LINEAR), measure=EngineDied("gone")))


def test_the_recorder_takes_modules_once_and_journals_them() -> None:
    check = make()
    found = run(Engine(told(LINEAR), told(NORM)))
    check.recorder.observe("treatment", found.facts)
    check.recorder.audited(found.modules)
    with pytest.raises(RuntimeError, match="modules a second time"):
        check.recorder.audited(found.modules)
    # Not measured in the control: nothing was seen to differ.
    check.recorder.observe("control", run(Engine(told(LINEAR), told(NORM)), control=True).facts)
    result = check.end()
    assert result.modules == found.modules
    assert (result.status, result.reason[:15]) == ("inconclusive", "the control has")
