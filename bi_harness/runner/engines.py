"""The engines of the unit at hand: started when asked for, shared by its checks, gone before the next."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bi_harness.certificate.events import EngineReady, Event
from bi_harness.certificate.statement import EffectiveArm
from bi_harness.engine.client import EngineClient
from bi_harness.engine.config import ArmName, EngineSettings, engine_config
from bi_harness.errors import EngineError
from bi_harness.matrix.cells import Cell
from bi_harness.runner.context import Context
from bi_harness.runner.journal import now
from bi_harness.spec.load import Spec
from bi_harness.spec.suites import SuiteSpec
from bi_harness.workload.plan import Workload, plan_workload

ARMS: tuple[ArmName, ArmName] = ("treatment", "control")


@dataclass
class _Slot:
    client: EngineClient
    ready: bool = False
    error: EngineError | None = None


class Engines:
    """Treatment and control of one unit at a time.

    Args:
        spec: the YAML.
        context: the unit's file.
        emit: takes the events.
    """

    def __init__(self, spec: Spec, context: Context, emit: Callable[[Event], None]) -> None:
        self._spec = spec
        self._context = context
        self._emit = emit
        self._unit: str | None = None
        self._slots: dict[ArmName, _Slot] = {}

    def workload(self, cell: Cell) -> Workload:
        """The workload of the cell's suite for this run."""
        return plan_workload(
            self._spec.models[cell.model],
            self._spec.suites[cell.suite],
            profile=self._context.profile,
            seed=self._context.seed,
        )

    def get(self, cell: Cell, arm: ArmName) -> EngineClient:
        """The engine that serves ``cell``, ready.

        An engine that failed is not started again: what it left undone is an error, never a second chance.

        Raises:
            EngineError: it did not start, or failed in an earlier check.
        """
        suite = self._spec.suites[cell.suite]
        unit = cell.unit_key if suite.engine == "shared" else cell.id
        if unit != self._unit:
            self.close()
            self._unit = unit
        if self._starts_together(cell):
            for name in ARMS:
                self._spawn(cell, name, unit)
        other = self._slots.get("control" if arm == "treatment" else "treatment")
        if other is not None and other.error is None and not other.client.config.room_for_two:
            # Both would not fit: the other arm's engine ends first, and starts anew if it is asked for again.
            other.client.close()
            del self._slots[other.client.config.arm]
        slot = self._spawn(cell, arm, unit)
        if slot.error is not None:
            raise slot.error
        if not slot.ready:
            try:
                ready = slot.client.wait_ready(suite.timeouts.start_s)
            except EngineError as error:
                slot.error = error
                slot.client.close()
                raise
            slot.ready = True
            checkpoint = ready.effective.get("checkpoint")
            self._emit(
                EngineReady(
                    time=now(),
                    arm=EffectiveArm(unit=unit, arm=arm, config=ready.effective, start_s=ready.start_s),
                    provenance={
                        **ready.provenance,
                        "checkpoints": {cell.model: checkpoint} if checkpoint else {},
                    },
                )
            )
        return slot.client

    def failed(self, client: EngineClient, error: EngineError) -> None:
        """Note that an engine failed in a check, so that later checks on it are errors too; end it."""
        for slot in self._slots.values():
            if slot.client is client and slot.error is None:
                slot.error = EngineError(f"an earlier check ended its engine: {error}")
                client.close()

    def log(self) -> str | None:
        """The log of the engine that failed last, relative to the run folder."""
        failed = [slot.client for slot in self._slots.values() if slot.error is not None]
        client = failed[-1] if failed else None
        return os.path.relpath(client.log, self._context.run_dir) if client else None

    def close(self) -> None:
        """End all engines, and see their processes gone."""
        slots, self._slots = self._slots, {}
        for slot in slots.values():
            slot.client.close()

    def _starts_together(self, cell: Cell) -> bool:
        # Start-up is most of a run and uses one core at a time. On a GPU the second engine would meet the
        # first one's memory profiling, so there the control waits until it is asked for.
        return self._spec.devices[cell.device].kind == "cpu"

    def _spawn(self, cell: Cell, arm: ArmName, unit: str) -> _Slot:
        if arm in self._slots:
            return self._slots[arm]
        context = self._context
        name = safe_name(f"{unit}-{arm}")
        client = EngineClient(
            engine_config(
                cell,
                arm,
                model=self._spec.models[cell.model],
                device=self._spec.devices[cell.device],
                suite=self._suite(cell),
                settings=EngineSettings(
                    python=context.engine_python,
                    weights=context.weights,
                    layers=context.layers,
                    model_cache=context.model_cache,
                    compile_cache=f"{context.folder}/compile/{safe_name(unit)}",
                    environment=dict(os.environ),
                ),
                max_num_seqs=max(self.workload(c).max_batch for c in self._cells(unit)),
                max_model_len=max(self.workload(c).max_tokens for c in self._cells(unit)),
            ),
            Path(context.folder) / name,
            Path(context.logs) / f"{name}.log",
        )
        client.spawn()
        self._slots[arm] = _Slot(client)
        return self._slots[arm]

    def _suite(self, cell: Cell) -> SuiteSpec:
        return self._spec.suites[cell.suite]

    def _cells(self, unit: str) -> list[Cell]:
        return [s.cell for s in self._context.cells if unit in (s.cell.unit_key, s.cell.id)]


def safe_name(text: str) -> str:
    """``text`` as one path component: what is not a letter, a digit, ``.``, ``_`` or ``-`` becomes ``_``."""
    return re.sub(r"[^A-Za-z0-9._-]+", "_", text).lstrip(".")[:200] or "_"
