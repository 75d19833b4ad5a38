"""Which engines are up when, on a stand-in for the client: the order of starts and ends is what matters."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from bi_harness.certificate.events import EngineReady
from bi_harness.engine.client import Ready
from bi_harness.engine.config import ArmName, EngineConfig
from bi_harness.engine.preloaded import Preload
from bi_harness.errors import EngineDied, EngineError, EngineStartError, EngineTimeout
from bi_harness.matrix.cells import Cell
from bi_harness.runner import engines as module
from bi_harness.runner.context import Context, SelectedCell
from bi_harness.runner.engines import Engines, safe_name
from bi_harness.spec.load import Spec
from bi_harness.spec.suites import CheckSpec
from tests.spec.small import Files

CHECKS = """\
  - {id: alone, test: "test_a.py::test_a", summary: One.}
  - {id: spread, test: "test_b.py::test_b", summary: Two.}
  - {id: lora, test: "test_c.py::test_c", summary: Three., adapters: 2, engine_args: {enable_lora: true}}
  - {id: lora_too, test: "test_d.py::test_d", summary: Four., adapters: 2, engine_args: {enable_lora: true}}
  - {id: small, test: "test_e.py::test_e", summary: Five., engine_args: {block_size: 16}}
timeouts: {start_s: 60, check_s: 60}
"""
UNIT = "cpu/tiny/CPU_ATTN/tp1-dp1/eager"


@dataclass
class World:
    """What all fake clients did, in order, and which of them fail."""

    done: list[str] = field(default_factory=list)
    clients: list[Fake] = field(default_factory=list)
    broken: dict[str, EngineError] = field(default_factory=dict)
    absent: dict[str, EngineError] = field(default_factory=dict)
    begun: list[str] = field(default_factory=list)
    together: bool = False
    events: list[EngineReady] = field(default_factory=list)

    def take(self) -> list[str]:
        """What was done since the last call."""
        done, self.done[:] = list(self.done), []
        return done

    @property
    def up(self) -> set[str]:
        return {client.name for client in self.clients if client.running}


class Fake:
    """An ``EngineClient`` without an engine. Its name is that of its folder, less the unit's."""

    world: World

    def __init__(self, config: EngineConfig, folder: Path, log: Path, preload: Preload | None = None) -> None:
        self.config, self.folder, self.log, self.preload = config, folder, log, preload
        self.name = folder.name.split("eager-")[-1]
        self.running = False
        self.effective: dict[str, Any] = {}
        self.world.clients.append(self)

    @property
    def pid(self) -> int | None:
        return id(self) if self.running else None

    def spawn(self) -> None:
        assert not self.running
        self.running = True
        self.world.done.append(f"spawn {self.name}")

    def begin(self, timeout_s: float) -> None:
        assert self.running
        self.world.begun.append(self.name)
        if self.name in self.world.absent:
            raise self.world.absent[self.name]

    def wait_ready(self, timeout_s: float) -> Ready:
        assert self.running
        # A fork that nobody answers waits, and the other arm's start goes by meanwhile.
        asked = [client.name for client in self.world.clients if client.running]
        assert not self.world.together or set(asked) <= set(self.world.begun), "one has not begun"
        self.world.done.append(f"wait {self.name} {timeout_s:.0f}")
        if self.name in self.world.broken:
            raise self.world.broken[self.name]
        self.effective = {"arm": self.config.arm, "checkpoint": "sha256:1"}
        return Ready(self.effective, {"vllm": {"version": "0"}}, 1.5)

    def ask_to_stop(self) -> None:
        self.world.done.append(f"ask {self.name}")

    def close(self) -> None:
        self.running = False
        self.world.done.append(f"close {self.name}")


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    made = World()
    monkeypatch.setattr(Fake, "world", made, raising=False)
    monkeypatch.setattr(module, "EngineClient", Fake)
    return made


@pytest.fixture
def files(tmp_path: Path) -> Files:
    made = Files(tmp_path)
    head, _ = made.suite.split("  - {id: alone")
    _, tail = made.suite.split("timeouts: {start_s: 60, check_s: 60}\n")
    made.suite = (
        head
        + CHECKS
        + tail.replace(
            "{prompts: 3, sizes: [2, 3], part: 0.5, name: x}",
            "{prompts: 4, steps: 2, top_k: 1, longest_prompt: 20, batch_sizes: [2]}",
        )
    )
    made.models = made.models.replace("vocab_size: 9}", "vocab_size: 999}").replace(
        "num_attention_heads: 4", "num_attention_heads: 4, intermediate_size: 128"
    )
    return made


CPU = Cell("cpu", "tiny", "CPU_ATTN", 1, 1, "eager", "core")
GPU = Cell("gpu", "big", "FLASH_ATTN", 1, 1, "eager", "core")


def made(files: Files, world: World, *cells: Cell, **changes: Any) -> tuple[Engines, Spec]:
    spec = files.load()
    root = files.root
    context = Context(
        device="cpu",
        cells=tuple(
            SelectedCell(cell, tuple(c.id for c in spec.suites[cell.suite].checks)) for cell in cells
        ),
        profile="smoke",
        weights="named",
        layers=None,
        seed=0,
        engine_python="/x/python",
        models="m",
        hardware="h",
        suites="s",
        spec_digests={},
        folder=str(root / "work"),
        logs=str(root / "run" / "logs"),
        run_dir=str(root / "run"),
        journal="j",
        model_cache=str(root / "cache"),
    )
    return Engines(spec, replace(context, **changes), world.events.append), spec  # type: ignore[arg-type]


@pytest.fixture
def engines(files: Files, world: World) -> Engines:
    return made(files, world, CPU)[0]


@pytest.fixture
def checks(files: Files) -> dict[str, CheckSpec]:
    return {check.id: check for check in files.load().suites["core"].checks}


def test_both_arms_start_together(engines: Engines, world: World) -> None:
    treatment = engines.get(CPU, "treatment")
    assert world.take() == ["spawn treatment", "spawn control", "wait treatment 60"]
    assert treatment.config.arm == "treatment"
    assert [event.arm.arm for event in world.events] == ["treatment"]
    control = engines.get(CPU, "control")
    assert world.take() == ["wait control 60"]
    assert control is not treatment
    assert (engines.get(CPU, "treatment"), engines.get(CPU, "control")) == (treatment, control)
    assert world.take() == [], "ready once, waited for once"
    assert [event.arm.arm for event in world.events] == ["treatment", "control"]


def test_both_arms_begin_before_one_is_waited_for(engines: Engines, world: World) -> None:
    world.together = True
    engines.get(CPU, "treatment")
    engines.get(CPU, "control")
    assert world.begun[:2] == ["treatment", "control"]


@pytest.mark.parametrize("arm", ["treatment", "control"])
def test_an_arm_for_which_no_process_comes_fails_alone(engines: Engines, world: World, arm: Any) -> None:
    world.absent[arm] = EngineTimeout("was not there")
    other: Any = "control" if arm == "treatment" else "treatment"
    if arm == "treatment":
        with pytest.raises(EngineTimeout):
            engines.get(CPU, arm)
    assert engines.get(CPU, other).config.arm == other
    with pytest.raises(EngineTimeout, match="was not there"):
        engines.get(CPU, arm)
    assert world.up == {other}


def test_the_control_may_be_asked_for_first(engines: Engines, world: World) -> None:
    assert engines.get(CPU, "control").config.arm == "control"
    assert world.take() == ["spawn control", "spawn treatment", "wait control 60"]


def test_without_a_control_none_is_ever_started(
    files: Files, world: World, checks: dict[str, CheckSpec]
) -> None:
    engines, _ = made(files, world, CPU, control=False)
    engines.get(CPU, "treatment", checks["alone"])
    engines.get(CPU, "treatment", checks["lora"])
    engines.close()
    assert {client.config.arm for client in world.clients} == {"treatment"}
    assert [client.name for client in world.clients] == ["treatment", "lora-treatment"]


def test_on_a_gpu_that_has_room_both_arms_start_together_too(files: Files, world: World) -> None:
    engines, _ = made(files, world, GPU)
    engines.get(GPU, "treatment")
    assert world.take() == ["spawn treatment", "spawn control", "wait treatment 60"]
    engines.get(GPU, "control")
    assert world.take() == ["wait control 60"]
    assert world.up == {"treatment", "control"}


def test_where_two_do_not_fit_one_ends_before_the_other_starts(files: Files, world: World) -> None:
    files.hardware = files.hardware.replace("memory_gib: 80", "memory_gib: 40")
    engines, _ = made(files, world, GPU)
    for arm, other in (("treatment", "control"), ("control", "treatment"), ("treatment", "control")):
        engines.get(GPU, arm)  # type: ignore[arg-type]
        assert world.up == {arm}
        done = world.take()
        assert done[-2:] == [f"spawn {arm}", f"wait {arm} 60"]
        assert done[:-2] in ([], [f"close {other}"])


def test_what_an_engine_says_is_an_event(engines: Engines, world: World) -> None:
    engines.get(CPU, "treatment")
    (event,) = world.events
    assert (event.arm.unit, event.arm.engine, event.arm.start_s) == (UNIT, "", 1.5)
    assert event.arm.config["arm"] == "treatment"
    assert event.provenance == {"vllm": {"version": "0"}, "checkpoints": {"tiny": "sha256:1"}}


def test_a_check_with_needs_has_engines_of_its_own_after_the_shared_ones_end(
    engines: Engines, world: World, checks: dict[str, CheckSpec]
) -> None:
    shared = engines.get(CPU, "treatment", checks["alone"])
    assert engines.get(CPU, "treatment", checks["spread"]) is shared
    assert engines.get(CPU, "treatment") is shared
    world.take()
    own = engines.get(CPU, "treatment", checks["lora"])
    assert world.take() == [
        *("ask treatment", "ask control", "close treatment", "close control"),
        *("spawn lora-treatment", "spawn lora-control", "wait lora-treatment 60"),
    ]
    assert own is not shared
    assert [(e.arm.unit, e.arm.engine) for e in world.events] == [(UNIT, ""), (UNIT, "lora")]


def test_an_engine_of_its_own_is_started_with_what_the_check_needs(
    engines: Engines, checks: dict[str, CheckSpec]
) -> None:
    shared = engines.get(CPU, "treatment", checks["spread"]).config
    assert ("enable_lora" in shared.llm, shared.adapters) == (False, None)
    for arm in ("treatment", "control"):
        own = engines.get(CPU, arm, checks["lora"]).config  # type: ignore[arg-type]
        assert own.llm["enable_lora"] is True
        assert own.adapters is not None
    small = engines.get(CPU, "treatment", checks["small"]).config
    assert (small.llm["block_size"], "enable_lora" in small.llm, small.adapters) == (16, False, None)


def test_neighbours_with_the_same_needs_share_their_engines(
    engines: Engines, world: World, checks: dict[str, CheckSpec]
) -> None:
    first = engines.get(CPU, "treatment", checks["lora"])
    control = engines.get(CPU, "control", checks["lora"])
    world.take()
    assert engines.get(CPU, "treatment", checks["lora_too"]) is first
    assert engines.get(CPU, "control", checks["lora_too"]) is control
    assert world.take() == []
    assert engines.get(CPU, "treatment", checks["small"]) is not first
    assert world.up == {"small-treatment", "small-control"}


def test_neighbours_share_their_engines_when_the_first_of_them_is_not_selected(
    engines: Engines, world: World, checks: dict[str, CheckSpec]
) -> None:
    engines.get(CPU, "treatment", checks["lora_too"])
    assert world.events[-1].arm.engine == "lora"


def test_another_unit_ends_the_engines_of_the_one_before(files: Files, world: World) -> None:
    compiled = replace(CPU, mode="compile")
    engines, _ = made(files, world, CPU, compiled)
    first = engines.get(CPU, "treatment")
    second = engines.get(compiled, "treatment")
    assert (first.pid, second is first) == (None, False)
    done = [line for line in world.take() if "wait" not in line]
    assert done[:6] == [
        *("spawn treatment", "spawn control"),
        *("ask treatment", "ask control", "close treatment", "close control"),
    ]
    assert (first.config.llm["enforce_eager"], second.config.llm["enforce_eager"]) == (True, False)


def test_a_suite_of_its_own_has_its_engines_for_itself(files: Files, world: World) -> None:
    other = files.root / "suites" / "other"
    other.mkdir(parents=True)
    (other / "suite.yaml").write_text(
        files.suite.replace("id: core", "id: other").replace("engine: shared", "engine: own")
    )
    alien = replace(CPU, suite="other")
    engines, _ = made(files, world, CPU, alien)
    assert engines.get(CPU, "treatment") is not engines.get(alien, "treatment")
    assert [event.arm.unit for event in world.events] == [UNIT, f"{UNIT}/other"]


def two_suites(files: Files, theirs: str) -> tuple[Cell, Cell]:
    """A second suite that shares its engines with the first; ``theirs`` is what its check "lora" needs."""
    other = files.root / "suites" / "other"
    other.mkdir(parents=True)
    (other / "suite.yaml").write_text(
        files.suite.replace("id: core", "id: other").replace("{enable_lora: true}", theirs)
    )
    return CPU, replace(CPU, suite="other")


def test_suites_that_share_their_engines_do(files: Files, world: World) -> None:
    ours, theirs = two_suites(files, "{enable_lora: true}")
    engines, _ = made(files, world, ours, theirs)
    assert engines.get(ours, "treatment") is engines.get(theirs, "treatment")


def test_checks_of_one_name_in_two_suites_have_each_their_own_engine(files: Files, world: World) -> None:
    ours, theirs = two_suites(files, "{block_size: 32}")
    engines, spec = made(files, world, ours, theirs)
    first = engines.get(ours, "treatment", spec.suites["core"].check("lora"))
    second = engines.get(theirs, "treatment", spec.suites["other"].check("lora"))
    assert second is not first
    assert second.config.llm["block_size"] == 32


def test_an_engine_that_does_not_start_is_never_started_again(engines: Engines, world: World) -> None:
    world.broken["treatment"] = EngineStartError("no memory")
    with pytest.raises(EngineStartError, match="no memory"):
        engines.get(CPU, "treatment")
    assert world.take()[-1] == "close treatment"
    assert world.events == []
    del world.broken["treatment"]
    for _ in range(2):
        with pytest.raises(EngineStartError, match="no memory"):
            engines.get(CPU, "treatment")
    assert world.take() == []
    assert engines.get(CPU, "control").config.arm == "control", "the other arm is another engine"
    assert world.take() == ["wait control 60"]


@pytest.mark.parametrize("arm", ["treatment", "control"])
def test_an_engine_that_failed_in_a_check_is_never_started_again(
    engines: Engines, world: World, checks: dict[str, CheckSpec], arm: ArmName
) -> None:
    client = engines.get(CPU, arm)
    engines.failed(client, EngineDied("killed by SIGKILL"))
    assert client.pid is None
    world.take()
    with pytest.raises(EngineError, match="an earlier check ended its engine: killed by SIGKILL"):
        engines.get(CPU, arm)
    # Neither by way of another check's engines and back ...
    engines.get(CPU, arm, checks["lora"])
    with pytest.raises(EngineError, match="an earlier check"):
        engines.get(CPU, arm, checks["spread"])
    # ... nor when the other arm starts, nor after all were closed.
    engines.get(CPU, "control" if arm == "treatment" else "treatment")
    engines.close()
    with pytest.raises(EngineError, match="an earlier check"):
        engines.get(CPU, arm)
    started = [line for line in world.take() if line.startswith("spawn")]
    assert f"spawn {arm}" not in started
    assert f"spawn lora-{arm}" in started


def test_engines_of_a_checks_own_that_failed_leave_the_shared_ones_alone(
    engines: Engines, world: World, checks: dict[str, CheckSpec]
) -> None:
    world.broken["lora-treatment"] = EngineStartError("no lora")
    for name in ("lora", "lora_too"):
        with pytest.raises(EngineStartError, match="no lora"):
            engines.get(CPU, "treatment", checks[name])
    assert engines.get(CPU, "treatment", checks["alone"]).pid is not None
    assert engines.get(CPU, "treatment", checks["small"]).pid is not None


def test_a_failure_of_an_engine_that_is_gone_changes_nothing(engines: Engines) -> None:
    client = engines.get(CPU, "treatment")
    engines.close()
    engines.failed(client, EngineDied("late"))
    assert engines.get(CPU, "treatment") is not client


def test_the_log_is_that_of_the_engine_that_failed_last(engines: Engines, world: World) -> None:
    assert engines.log() is None
    engines.failed(engines.get(CPU, "treatment"), EngineDied("x"))
    assert engines.log() == f"logs/{safe_name(UNIT)}-treatment.log"
    engines.failed(engines.get(CPU, "control"), EngineDied("x"))
    assert engines.log() == f"logs/{safe_name(UNIT)}-control.log"


def test_a_restart_ends_the_old_engine_and_starts_a_new_one(engines: Engines, world: World) -> None:
    old = engines.get(CPU, "treatment")
    control = engines.get(CPU, "control")
    world.take()
    new = engines.restart(CPU, "treatment")
    assert world.take() == [
        *("close treatment", "spawn treatment-restarted", "wait treatment-restarted 60"),
    ]
    assert (old.pid, new is old) == (None, False)
    assert new.config == old.config, "the same engine in another process"
    assert (new.log != old.log, control.pid is not None) == (True, True)
    assert [(e.arm.arm, e.arm.engine) for e in world.events] == [
        ("treatment", ""),
        ("control", ""),
        ("treatment", "restarted"),
    ]
    assert engines.get(CPU, "treatment") is new
    assert engines.get(CPU, "control") is control
    assert world.take() == []


def test_eager_engines_of_several_runs_share_caches(files: Files, world: World) -> None:
    shared = files.root / "selftest" / "shared"
    engines, _ = made(files, world, CPU, shared=str(shared))
    env = engines.get(CPU, "treatment").config.env
    assert env["TORCHINDUCTOR_CACHE_DIR"] == str(shared / "inductor")
    assert Path(env["VLLM_CACHE_ROOT"], "modelinfos").readlink() == shared / "modelinfos"


def test_compiled_cells_of_several_runs_do_not_share_compiled_code(files: Files, world: World) -> None:
    shared = files.root / "selftest" / "shared"
    compiled = replace(CPU, mode="compile")
    engines, _ = made(files, world, compiled, shared=str(shared))
    env = engines.get(compiled, "treatment").config.env
    assert not Path(env["TORCHINDUCTOR_CACHE_DIR"]).is_relative_to(shared)
    assert not Path(env["VLLM_CACHE_ROOT"]).is_relative_to(shared)


def test_a_restart_and_a_start_of_a_checks_own_import_vllm_by_themselves(files: Files, world: World) -> None:
    engines, _ = made(files, world, CPU, preload="/run/preload/s")
    engines.get(CPU, "treatment")
    engines.restart(CPU, "treatment")
    engines.close()
    engines.begin(CPU, "treatment", "cold", lambda config: config)
    engines.close()
    shared = Preload(Path("/run/preload/s"))
    assert {client.name: client.preload for client in world.clients} == {
        "treatment": shared,
        "control": shared,
        "treatment-restarted": None,
        "treatment-cold": None,
    }


def test_engines_may_have_the_caches_of_another_folder_and_what_its_run_shares(
    files: Files, world: World
) -> None:
    own, _ = made(files, world, CPU)
    other, _ = made(files, world, CPU, caches="/run/unit")
    mine, theirs = (engines.config(CPU, "treatment").env for engines in (own, other))
    name = safe_name(UNIT)
    assert theirs["VLLM_CACHE_ROOT"] == f"/run/unit/compile/{name}/treatment"
    assert theirs["TRITON_CACHE_DIR"] == "/run/shared/triton"
    assert mine["VLLM_CACHE_ROOT"].endswith(f"/compile/{name}/treatment")
    assert "/run/unit" not in "".join(mine.values())


def test_nothing_is_restarted_that_is_not_up(
    engines: Engines, world: World, checks: dict[str, CheckSpec]
) -> None:
    def refused(arm: ArmName = "treatment") -> None:
        world.take()
        with pytest.raises(RuntimeError, match=f"the {arm} engine of {UNIT} is not up"):
            engines.restart(CPU, arm)
        assert not [line for line in world.take() if line.startswith("spawn")]

    refused()
    engines.get(CPU, "treatment")
    engines.close()
    refused()
    engines.failed(engines.get(CPU, "treatment"), EngineDied("x"))
    refused()
    engines.get(CPU, "control", checks["lora"])
    refused("control")


def test_without_a_control_there_is_none_to_restart(files: Files, world: World) -> None:
    engines, _ = made(files, world, CPU, control=False)
    engines.get(CPU, "treatment")
    with pytest.raises(RuntimeError, match=r"the control engine of .* is not up"):
        engines.restart(CPU, "control")


def test_a_restart_that_fails_is_the_engines_failure(engines: Engines, world: World) -> None:
    engines.get(CPU, "treatment")
    world.broken["treatment-restarted"] = EngineStartError("not again")
    with pytest.raises(EngineStartError, match="not again"):
        engines.restart(CPU, "treatment")
    assert world.up == {"control"}
    assert engines.log() == f"logs/{safe_name(UNIT)}-treatment-restarted.log"
    world.take()
    with pytest.raises(EngineStartError, match="not again"):
        engines.get(CPU, "treatment")
    assert world.take() == []


def test_a_restarted_engine_that_fails_is_not_started_again(engines: Engines, world: World) -> None:
    engines.get(CPU, "treatment")
    engines.failed(engines.restart(CPU, "treatment"), EngineDied("x"))
    with pytest.raises(EngineError, match="an earlier check"):
        engines.get(CPU, "treatment")


def test_close_tells_all_before_it_waits_for_one(engines: Engines, world: World) -> None:
    engines.get(CPU, "treatment")
    world.take()
    engines.close()
    assert world.take() == ["ask treatment", "ask control", "close treatment", "close control"]
    assert world.up == set()
    engines.close()
    assert world.take() == []


def test_files_of_engines_do_not_meet(
    engines: Engines, world: World, checks: dict[str, CheckSpec], tmp_path: Path
) -> None:
    for check in ("alone", "lora", "small"):
        engines.get(CPU, "control", checks[check])
        engines.get(CPU, "treatment", checks[check])
    engines.get(CPU, "treatment", checks["alone"])
    engines.restart(CPU, "treatment")
    assert all(c.folder.parent == tmp_path / "work" for c in world.clients)
    assert all(c.log.parent == tmp_path / "run" / "logs" for c in world.clients)
    names = [c.name for c in world.clients]
    assert set(names) == {
        *("treatment", "control", "lora-treatment", "lora-control", "small-treatment", "small-control"),
        "treatment-restarted",
    }


def test_the_engine_holds_the_workload_of_all_suites_that_share_it(files: Files, world: World) -> None:
    ours, theirs = two_suites(files, "{enable_lora: true}")
    path = files.root / "suites" / "other" / "suite.yaml"
    path.write_text(
        path.read_text()
        .replace("prompts: 4", "prompts: 150")
        .replace("batch_sizes: [2]", "batch_sizes: [150]")
        .replace("longest_prompt: 20", "longest_prompt: 200")
    )
    engines, _ = made(files, world, ours, theirs)
    config = engines.get(ours, "treatment").config
    workload = engines.workload(theirs)
    assert (config.llm["max_num_seqs"], config.llm["max_model_len"]) == (
        workload.max_batch,
        workload.max_tokens,
    )
    assert workload.max_batch >= 150
    assert workload.max_tokens > engines.workload(ours).max_tokens


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("cpu/a b/x", "cpu_a_b_x"),
        ("../../etc", "_.._etc"),
        ("...", "_"),
        ("", "_"),
        ("é" * 3, "_"),
        ("a" * 999, f"{'a' * 183}-{hashlib.sha256(b'a' * 999).hexdigest()[:16]}"),
    ],
)
def test_a_name_is_one_harmless_component_of_a_path(text: str, name: str) -> None:
    assert safe_name(text) == name


def into(folder: str) -> Callable[[EngineConfig], EngineConfig]:
    return lambda config: replace(config, env={**config.env, "VLLM_CACHE_ROOT": folder})


def test_a_check_may_begin_engines_one_after_the_other(files: Files, world: World) -> None:
    engines, _ = made(files, world, CPU)
    folder = str(files.root / "cold")
    engines.begin(CPU, "treatment", "cold", into(folder))
    assert engines.room_for_two(CPU, "treatment")
    engines.begin(CPU, "control", "cold", into(folder))
    cold, start_s = engines.begun(CPU, "treatment")
    assert world.take() == ["spawn treatment-cold", "spawn control-cold", "wait treatment-cold 60"]
    assert (cold.config.env["VLLM_CACHE_ROOT"], start_s) == (folder, 1.5)
    assert (Path(folder) / "modelinfos").is_symlink()
    engines.begin(CPU, "treatment", "warm", into(folder))
    warm, _ = engines.begun(CPU, "treatment")
    assert world.take() == ["close treatment-cold", "spawn treatment-warm", "wait treatment-warm 60"]
    assert world.up == {"treatment-warm", "control-cold"}
    assert [event.arm.engine for event in world.events] == ["cold", "warm"]
    assert warm.effective["arm"] == "treatment"
    engines.end(CPU, "treatment")
    engines.end(CPU, "treatment")
    assert world.up == {"control-cold"}
    with pytest.raises(RuntimeError, match="was begun"):
        engines.begun(CPU, "treatment")
    engines.close()
    assert world.up == set()


def test_one_that_was_begun_and_failed_is_not_begun_again(files: Files, world: World) -> None:
    engines, _ = made(files, world, CPU)
    world.broken["treatment-cold"] = EngineStartError("no memory")
    engines.begin(CPU, "treatment", "cold", into(str(files.root / "c")))
    with pytest.raises(EngineStartError):
        engines.begun(CPU, "treatment")
    assert world.up == set()
    with pytest.raises(EngineStartError, match="no memory"):
        engines.begin(CPU, "treatment", "warm", into(str(files.root / "c")))
    assert engines.log() == "logs/cpu_tiny_CPU_ATTN_tp1-dp1_eager-treatment-cold.log"


def test_where_two_do_not_fit_the_other_arms_ends_first(files: Files, world: World) -> None:
    files.hardware = files.hardware.replace("memory_gib: 80", "memory_gib: 40")
    engines, _ = made(files, world, GPU)
    engines.begin(GPU, "treatment", "cold", into(str(files.root / "t")))
    assert not engines.room_for_two(GPU, "treatment")
    engines.begin(GPU, "control", "cold", into(str(files.root / "c")))
    assert world.up == {"control-cold"}


class Remote(Fake):
    """An ``EndpointClient`` without a server."""

    def __init__(self, config: EngineConfig, url: str, log: Path, environ: Any) -> None:
        super().__init__(config, log.with_name(f"eager-{url}"), log)


class Served(Fake):
    """A ``ServerClient`` without a server."""

    def spawn(self) -> None:
        super().spawn()
        self.world.done[-1] += " as a server"


def test_a_suites_interface_says_what_is_started(
    files: Files, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    files.suite = files.suite.replace("engine: shared\n", "engine: shared\ninterface: server\n").replace(
        "summary: Five., engine_args: {block_size: 16}", "summary: Five., interface: library"
    )
    monkeypatch.setattr(module, "ServerClient", Served)
    engines, spec = made(files, world, CPU)
    engines.get(CPU, "treatment")
    assert world.take()[:2] == ["spawn treatment as a server", "spawn control as a server"]
    engines.get(CPU, "treatment", spec.suites["core"].check("small"))
    assert [line for line in world.take() if line.startswith("spawn")] == [
        "spawn small-treatment",
        "spawn small-control",
    ]


def test_an_endpoint_is_not_started_and_its_controls_vllm_is_not_its_own(
    files: Files, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "EndpointClient", Remote)
    engines, _ = made(files, world, CPU, endpoint="http:h")
    engines.get(CPU, "treatment")
    engines.get(CPU, "control")
    assert world.take()[:2] == ["spawn http:h", "spawn control"]
    treatment, control = world.events
    assert treatment.provenance["vllm"] == {"version": "0"}
    assert control.provenance == {"control": {"vllm": {"version": "0"}}}


def test_both_arms_may_be_endpoints(files: Files, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "EndpointClient", Remote)
    engines, _ = made(files, world, CPU, endpoint="http:h", control_endpoint="http:c")
    engines.get(CPU, "control")
    assert world.take()[:2] == ["spawn http:c", "spawn http:h"]
