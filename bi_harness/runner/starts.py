"""Engines that a check starts by itself: cold in an empty cache, warm in what that left, and eager."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from bi_harness.certificate.records import Fact
from bi_harness.certificate.startup import StartFound, rules_for, start_facts, time_facts
from bi_harness.engine.client import EngineClient
from bi_harness.engine.config import ArmName, EngineConfig
from bi_harness.errors import EngineError
from bi_harness.matrix.cells import Cell
from bi_harness.runner.cache_files import Files, change, files
from bi_harness.runner.engines import Engines
from bi_harness.spec.startup import StartupFile

COUNTERS_S = 60.0
"""For an engine that is up to tell its counters."""


@dataclass(frozen=True, slots=True)
class _Start:
    engine: EngineClient
    found: StartFound


class Starts:
    """The starts of one check on one cell; of each arm one engine is up at a time.

    Args:
        engines: of the session.
        cell: the check's.
        folder: for the caches; nothing of another check is below it.
        controlled: whether the control runs.
        expected: the suite's ``expected.yaml``.
        kind: vLLM's platform.
    """

    def __init__(
        self,
        engines: Engines,
        cell: Cell,
        folder: Path,
        *,
        controlled: bool,
        expected: StartupFile,
        kind: str,
    ) -> None:
        self.controlled = controlled
        self._engines, self._cell, self._folder = engines, cell, folder
        self._expected, self._kind = expected, kind
        self._env: dict[str, str] = {}
        self._begun: set[ArmName] = set()
        self._found: dict[tuple[ArmName, str], _Start] = {}

    def set_env(self, env: Mapping[str, str]) -> None:
        """Give every engine of this check these environment variables.

        Raises:
            RuntimeError: an engine has started without them.
        """
        if self._begun:
            raise RuntimeError("an engine has started: its cache is of other settings")
        self._env = dict(env)

    def cold(self, arm: ArmName) -> EngineClient:
        """An engine whose compile cache was empty when it started. Where both arms fit side by side, the
        other one's cold start begins too: it is most of a check's time.

        Raises:
            EngineError: it did not start, or does not tell its counters.
            RuntimeError: this arm has had its cold start; a second one would find a cache.
        """
        if (arm, "cold") in self._found:
            raise RuntimeError(f"the {arm} has had its cold start")
        arms: tuple[ArmName, ...] = ("treatment", "control") if self.controlled else (arm,)
        for one in (arm, *arms):
            if one not in self._begun and (one == arm or self._engines.room_for_two(self._cell, arm)):
                if self._cache(one).exists():
                    raise RuntimeError(f"{self._cache(one)} is there: the start would not be a cold one")
                self._engines.begin(self._cell, one, "cold", self._in_cache(one))
                self._begun.add(one)
        return self._ready(arm, "cold", {})

    def warm(self, arm: ArmName) -> EngineClient:
        """The same engine in a new process, with the cache that the cold one left. That one ends.

        Raises:
            EngineError: as ``cold``.
            RuntimeError: there was no cold start of this arm.
        """
        if (arm, "cold") not in self._found:
            raise RuntimeError(f"the {arm} has had no cold start")
        self._engines.end(self._cell, arm)
        before = files(self._cache(arm))
        self._engines.begin(self._cell, arm, "warm", self._in_cache(arm))
        return self._ready(arm, "warm", before)

    def eager(self, arm: ArmName) -> EngineClient:
        """The same engine without compilation. The arm's other one ends.

        Raises:
            EngineError: it did not start.
        """
        into = self._in_cache(arm, "eager")
        self._engines.begin(
            self._cell,
            arm,
            "eager",
            lambda config: replace(into(config), llm={**config.llm, "enforce_eager": True}),
        )
        return self._engines.begun(self._cell, arm)[0]

    def facts(self, arm: ArmName = "treatment") -> tuple[Fact, ...]:
        """What the cold and the warm start of an arm say of themselves, against the suite's data."""
        cold, warm = self._found[arm, "cold"], self._found[arm, "warm"]
        return (*self._judged(warm, cold.found, warm.found), *time_facts(cold.found, warm.found))

    def exchanged(self, arm: ArmName = "treatment") -> tuple[Fact, ...]:
        """The control of ``facts``: the same table with the two starts exchanged. What a start in an empty
        cache counts stands where a warm one's counters are to be, and the other way round."""
        cold, warm = self._found[arm, "cold"], self._found[arm, "warm"]
        return self._judged(warm, warm.found, cold.found)

    def _judged(self, start: _Start, cold: StartFound, warm: StartFound) -> tuple[Fact, ...]:
        effective = start.engine.effective
        rules = rules_for(
            self._expected,
            vllm=str(effective["vllm"]),
            torch=str(effective["torch"]),
            kind=self._kind,
            model=self._cell.model,
            today=datetime.now(UTC).date(),
        )
        return start_facts(cold, warm, rules)

    def _ready(self, arm: ArmName, label: str, before: Files) -> EngineClient:
        engine, start_s = self._engines.begun(self._cell, arm)
        after = files(self._cache(arm))
        try:
            found = StartFound.of(engine.startup(timeout_s=COUNTERS_S), change(before, after), start_s)
        except (EngineError, ValueError) as error:
            failure = error if isinstance(error, EngineError) else EngineError(str(error))
            self._engines.failed(engine, failure)
            raise failure from error
        self._found[arm, label] = _Start(engine, found)
        return engine

    def _cache(self, arm: ArmName, label: str = "compiled") -> Path:
        return self._folder / f"{arm}-{label}"

    def _in_cache(self, arm: ArmName, label: str = "compiled") -> Callable[[EngineConfig], EngineConfig]:
        cache = self._cache(arm, label)

        def put(config: EngineConfig) -> EngineConfig:
            env = {
                **config.env,
                **self._env,
                "VLLM_CACHE_ROOT": str(cache / "vllm"),
                "TORCHINDUCTOR_CACHE_DIR": str(cache / "inductor"),
                "TRITON_CACHE_DIR": str(cache / "triton"),
            }
            return replace(config, env=env)

        return put
