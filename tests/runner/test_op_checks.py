"""What a check of operators observes: the arms' processes, their controls, and what could not be measured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bi_harness.certificate.events import CheckFinished, EngineReady, Event
from bi_harness.certificate.ops import HOLDS, PLANTED, fact, name
from bi_harness.certificate.records import CheckResult, Fact, OpDifference, OpRange, OpResult
from bi_harness.certificate.statement import EffectiveArm
from bi_harness.engine.ops_client import OpRecord
from bi_harness.errors import EngineDied, EngineError
from bi_harness.invariance.faults.registry import PLANT_VARIABLE
from bi_harness.matrix.cells import Cell
from bi_harness.runner import op_checks, suite_session
from bi_harness.runner.context import Context, SelectedCell
from bi_harness.runner.op_checks import ArmFound, FamilyFound, ops_setup
from bi_harness.runner.suite_session import SuiteSession
from bi_harness.spec.load import default_paths, load_spec

_paths = default_paths(environ={})
SPEC = load_spec(_paths.models, _paths.hardware, _paths.suites)
CPU = Cell("cpu", "qwen3-tiny", "CPU_ATTN", 1, 1, "eager", "ops")
H200 = Cell("h200", "qwen3-1.7b", "FLASH_ATTN", 1, 1, "eager", "ops")

GOOD = OpResult(
    op="rms_norm",
    dtype="bfloat16",
    shape="256",
    judged=True,
    promised=False,
    rows=9,
    repeated=9,
    distance=0.5,
)
DIFFERS = GOOD.model_copy(
    update={
        "differing": 2,
        "first": OpDifference(rows=256, place=0, beside="random"),
        "ranges": (OpRange(first=256, last=256, holds=False),),
    }
)
GONE = OpResult(op="gone", dtype="bfloat16", judged=True, promised=True, missing="no such op")


def context(tmp_path: Path, cell: Cell = CPU, *, control: bool = True) -> Context:
    return Context(
        device=cell.device,
        cells=(SelectedCell(cell, ("gemm", "norm")),),
        profile="smoke",
        weights="named",
        layers=None,
        seed=0,
        engine_python="python",
        models="",
        hardware="",
        suites="",
        spec_digests={},
        folder=str(tmp_path / "unit" / "work"),
        logs=str(tmp_path / "logs"),
        run_dir=str(tmp_path),
        journal=str(tmp_path / "events.jsonl"),
        model_cache=str(tmp_path),
        control=control,
    )


def test_the_arms_differ_by_the_mode_of_the_device_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(PLANT_VARIABLE, "norm-256")
    on = ops_setup(SPEC, context(tmp_path), CPU, "treatment")
    off = ops_setup(SPEC, context(tmp_path), CPU, "control")
    assert (on.env["BI_HARNESS_CPU_INVARIANCE"], off.env["BI_HARNESS_CPU_INVARIANCE"]) == ("1", "0")
    assert (on.invariance, off.invariance) == (True, False)
    # A fault is planted in what is tested alone.
    assert (on.planted, off.planted) == ("norm-256", None)
    assert PLANT_VARIABLE not in off.env
    changed = {k for k in on.env.keys() | off.env.keys() if on.env.get(k) != off.env.get(k)}
    assert changed == {"BI_HARNESS_CPU_INVARIANCE", "VLLM_CACHE_ROOT", PLANT_VARIABLE}
    assert (on.backend, on.dtype, on.config["hidden_size"]) == ("CPU_ATTN", "bfloat16", 256)


def test_a_gpu_has_vllms_own_mode_and_its_capability_is_looked_at(tmp_path: Path) -> None:
    setup = ops_setup(SPEC, context(tmp_path, H200), H200, "treatment")
    assert setup.env["VLLM_BATCH_INVARIANT"] == "1"
    assert setup.env["VLLM_USE_FLASHINFER_SAMPLER"] == "0"
    assert (setup.device, setup.capability, setup.backend) == ("cuda", "9.0", "FLASH_ATTN")


@pytest.mark.parametrize(
    ("record", "found"),
    [
        (OpRecord(DIFFERS), "differs from M = 256"),
        (OpRecord(GOOD, planted=DIFFERS, planted_what="a bit"), f"{PLANTED}a bit: differs from M = 256"),
        (OpRecord(GOOD, planted=GOOD, planted_what="a bit"), HOLDS),
        (OpRecord(GOOD), HOLDS),
        # Wrong, or unlike itself: that says nothing of a difference by the batch.
        (OpRecord(GOOD.model_copy(update={"distance": 7.0})), HOLDS),
        (OpRecord(GOOD.model_copy(update={"unequal": 1})), HOLDS),
        (OpRecord(GONE), "skip: no such op"),
    ],
)
def test_a_control_tells_a_difference_by_the_batch_alone(record: OpRecord, found: str) -> None:
    told = op_checks._control_fact(record)
    assert told.found.startswith(found)
    assert (told.name, told.judged) == (name(record.result), False)


def family(*ops: OpResult, control: bool = False, errors: tuple[str, ...] = ()) -> FamilyFound:
    facts = tuple(
        Fact(name=name(op), found="differs from M = 2") if control and not op.missing else fact(op)
        for op in ops
    )
    return FamilyFound(ops, facts, errors)


class Journal:
    def __init__(self) -> None:
        self.events: list[Event] = []

    def write(self, event: Event) -> None:
        self.events.append(event)


PATH = Path("suites/ops/test_norm.py")


def ran(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, arms: Mapping[str, ArmFound], *, control: bool = True
) -> tuple[CheckResult, list[Event]]:
    """The result of the check ``norm`` in a session whose arms gave that."""
    asked: list[Any] = []

    def measured(*given: Any) -> Any:
        asked.append(given[3:])
        return arms

    monkeypatch.setattr(suite_session, "measure_ops", measured)
    journal = Journal()
    session = SuiteSession(SPEC, context(tmp_path, control=control), journal)  # type: ignore[arg-type]
    recorder = session.recorder(CPU, PATH, "test_norm")
    recorder.begin()
    try:
        session.observe_ops(CPU, PATH, "test_norm", recorder)
        recorder.conclude()
    except (EngineError, pytest.fail.Exception, pytest.skip.Exception) as error:
        recorder.raised(error)
    recorder.end()
    # All the families of the cell are measured at once, in the arms that run.
    assert asked == [(("gemm", "norm"), ("treatment", "control") if control else ("treatment",))]
    (finished,) = [event for event in journal.events if isinstance(event, CheckFinished)]
    return finished.result, journal.events


def arm(
    tmp_path: Path, found: FamilyFound | None, error: EngineError | None = None, **changes: Any
) -> ArmFound:
    effective = EffectiveArm(unit=CPU.id, arm="treatment", config={}, start_s=1.0, engine="ops")
    families = {"norm": found} if found is not None else {}
    return ArmFound(tmp_path / "logs" / "arm.log", families, effective, {}, error)


def test_operators_that_hold_beside_a_control_that_differs_pass(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    arms = {
        "treatment": arm(tmp_path, family(GOOD, GONE)),
        "control": arm(tmp_path, family(GOOD, GONE, control=True)),
    }
    result, events = ran(monkeypatch, tmp_path, arms)
    assert (result.status, result.ops) == ("pass", (GOOD, GONE))
    assert sum(isinstance(event, EngineReady) for event in events) == 2


def test_one_that_differs_is_a_failure_whatever_the_control(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    result, _ = ran(monkeypatch, tmp_path, {"treatment": arm(tmp_path, family(DIFFERS))}, control=False)
    assert result.status == "fail"
    assert "differs from M = 256" in result.reason


def test_without_a_control_nothing_passes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    result, _ = ran(monkeypatch, tmp_path, {"treatment": arm(tmp_path, family(GOOD))}, control=False)
    assert (result.status, result.reason) == ("inconclusive", "the control of the facts did not run")


def test_a_control_that_holds_for_one_of_them_is_no_pass(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    other = GOOD.model_copy(update={"op": "other"})
    control = FamilyFound(
        (), (Fact(name=name(GOOD), found="differs"), Fact(name=name(other), found=HOLDS)), ()
    )
    arms = {"treatment": arm(tmp_path, family(GOOD, other)), "control": arm(tmp_path, control)}
    result, _ = ran(monkeypatch, tmp_path, arms)
    assert (result.status, result.reason) == (
        "inconclusive",
        "nothing was seen to differ in the control of other bfloat16, 256",
    )


def test_a_family_of_which_there_is_nothing_is_a_skip_with_the_reason(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    arms = {"treatment": arm(tmp_path, family(GONE)), "control": arm(tmp_path, family(GONE, control=True))}
    result, _ = ran(monkeypatch, tmp_path, arms)
    assert result.status == "skip"
    assert result.reason.endswith("no such op")
    assert result.rule is None  # of its own: no certificate comes of it


@pytest.mark.parametrize("which", ["treatment", "control"])
def test_an_operator_that_could_not_be_measured_is_an_error_with_its_log(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, which: str
) -> None:
    broken = family(GOOD, control=which == "control", errors=("rotary bfloat16: RuntimeError: x",))
    arms = {
        "treatment": arm(tmp_path, family(GOOD)),
        "control": arm(tmp_path, family(GOOD, control=True)),
        which: arm(tmp_path, broken),
    }
    result, _ = ran(monkeypatch, tmp_path, arms)
    assert result.status == "error"
    assert result.reason == f"the {which} could not measure rotary bfloat16: RuntimeError: x"
    assert result.log == "logs/arm.log"


def test_what_differed_before_an_error_stays_a_failure(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    arms = {
        "treatment": arm(tmp_path, family(DIFFERS, errors=("x: y",))),
        "control": arm(tmp_path, family(GOOD, control=True)),
    }
    result, _ = ran(monkeypatch, tmp_path, arms)
    assert result.status == "fail"
    assert "then: the treatment could not measure x: y" in result.reason


def test_a_process_that_died_before_the_family_is_an_error(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    died = replace(arm(tmp_path, None, EngineDied("it died")), effective=None)
    arms = {"treatment": died, "control": arm(tmp_path, family(GOOD, control=True))}
    result, _ = ran(monkeypatch, tmp_path, arms)
    assert (result.status, result.reason) == ("error", "it died")
