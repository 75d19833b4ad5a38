"""The plugin's entry point: silent unless it is asked, loud where it cannot do what it is asked."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from bi_harness.engine.step_probe import ranks_up

ROOT = Path(__file__).resolve().parents[2]

BLOCKED = """
import importlib.abc, sys
class Block(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"vllm", "torch"}:
            raise ImportError(f"{name} was asked for")
sys.meta_path.insert(0, Block())
"""


def register(before: str = "", path: Path | None = None, **env: str) -> subprocess.CompletedProcess[str]:
    """Call ``register()`` twice in a process of its own and print what is then active."""
    import numpy

    code = f"""
{before}
from bi_harness.invariance import cpu, plugin
plugin.register()
plugin.register()
print(sorted(m for m in sys.modules if m.split(".")[0] in ("vllm", "torch")), cpu.active())
"""
    paths = [*([str(path)] if path else []), str(ROOT), str(Path(numpy.__file__).parents[1])]
    return subprocess.run(
        [sys.executable, "-c", "import sys" + code],
        env={"PATH": os.environ["PATH"], "PYTHONPATH": os.pathsep.join(paths), **env},
        capture_output=True,
        text=True,
        cwd=path or "/",
    )


def fake_vllm(folder: Path, *, amx: bool = False, **files: str) -> Path:
    """A package ``vllm`` of empty modules, but for ``files`` (``a__b`` is ``vllm/a/b.py``); and a torch.

    Args:
        amx: whether that torch reports a CPU with AMX.
    """
    (folder / "torch.py").write_text(
        "def set_num_threads(n): pass\ndef get_num_threads(): return 2\n"
        f"class cpu:\n    _is_amx_tile_supported = staticmethod(lambda: {amx})\n"
    )
    usual = {
        "_custom_ops": "def cpu_attn_get_scheduler_metadata(**k): return k\n",
        "v1__attention__backends__cpu_attn": (
            "class CPUAttentionMetadataBuilder:\n    def build(self): pass\n"
        ),
        "v1__sample__rejection_sampler": "def expand_batch_to_tokens(x): pass\n",
        "model_executor__layers__linear": "class UnquantizedLinearMethod:\n    def apply(self): pass\n",
        "model_executor__layers__vocab_parallel_embedding": (
            "class UnquantizedEmbeddingMethod:\n    def apply(self): pass\n"
        ),
    }
    for name, text in {**usual, **files}.items():
        module = folder.joinpath("vllm", *name.split("__") if not name.startswith("_") else [name])
        module.parent.mkdir(parents=True, exist_ok=True)
        for parent in module.relative_to(folder).parents:
            if parent.parts:
                (folder / parent / "__init__.py").touch()
        module.with_suffix(".py").write_text(text)
    return folder


@pytest.mark.parametrize("value", [None, "", "0", "2", "true"])
def test_without_its_variables_it_does_nothing(value: str | None) -> None:
    env = {} if value is None else {"BI_HARNESS_CPU_INVARIANCE": value}
    done = register(BLOCKED, **env)
    assert (done.returncode, done.stdout.strip()) == (0, "[] ()"), done.stderr


def test_when_asked_it_says_what_it_patched_once(tmp_path: Path) -> None:
    done = register(path=fake_vllm(tmp_path), BI_HARNESS_CPU_INVARIANCE="1")
    assert done.returncode == 0, done.stderr
    for name in (
        "UnquantizedLinearMethod.apply",
        "UnquantizedEmbeddingMethod.apply",
        "enable_kv_split=False",
        "CPUAttentionMetadataBuilder.build",
    ):
        assert done.stdout.count(name) == 1


@pytest.mark.parametrize(
    ("amx", "rows"),
    [
        (False, "rows padded to a multiple of 16'"),
        (True, "rows padded to a multiple of 512; not compiled, 32 at a time'"),
    ],
)
def test_rows_are_padded_further_on_a_cpu_with_amx(tmp_path: Path, amx: bool, rows: str) -> None:
    done = register(path=fake_vllm(tmp_path, amx=amx), BI_HARNESS_CPU_INVARIANCE="1")
    assert done.stdout.count(rows) == 2, done.stderr


@pytest.mark.parametrize(
    "missing",
    [
        {"_custom_ops": ""},
        {"v1__attention__backends__cpu_attn": ""},
        {"v1__attention__backends__cpu_attn": "class CPUAttentionMetadataBuilder: pass\n"},
        {"v1__sample__rejection_sampler": ""},
        {"model_executor__layers__linear": ""},
        {"model_executor__layers__linear": "class UnquantizedLinearMethod: pass\n"},
        {"model_executor__layers__vocab_parallel_embedding": ""},
        {"model_executor__layers__vocab_parallel_embedding": "class UnquantizedEmbeddingMethod: pass\n"},
    ],
)
def test_a_vllm_without_what_it_patches_is_refused(tmp_path: Path, missing: dict[str, str]) -> None:
    """And refused again: a half-patched process must never count as one in the mode."""
    before = """
from bi_harness.invariance import cpu
try:
    cpu.enable()
except RuntimeError:
    assert cpu.active() == (), cpu.active()
else:
    raise SystemExit("it was not refused")
"""
    done = register(before, path=fake_vllm(tmp_path, **missing), BI_HARNESS_CPU_INVARIANCE="1")
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("RuntimeError: the CPU invariance plugin does not know this vLLM (")
    assert "it was written for 0.32" in last


def test_the_step_probe_refuses_a_vllm_without_its_scheduler(tmp_path: Path) -> None:
    done = register(path=fake_vllm(tmp_path), BI_HARNESS_STEP_LOG=str(tmp_path / "steps"))
    assert done.returncode == 1
    assert "ModuleNotFoundError" in done.stderr


def test_a_scheduler_that_was_made_shows_before_its_first_step(tmp_path: Path) -> None:
    scheduler = """
class Scheduler:
    def __init__(self, rank):
        self.vllm_config = self
        self.parallel_config = self
        self.data_parallel_rank = rank
    def schedule(self): pass
    def update_from_output(self, scheduled, output): pass
"""
    made = "import atexit\n" + "\n".join(
        f"atexit.register(lambda: __import__('vllm.v1.core.sched.scheduler', fromlist=['x']).Scheduler({n}))"
        for n in (0, 2)
    )
    steps = tmp_path / "steps"
    folder = fake_vllm(tmp_path, v1__core__sched__scheduler=scheduler)
    done = register(made, path=folder, BI_HARNESS_STEP_LOG=str(steps))
    assert done.returncode == 0, done.stderr
    assert [path.read_text() for path in steps.glob("steps-*")] == ["", ""]
    assert ranks_up(steps) == {0, 2}


def test_the_step_probe_wraps_the_scheduler_once(tmp_path: Path) -> None:
    scheduler = """
class Output:
    total_num_scheduled_tokens = 3
    num_scheduled_tokens = {"a": 3}
    scheduled_new_reqs = ()
class Config:
    class parallel_config:
        data_parallel_index, data_parallel_rank = 3, 0
class Scheduler:
    running = ()
    def __init__(self):
        self.vllm_config = Config
    def schedule(self, more=0):
        return Output()
    def update_from_output(self, scheduled, output):
        return output
"""
    folder = fake_vllm(tmp_path, v1__core__sched__scheduler=scheduler)
    after = """
import atexit
def run():
    from vllm.v1.core.sched.scheduler import Output, Scheduler
    scheduler = Scheduler()
    assert isinstance(scheduler.schedule(more=1), Output)
    assert scheduler.update_from_output(None, 7) == 7
atexit.register(run)
"""
    done = register(after, path=folder, BI_HARNESS_STEP_LOG=str(tmp_path / "steps"))
    assert done.returncode == 0, done.stderr
    (log,) = (tmp_path / "steps").glob("steps-*")
    assert log.name.startswith("steps-dp3-")
    assert log.read_text().splitlines() == [
        '{"tokens":{"a":3},"new":{},"cached":0,"adapters":0,"preempted":0}'
    ]
