"""Cold, warm and eager starts on stand-ins for engines: which are up when, in which cache, what is told."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bi_harness.certificate.facts import facts_differ, facts_weakness
from bi_harness.engine.config import EngineConfig
from bi_harness.errors import EngineDied, EngineError
from bi_harness.matrix.cells import Cell
from bi_harness.runner.starts import Starts
from bi_harness.spec.startup import StartupFile

CELL = Cell("gpu", "tiny", "FLASH_ATTN", 1, 1, "compile", "core")
SAVED = {"num_aot_compiles": 1, "num_aot_artifacts_saved": 1}
LOADED = {"num_aot_artifacts_loaded": 1}
CONFIG = EngineConfig(
    arm="treatment",
    python="p",
    platform="cuda",
    capability=None,
    invariance=True,
    llm={"enforce_eager": False, "model": "m"},
    checkpoint=None,
    adapters=None,
    draft=None,
    env={"VLLM_CACHE_ROOT": "shared", "KEPT": "1"},
    room_for_two=True,
)


@dataclass
class Client:
    """An engine that is up: it leaves a kernel in its cache unless it finds one there."""

    name: str
    config: EngineConfig
    error: Exception | None = None
    finds: bool = True

    def __hash__(self) -> int:
        return id(self)

    @property
    def cache(self) -> Path:
        return Path(self.config.env["VLLM_CACHE_ROOT"]).parent

    def compile(self) -> None:
        kernel = self.cache / "inductor" / ("k.so" if self.finds else f"{self.name}.so")
        self.warm = kernel.exists()
        kernel.parent.mkdir(parents=True, exist_ok=True)
        if not self.warm:
            kernel.write_text("code")

    @property
    def effective(self) -> dict[str, Any]:
        return {"vllm": "0.32.0", "torch": "2.13.0"}

    def startup(self, *, timeout_s: float) -> tuple[dict[str, Any], ...]:
        if self.error is not None:
            raise self.error
        zero = dict.fromkeys((*SAVED, *LOADED), 0)
        counts = {**zero, **(LOADED if self.warm else SAVED)}
        return ({"compilation": counts, "aot_autograd": {}, "inductor": {}, "layers": 8},)


@dataclass
class Engines:
    """What was done, in order; one engine of an arm is up at a time."""

    room: bool = True
    finds: bool = True
    done: list[str] = field(default_factory=list)
    up: dict[str, Client] = field(default_factory=dict)
    error: dict[str, Exception] = field(default_factory=dict)
    gone: list[str] = field(default_factory=list)

    def room_for_two(self, cell: Cell, arm: str) -> bool:
        return self.room

    def begin(self, cell: Cell, arm: str, label: str, change: Callable[[EngineConfig], EngineConfig]) -> None:
        self.end(cell, arm)
        name = f"{arm} {label}"
        self.done.append(f"begin {name}")
        self.up[arm] = Client(name, change(CONFIG), self.error.get(name), self.finds)
        if label != "eager":
            self.up[arm].compile()

    def begun(self, cell: Cell, arm: str) -> tuple[Client, float]:
        self.done.append(f"wait {self.up[arm].name}")
        return self.up[arm], 20.0

    def end(self, cell: Cell, arm: str) -> None:
        if (client := self.up.pop(arm, None)) is not None:
            self.done.append(f"end {client.name}")

    def failed(self, client: Client, error: EngineError) -> None:
        self.gone.append(client.name)


def made(engines: Engines, folder: Path, *, controlled: bool = True) -> Starts:
    return Starts(
        engines,  # type: ignore[arg-type]
        CELL,
        folder / "caches",
        controlled=controlled,
        expected=StartupFile(),
        kind="cuda",
    )


def test_both_arms_start_cold_side_by_side_and_then_one_warm_and_one_eager(tmp_path: Path) -> None:
    engines = Engines()
    starts = made(engines, tmp_path)
    cold: Any = starts.cold("treatment")
    warm: Any = starts.warm("treatment")
    starts.cold("control")
    eager: Any = starts.eager("treatment")
    assert engines.done == [
        *("begin treatment cold", "begin control cold", "wait treatment cold"),
        *("end treatment cold", "begin treatment warm", "wait treatment warm", "wait control cold"),
        *("end treatment warm", "begin treatment eager", "wait treatment eager"),
    ]
    assert cold.cache == warm.cache
    assert cold is not warm
    assert (cold.warm, warm.warm) == (False, True)
    caches = {cold.cache, engines.up["control"].cache, eager.cache}
    assert len(caches) == 3, "each arm has its own, and eager code has another"
    assert (eager.config.llm["enforce_eager"], warm.config.llm["enforce_eager"]) == (True, False)
    for variable in ("VLLM_CACHE_ROOT", "TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR"):
        assert Path(cold.config.env[variable]).parent == cold.cache
    assert cold.config.env["KEPT"] == "1"


def test_variables_of_a_check_reach_every_engine(tmp_path: Path) -> None:
    engines = Engines()
    starts = made(engines, tmp_path)
    starts.set_env({"VLLM_USE_MEGA_AOT_ARTIFACT": "0", "VLLM_CACHE_ROOT": "elsewhere"})
    cold: Any = starts.cold("treatment")
    warm: Any = starts.warm("treatment")
    for client in (cold, warm, engines.up["control"]):
        assert client.config.env["VLLM_USE_MEGA_AOT_ARTIFACT"] == "0"
        assert client.config.env["VLLM_CACHE_ROOT"] != "elsewhere"
    with pytest.raises(RuntimeError, match="an engine has started"):
        starts.set_env({})


def test_without_room_or_without_a_control_no_other_arm_is_begun(tmp_path: Path) -> None:
    for engines, controlled in ((Engines(room=False), True), (Engines(), False)):
        made(engines, tmp_path / str(controlled), controlled=controlled).cold("treatment")
        assert engines.done == ["begin treatment cold", "wait treatment cold"]


def test_facts_of_a_warm_start_that_loads_are_right_and_exchanged_they_are_not(tmp_path: Path) -> None:
    starts = made(Engines(), tmp_path)
    starts.cold("treatment")
    starts.warm("treatment")
    facts, control = starts.facts(), starts.exchanged()
    assert (facts_differ(facts), facts_weakness(facts, control)) == ("", "")
    assert facts_differ(control)
    told = {fact.name: fact.found for fact in facts}
    assert (told["cold: kernels_built"], told["warm: kernels_built"]) == ("1", "0")
    assert told["warm start / cold start"] == "1.00"


def test_a_warm_start_that_finds_nothing_is_wrong(tmp_path: Path) -> None:
    starts = made(Engines(finds=False), tmp_path)
    starts.cold("treatment")
    starts.warm("treatment")
    said = facts_differ(starts.facts())
    assert "warm: num_aot_compiles is 1, not 0" in said


def test_a_cold_start_is_cold_and_a_warm_one_comes_after_it(tmp_path: Path) -> None:
    starts = made(Engines(), tmp_path)
    with pytest.raises(RuntimeError, match="had no cold start"):
        starts.warm("treatment")
    starts.cold("treatment")
    with pytest.raises(RuntimeError, match="has had its cold start"):
        starts.cold("treatment")
    with pytest.raises(RuntimeError, match="would not be a cold one"):
        made(Engines(), tmp_path).cold("treatment")
    with pytest.raises(KeyError):
        starts.facts()


@pytest.mark.parametrize("error", [EngineDied("gone"), ValueError("the ranks have models of [4, 8] layers")])
def test_an_engine_that_does_not_tell_its_counters_has_failed(tmp_path: Path, error: Exception) -> None:
    engines = Engines(error={"treatment cold": error})
    starts = made(engines, tmp_path)
    with pytest.raises(EngineError, match=r"gone|layers"):
        starts.cold("treatment")
    assert engines.gone == ["treatment cold"]
    with pytest.raises(RuntimeError):
        starts.warm("treatment")


def test_the_shipped_suite_ends_without_a_control_where_there_is_none(tmp_path: Path) -> None:
    """Its test function, on stand-ins: what it asks for, in which order."""
    from bi_harness.spec.load import default_paths
    from tests.suites.loading import load

    module = load(default_paths(environ={}).suites / "compile_startup" / "test_startup.py")
    asked: list[str] = []

    class Check:
        def __getattr__(self, name: str) -> Callable[..., Any]:
            def note(*args: Any, **more: Any) -> Any:
                asked.append(f"{name} {args[0]}" if args and isinstance(args[0], str) else name)
                for act in more.values():
                    if callable(act):
                        act()
                return SimpleNamespace(differing_prompts=0, prompts=4, max_ulp=0)

            return note

    workload = SimpleNamespace(requests=(), batch_sizes=())
    module.plan = lambda _: SimpleNamespace(subjects=())
    for controlled in (True, False):
        asked.clear()
        starts = made(Engines(), tmp_path / str(controlled), controlled=controlled)
        module.test_startup(starts, workload, Check())
        assert asked == [
            *("compare", "observe treatment"),
            *(("compare", "observe control") if controlled else ()),
            *("beside", "tell treatment", "conclude"),
        ]


@pytest.mark.parametrize(("test", "value"), [("test_mega_aot_off", "0"), ("test_mega_aot_on", "1")])
def test_mega_aot_checks_set_the_variable_as_vllms_test_does(tmp_path: Path, test: str, value: str) -> None:
    from bi_harness.spec.load import default_paths
    from tests.suites.loading import load

    module = load(default_paths(environ={}).suites / "compile_startup" / "test_startup.py")
    module.plan = lambda _: SimpleNamespace(subjects=())
    engines = Engines()

    class Check:
        def compare(self, engine: Client, what: Any, restarted: Callable[[], Any] | None = None) -> None:
            if restarted is not None:
                restarted()

        def observe(self, arm: str, facts: Any) -> None:
            assert facts

        def conclude(self) -> None:
            engines.done.append("conclude")

    getattr(module, test)(made(engines, tmp_path), SimpleNamespace(requests=(), batch_sizes=()), Check())
    assert {c.config.env["VLLM_USE_MEGA_AOT_ARTIFACT"] for c in engines.up.values()} == {value}
    assert engines.done[-1] == "conclude"
    assert not any("eager" in step for step in engines.done)
