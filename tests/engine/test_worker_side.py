"""The worker's side runs where vLLM is and nothing of the harness's own; the site makes it visible there."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import bi_harness
from bi_harness.engine.site import make_site

WORKER_SIDE = [
    "bi_harness.engine.worker",
    "bi_harness.engine.offline",
    "bi_harness.engine.online",
    "bi_harness.engine.sampling",
    "bi_harness.engine.kernel_table",
    "bi_harness.engine.modules.audit",
    "bi_harness.engine.ops_probe",
    "bi_harness.engine.ops.attention",
    "bi_harness.engine.ops.measure",
    "bi_harness.engine.ops.setting",
    "bi_harness.engine.ops.table",
    "bi_harness.engine.step_limits",
    "bi_harness.engine.step_probe",
    "bi_harness.engine.watch.watcher",
    "bi_harness.engine.worker_extension",
    "bi_harness.engine.facts",
    "bi_harness.engine.effective",
    "bi_harness.engine.env_reads",
    "bi_harness.engine.forkserver",
    "bi_harness.engine.messages",
    "bi_harness.engine.preload_list",
    "bi_harness.engine.serve",
    "bi_harness.engine.protocol",
    "bi_harness.invariance",
    "bi_harness.invariance.plugin",
    "bi_harness.invariance.cpu",
    "bi_harness.invariance.rows",
    "bi_harness.invariance.faults.registry",
    "bi_harness.workload.adapters",
    "bi_harness.workload.checkpoint",
    "bi_harness.workload.digests",
    "bi_harness.workload.requests",
]

BLOCKED = """
import importlib.abc, sys
class Block(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        top = name.split(".")[0]
        if top not in sys.stdlib_module_names and top not in {"numpy", "bi_harness"}:
            raise ImportError(f"{name} is not of the standard library, numpy or bi_harness")
sys.meta_path.insert(0, Block())
"""


def python(code: str, site: Path) -> str:
    """Run ``code`` in a clean interpreter that sees ``site``, and numpy where this one has it."""
    import numpy

    path = [str(site), str(Path(numpy.__file__).parents[1])]
    env = {"PYTHONPATH": os.pathsep.join(path), "PATH": os.environ["PATH"]}
    done = subprocess.run(
        [sys.executable, "-c", code], env=env, capture_output=True, text=True, cwd=site.parent
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_site(tmp_path_factory.mktemp("clean") / "site")


@pytest.mark.parametrize("module", WORKER_SIDE)
def test_it_imports_the_standard_library_and_numpy_alone(module: str, site: Path) -> None:
    python(f"{BLOCKED}\nimport {module}", site)


def test_the_blocker_blocks(site: Path) -> None:
    code = f"{BLOCKED}\ntry:\n    import psutil\nexcept ImportError as e:\n    print(e)"
    assert "psutil is not of the standard library" in python(code, site)


def test_the_package_is_this_one(site: Path) -> None:
    said = python("import bi_harness; print(bi_harness.__file__, bi_harness.__version__)", site)
    assert Path(said.split()[0]).resolve() == Path(bi_harness.__file__).resolve()
    assert said.split()[1] == bi_harness.__version__


def test_vllm_would_find_the_plugin_and_this_version(site: Path) -> None:
    # -S and no other path: nothing but the site can be what is found.
    code = """
import json, importlib.metadata as m
(point,) = [p for p in m.entry_points(group="vllm.general_plugins") if p.name == "bi_harness"]
print(json.dumps([point.value, m.version("bi-harness"), callable(point.load())]))
"""
    env = {"PYTHONPATH": str(site)}
    done = subprocess.run(
        [sys.executable, "-S", "-c", code], env=env, capture_output=True, text=True, cwd="/"
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [
        "bi_harness.invariance.plugin:register",
        bi_harness.__version__,
        True,
    ]


def test_the_site_holds_nothing_else(site: Path) -> None:
    assert sorted(p.name for p in site.iterdir()) == [
        "bi_harness",
        f"bi_harness-{bi_harness.__version__}.dist-info",
    ]


def test_it_can_be_made_again(site: Path) -> None:
    assert make_site(site) == site
    python("import bi_harness", site)


def test_a_place_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OSError):
        make_site(tmp_path / "file" / "site")
