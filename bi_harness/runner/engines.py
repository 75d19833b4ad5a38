"""The engines of the unit at hand: started when asked for, shared by its checks, gone before the next."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from bi_harness.certificate.events import EngineReady, Event
from bi_harness.certificate.statement import EffectiveArm
from bi_harness.engine.client import EngineClient, Ready
from bi_harness.engine.config import ArmName, EngineConfig, EngineSettings, engine_config
from bi_harness.engine.endpoint import EndpointClient, without_keys
from bi_harness.engine.preloaded import Preload
from bi_harness.engine.server import ServerClient, Speaking
from bi_harness.errors import EngineError
from bi_harness.matrix.cells import Cell
from bi_harness.matrix.execution import execution_for
from bi_harness.matrix.rules import version
from bi_harness.runner.caches import share_model_infos
from bi_harness.runner.context import Context
from bi_harness.runner.journal import now
from bi_harness.spec.execution import ExecutionSpec
from bi_harness.spec.load import Spec
from bi_harness.spec.suites import CheckSpec, SuiteSpec
from bi_harness.workload.plan import Workload, plan_workload

ARMS: tuple[ArmName, ArmName] = ("treatment", "control")


Client = EngineClient | ServerClient | EndpointClient
"""An engine, however it is driven."""

Driven = Client | Speaking
"""The same, or a server that is spoken to in one way."""


@dataclass
class _Slot:
    client: Client
    label: str = ""
    ready: Ready | None = None


@dataclass(frozen=True, slots=True)
class _Key:
    """What engines are up: those of a unit, and of which of its checks where one has them for itself."""

    unit: str
    check: str = ""
    suite: str = ""


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
        self._key: _Key | None = None
        self._slots: dict[ArmName, _Slot] = {}
        self._failures: dict[tuple[_Key, ArmName], EngineError] = {}
        self._last_log: Path | None = None

    def workload(self, cell: Cell) -> Workload:
        """The workload of the cell's suite for this run."""
        return plan_workload(
            self._spec.models[cell.model],
            self._spec.suites[cell.suite],
            profile=self._context.profile,
            seed=self._context.seed,
        )

    def get(self, cell: Cell, arm: ArmName, check: CheckSpec | None = None) -> Client:
        """The engine that serves ``cell``, ready.

        An engine that failed is not started again: what it left undone is an error, never a second chance.

        Args:
            check: one that needs an engine other than the one that the checks share.

        Raises:
            EngineError: it did not start, or failed in an earlier check.
        """
        key = self._use(self._key_of(cell, check))
        if error := self._failures.get((key, arm)):
            raise error
        self._make_room(arm)
        slot = self._spawn(cell, arm, check)
        if self._context.control and slot.client.config.room_for_two:
            # Start-up is most of a run and uses few cores at a time.
            for name in ARMS:
                if (key, name) not in self._failures:
                    self._spawn(cell, name, check)
            self._begin(cell)
            if error := self._failures.get((key, arm)):
                raise error
        return self._ready(cell, arm, slot, key.check)

    def _begin(self, cell: Cell) -> None:
        """See every engine that is up begin before one is waited for: where they are forked, both come from a
        process that may yet have to import vLLM."""
        for arm, slot in list(self._slots.items()):
            if slot.ready is None and isinstance(slot.client, EngineClient):
                try:
                    slot.client.begin(self._suite(cell).timeouts.start_s)
                except EngineError as error:
                    self._fail(arm, slot, error)

    def restart(self, cell: Cell, arm: ArmName) -> Client:
        """End the engine that the checks share, and start the same in a new process.

        Raises:
            EngineError: it did not start.
        """
        key = self._key_of(cell, None)
        slot = self._slots.pop(arm, None)
        if key != self._key or slot is None:
            raise RuntimeError(f"the {arm} engine of {key.unit} is not up, so it cannot be restarted")
        slot.client.close()
        return self._ready(cell, arm, self._spawn(cell, arm, None, "restarted"), "restarted")

    def begin(
        self, cell: Cell, arm: ArmName, label: str, change: Callable[[EngineConfig], EngineConfig]
    ) -> None:
        """End the arm's engine and start another for a check that starts its own, without waiting for it;
        ``begun`` does. The other arm's ends, too, where both do not fit.

        Args:
            label: what the certificate calls it: ``cold``, ``warm``, ``eager``.
            change: what it has that the suite's engines have not.

        Raises:
            EngineError: an engine of this arm failed before: there is no second chance.
        """
        key = self._use(self._key_of(cell, None))
        if error := self._failures.get((key, arm)):
            raise error
        self.end(cell, arm)
        self._make_room(arm)
        self._spawn(cell, arm, None, label, change)

    def begun(self, cell: Cell, arm: ArmName) -> tuple[EngineClient, float]:
        """The engine of that arm that was begun, ready, and the seconds that its start took.

        Raises:
            EngineError: it did not start.
            RuntimeError: none was begun.
        """
        slot = self._slots.get(arm)
        if slot is None:
            raise RuntimeError(f"no {arm} engine of {cell.id} was begun")
        # A check that starts its own engines does so through the library.
        client = cast("EngineClient", self._ready(cell, arm, slot, slot.label))
        assert slot.ready is not None
        return client, slot.ready.start_s

    def end(self, cell: Cell, arm: ArmName) -> None:
        """End the arm's engine, where one is up, and see it gone."""
        if self._key == self._key_of(cell, None) and (slot := self._slots.pop(arm, None)) is not None:
            slot.client.close()

    def room_for_two(self, cell: Cell, arm: ArmName) -> bool:
        """Whether both arms' engines may be up: what the one of ``arm``, which was begun, says."""
        slot = self._slots.get(arm)
        return slot is not None and slot.client.config.room_for_two

    def failed(self, client: Driven, error: EngineError) -> None:
        """Note that an engine failed in a check, so that later checks on it are errors too; end it."""
        for arm, slot in list(self._slots.items()):
            if slot.client is (client.whole if isinstance(client, Speaking) else client):
                self._fail(arm, slot, EngineError(f"an earlier check ended its engine: {error}"))

    def log(self) -> str | None:
        """The log of the engine that failed last, relative to the run folder."""
        return os.path.relpath(self._last_log, self._context.run_dir) if self._last_log else None

    def close(self) -> None:
        """End all engines, and see their processes gone."""
        slots, self._slots = self._slots, {}
        for slot in slots.values():
            slot.client.ask_to_stop()
        for slot in slots.values():
            slot.client.close()

    def _use(self, key: _Key) -> _Key:
        if key != self._key:
            self.close()
            self._key = key
        return key

    def _make_room(self, arm: ArmName) -> None:
        other = self._slots.get("control" if arm == "treatment" else "treatment")
        if other is not None and not other.client.config.room_for_two:
            # Both would not fit: the other arm's engine ends first, and starts anew if it is asked for again.
            other.client.close()
            del self._slots[other.client.config.arm]

    def _key_of(self, cell: Cell, check: CheckSpec | None) -> _Key:
        suite = self._spec.suites[cell.suite]
        unit = cell.unit_key if suite.engine == "shared" else cell.id
        if check is None or not check.own_engine:
            return _Key(unit)
        # Checks that need the same engine share it, under the first one's name.
        same = (c for c in suite.checks if c.engine == check.engine)
        return _Key(unit, next(same).id, cell.suite)

    def _fail(self, arm: ArmName, slot: _Slot, error: EngineError) -> None:
        assert self._key is not None
        self._failures.setdefault((self._key, arm), error)
        self._last_log = slot.client.log
        del self._slots[arm]
        slot.client.close()

    def _ready(self, cell: Cell, arm: ArmName, slot: _Slot, engine: str) -> Client:
        if slot.ready:
            return slot.client
        try:
            ready = slot.client.wait_ready(self._suite(cell).timeouts.start_s)
        except EngineError as error:
            self._fail(arm, slot, error)
            raise
        slot.ready = ready
        assert self._key is not None
        self._emit(
            EngineReady(
                time=now(),
                arm=EffectiveArm(
                    unit=self._key.unit,
                    arm=arm,
                    config=ready.effective,
                    start_s=ready.start_s,
                    engine=engine,
                    preloaded=ready.preloaded or None,
                ),
                provenance=self._provenance(cell, arm, ready),
            )
        )
        return slot.client

    def _provenance(self, cell: Cell, arm: ArmName, ready: Ready) -> dict[str, Any]:
        if self._context.endpoint is not None and arm == "control":
            # A certificate of a running server is not about the vLLM and the weights of its control.
            return {"control": ready.provenance}
        checkpoint = ready.effective.get("checkpoint")
        return {**ready.provenance, "checkpoints": {cell.model: checkpoint} if checkpoint else {}}

    def _spawn(
        self,
        cell: Cell,
        arm: ArmName,
        check: CheckSpec | None,
        label: str = "",
        change: Callable[[EngineConfig], EngineConfig] = lambda config: config,
    ) -> _Slot:
        if arm in self._slots:
            return self._slots[arm]
        key = self._key
        assert key is not None
        name = safe_name("-".join(part for part in (key.unit, key.check, arm, label) if part))
        config = change(self._config(cell, arm, key, check))
        client: Client
        if (url := self._endpoint(arm)) is not None:
            client = EndpointClient(config, url, self._room(config, name)[1], os.environ)
        elif config.interface == "server":
            client = ServerClient(config, *self._room(config, name))
        else:
            # A restart is to be a process that shares nothing with the one before, and a check that starts
            # engines by itself measures their starts.
            client = self.library(config, name, may_fork=not label)
        client.spawn()
        self._slots[arm] = _Slot(client, label)
        return self._slots[arm]

    def config(self, cell: Cell, arm: ArmName, check: CheckSpec | None = None) -> EngineConfig:
        """What ``get`` would start; nothing is started.

        Raises:
            UsageError: see ``engine_config``.
        """
        return self._config(cell, arm, self._key_of(cell, check), check)

    def _config(self, cell: Cell, arm: ArmName, key: _Key, check: CheckSpec | None) -> EngineConfig:
        context = self._context
        workloads = [self.workload(c) for c in self._cells(key.unit)]
        return engine_config(
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
                compile_cache=f"{self._caches}/compile/{safe_name(key.unit)}",
                shared_cache=str(self._shared_cache),
                environment=without_keys(os.environ),
                cores=len(os.sched_getaffinity(0)),
            ),
            max_num_seqs=max(workload.max_batch for workload in workloads),
            kv_seqs=max(workload.resident for workload in workloads),
            max_model_len=max(workload.max_tokens for workload in workloads),
            check=check if key.check else None,
            execution=self._execution(cell),
        )

    def _execution(self, cell: Cell) -> ExecutionSpec | None:
        model = self._spec.models[cell.model]
        return execution_for(
            self._spec.execution,
            model,
            self._spec.devices[cell.device],
            vllm=version(self._context.vllm) if self._context.vllm else None,
            tp=cell.tp,
            synthetic=model.synthetic or self._context.weights == "synthetic",
        )

    def library(self, config: EngineConfig, name: str, *, may_fork: bool = True) -> EngineClient:
        """An engine that the library drives, not started yet.

        Args:
            config: what to start.
            name: of its folder and its log.
            may_fork: whether it may come from a process that has vLLM imported.
        """
        preload = self._context.preload if may_fork else None
        shared_import = Preload(Path(preload)) if preload else None
        return EngineClient(config, *self._room(config, name), shared_import)

    def _room(self, config: EngineConfig, name: str) -> tuple[Path, Path]:
        """An engine's folder and log; it finds what the run's others noted of its model's class."""
        share_model_infos(Path(config.env["VLLM_CACHE_ROOT"]), self._shared_cache)
        return Path(self._context.folder) / name, Path(self._context.logs) / f"{name}.log"

    @property
    def _caches(self) -> Path:
        return Path(self._context.caches or self._context.folder)

    @property
    def _shared_cache(self) -> Path:
        return Path(self._context.shared or self._caches.parent / "shared")

    def _endpoint(self, arm: ArmName) -> str | None:
        """The running server that is this arm; ``None`` where an engine is started for it."""
        return self._context.endpoint if arm == "treatment" else self._context.control_endpoint

    def _suite(self, cell: Cell) -> SuiteSpec:
        return self._spec.suites[cell.suite]

    def _cells(self, unit: str) -> list[Cell]:
        return [s.cell for s in self._context.cells if unit in (s.cell.unit_key, s.cell.id)]


def safe_name(text: str) -> str:
    """``text`` as one path component: what is not a letter, a digit, ``.``, ``_`` or ``-`` becomes ``_``.

    A longer one than 200 ends in its digest: cells whose ids begin alike must not share a folder.
    """
    name = re.sub(r"[^A-Za-z0-9._-]+", "_", text).lstrip(".") or "_"
    if len(name) <= 200:
        return name
    return f"{name[:183]}-{hashlib.sha256(text.encode('utf-8', 'surrogatepass')).hexdigest()[:16]}"
